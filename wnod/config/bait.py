"""The bait's configuration: one node of the LRMS that attracts jobs."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from protocol.ids import BaitNameField, EnvironmentField, HostNameField, Shape
from wnod.config.mistakes import Complaint
from wnod.config.words import AbsolutePath, Address, ConfigStruct, LrmsWord, RuntimePath, Seconds, TlsFiles

_MATCHERS = ("partition", "account", "user")
_GIVEN = ("environment", "cpus", "memory_mib", "disk_mib")


class PeerHost(ConfigStruct, frozen=True):
    """The hostmaster this bait asks for VMs; `name` must be the one in its certificate."""

    name: HostNameField
    address: Address


class Lrms(ConfigStruct, frozen=True):
    """The batch system this bait is a node of."""

    cluster: LrmsWord
    kind: Literal["slurm"] = "slurm"
    vm_partition: LrmsWord = "vwn"
    commands: AbsolutePath | None = None
    """Directory of the LRMS's commands; None: they are found on the PATH."""
    poll_s: Seconds = 1.0
    running_s: Annotated[float, Meta(ge=0.1, le=15, description="seconds")] = 6.0
    """How often the LRMS is asked about a job that runs in its VM, if that is less often than `poll_s`."""
    timeout_s: Seconds = 10.0
    restart_grace_s: Annotated[float, Meta(ge=0, le=600, description="seconds")] = 45.0
    """How long after its start no job is sent to a VM that was caught since. 0: no such pause."""


class Rule(ConfigStruct, frozen=True):
    """What jobs get that do not say. Rules are read in order; for each field the first rule that matches wins."""

    partition: LrmsWord | None = None
    account: LrmsWord | None = None
    user: LrmsWord | None = None
    environment: EnvironmentField | None = None
    cpus: Annotated[int, Meta(ge=1, le=4096)] | None = None
    memory_mib: Annotated[int, Meta(ge=64, le=2**26)] | None = None
    disk_mib: Annotated[int, Meta(ge=16, le=2**31)] | None = None

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        if all(name in fields and fields[name] is None for name in _GIVEN):
            yield Complaint((), "expected a rule that gives something", f"add one of: {', '.join(_GIVEN)}")


class Hook(ConfigStruct, frozen=True):
    """Where the job starter asks. `limit_s`: a job with no answer by then is handed back."""

    socket: RuntimePath = ""
    """Empty in the file means RUNTIME/hook.sock; load_bait fills it in."""
    limit_s: Seconds = 15.0


class Gate(ConfigStruct, frozen=True):
    """When the bait closes for want of room and opens again. None: the smallest shape that any environment allows."""

    close_below: Shape | None = None
    open_above: Shape | None = None
    hold_s: Annotated[float, Meta(ge=0, le=86_400, description="seconds")] = 5.0

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        close, open_ = fields.get("close_below"), fields.get("open_above")
        for name in ("cpus", "memory_mib", "disk_mib") if close is not None and open_ is not None else ():
            if getattr(open_, name) < getattr(close, name):
                limit = getattr(close, name)
                yield Complaint(
                    ("open_above", name), f"expected at least {limit}", f"that is close_below.{name}: else it flutters"
                )


class Retry(ConfigStruct, frozen=True):
    """How long a job stays away after its VM failed: `delay_s`, doubled with each failure, at most `longest_s`."""

    delay_s: Annotated[int, Meta(ge=1, le=86_400, description="whole seconds")] = 15
    longest_s: Annotated[int, Meta(ge=1, le=86_400, description="whole seconds")] = 600


class NodeLrms(ConfigStruct, frozen=True):
    """Of `Lrms`, what it takes to close a node."""

    kind: Literal["slurm"] = "slurm"
    commands: AbsolutePath | None = None


class BaitNode(ConfigStruct, frozen=True):
    """Of `BaitConfig`, what it takes to close the bait's node when its daemon is gone.

    The directories only tell whether it is: a wrong one, which may be why the daemon is gone, is no reason against it.
    """

    bait: BaitNameField
    lrms: NodeLrms = NodeLrms()
    state: str = "/var/lib/wnod/bait"
    runtime: str = "/run/wnod/bait"


class BaitConfig(ConfigStruct, frozen=True):
    """Everything a bait has to be told."""

    bait: BaitNameField
    """The name of its node in the LRMS."""
    hostmaster: PeerHost
    tls: TlsFiles
    lrms: Lrms
    state: AbsolutePath = "/var/lib/wnod/bait"
    runtime: RuntimePath = "/run/wnod/bait"
    defaults: tuple[Rule, ...] = ()
    hook: Hook = Hook()
    gate: Gate = Gate()
    retry: Retry = Retry()
    metrics: Address | None = "127.0.0.1:9612"

    @staticmethod
    def complaints(fields: Mapping[str, Any]) -> Iterator[Complaint]:
        """What is wrong between fields."""
        if fields.get("state") is not None and fields.get("state") == fields.get("runtime"):
            yield Complaint(("runtime",), "expected another directory than state", "the default is /run/wnod/bait")
