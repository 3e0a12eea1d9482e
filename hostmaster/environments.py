"""The environments this host offers: the catalogue, and what was found when their images were checked."""

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.logger import Logger

from hostmaster.rules.breaker import Breaker
from hostmaster.rules.capacity import Host
from hostmaster.world import Artifacts, ImageRefused, Images, ImageUnreadable
from protocol.ids import EnvironmentName, Room, VmName
from protocol.messages import Offer
from wnod.config import Catalogue


@dataclass
class Environments:
    """Which environments are fit for use. One whose image is refused does not keep the others from being offered."""

    catalogue: Catalogue
    images: Images
    total: Room
    slots: tuple[VmName, ...]
    artifacts: dict[EnvironmentName, Artifacts] = field(default_factory=dict)
    refusals: dict[EnvironmentName, str] = field(default_factory=dict)
    unsure: bool = False
    """Some image could not be read when last looked at: to be verified again soon."""
    obstacle: str = "images are being verified"
    """Why nothing can be offered at all (no working accelerator, not verified yet); empty if all is well."""
    now: Callable[[], float] = lambda: 0.0
    """Seconds since 1970."""
    breakers: dict[EnvironmentName, Breaker] = field(default_factory=dict)
    log: Logger = field(default_factory=lambda: Logger("hostmaster.environments"))
    _host: Host | None = None
    _found: object = None
    _described: Catalogue | None = None

    async def verify(self) -> None:
        """Check every image anew (cheap if its files have not changed). Never raises for a bad image."""
        unsure = False
        for name in self.catalogue.environments:
            try:
                self.artifacts[name] = await self.images.verify(name)
                self.refusals.pop(name, None)
            except ImageRefused as error:
                if self.refusals.get(name) != str(error):
                    self.log.error("environment {name} refused: {error}", name=name, error=error)
                self.refusals[name] = str(error)
                self.artifacts.pop(name, None)
                unsure |= isinstance(error, ImageUnreadable)
        self.unsure = unsure

    def some_artifacts(self) -> Artifacts | None:
        """The files of a verified image, for a probe: of the same environment each time, while that can be used."""
        return next((self.artifacts[name] for name in self.catalogue.environments if self._is_verified(name)), None)

    def came_up(self, name: EnvironmentName) -> None:
        """A VM of this environment was ready."""
        self.breakers.pop(name, None)

    def failed(self, name: EnvironmentName, why: str) -> None:
        """A VM of this environment never became ready: after some in a row it is not offered for a while."""
        self.breakers[name] = self.breakers.get(name, Breaker()).failed(why, self.now())

    def host(self) -> Host:
        """What the configuration and the images allow now. Asked every second: made anew only when that has changed."""
        breakers = self.breakers
        resting = tuple((name, breaker.obstacle(self.now())) for name, breaker in breakers.items()) if breakers else ()
        images = tuple((name, artifacts.image) for name, artifacts in self.artifacts.items())
        found = (images, tuple(self.refusals.items()), self.obstacle, resting, self.total, self.slots)
        if self._host is None or found != self._found or self.catalogue is not self._described:
            self._host, self._found, self._described = self._make(), found, self.catalogue
        return self._host

    def _make(self) -> Host:
        entries = self.catalogue.environments
        return Host(
            total=self.total,
            slots=self.slots,
            offers={name: self._offer(name) for name in entries},
            refusals={name: self._obstacle(name) for name in entries if self._obstacle(name)},
            images={name: entry.sha256 for name, entry in entries.items()},
            overheads={name: entry.overhead_mib for name, entry in entries.items()},
        )

    def _offer(self, name: EnvironmentName) -> Offer:
        entry = self.catalogue.environments[name]
        obstacle = self._obstacle(name)
        return Offer(
            environment=name,
            available=not obstacle,
            largest=entry.largest,
            usual=entry.default,
            text=obstacle[:1024],
            tags=entry.tags,
        )

    def _obstacle(self, name: EnvironmentName) -> str:
        if name in self.refusals:
            return self.refusals[name]
        if self.obstacle or not self._is_verified(name):
            return self.obstacle or "its image has not been verified yet"
        return self.breakers.get(name, Breaker()).obstacle(self.now())

    def _is_verified(self, name: EnvironmentName) -> bool:
        """False also after a reload that names another image, until that one has been verified."""
        artifacts, entry = self.artifacts.get(name), self.catalogue.environments.get(name)
        return artifacts is not None and (entry is None or artifacts.image == entry.sha256)

    def usable(self, name: EnvironmentName) -> Artifacts:
        """The files of an environment's verified image. Raises ImageRefused."""
        if not self._is_verified(name):
            known = name in self.catalogue.environments
            why = self._obstacle(name) if known else f"environment {name!r} is not in the catalogue"
            raise ImageRefused(why or f"environment {name!r}: its image has not been verified yet")
        return self.artifacts[name]
