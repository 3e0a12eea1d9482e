"""What a host offers: the catalogue, less what is not fit for use."""

from dataclasses import replace as replace_fields

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from hostmaster.environments import Environments
from hostmaster.rules.breaker import LIMIT
from hostmaster.world import ImageRefused
from protocol.ids import EnvironmentName, VmName
from tests.fakes.images import FakeImages, artifacts
from tests.unit.hostmaster.records import DEBIAN, ROOM, SHAPE
from wnod.config import Catalogue, Environment

ROCKY = EnvironmentName("rocky9")
ENTRY = Environment(image="/images/x", sha256="a" * 64, largest=SHAPE, default=SHAPE, overhead_mib=64)


def verified(images: FakeImages, obstacle: str = "") -> Environments:
    found = Environments(Catalogue(environments={DEBIAN: ENTRY, ROCKY: ENTRY}), images, ROOM, (VmName("vm1"),))
    done = Deferred.fromCoroutine(found.verify())
    assert done.called
    found.obstacle = obstacle
    return found


def test_nothing_is_offered_before_the_images_are_verified() -> None:
    found = Environments(Catalogue(environments={DEBIAN: ENTRY}), FakeImages(), ROOM, ())
    assert not found.host().offers[DEBIAN].available
    assert found.host().refusals[DEBIAN] == "images are being verified"


def test_a_refused_image_does_not_keep_the_others_from_being_offered() -> None:
    images = FakeImages({DEBIAN: artifacts(), ROCKY: artifacts()}, altered={ROCKY: "root: hash differs"})
    host = verified(images).host()
    assert (host.offers[DEBIAN].available, host.offers[ROCKY].available) == (True, False)
    assert host.offers[ROCKY].text == "root: hash differs"
    assert host.refusals == {ROCKY: "root: hash differs"}
    assert (host.overheads[DEBIAN], host.images[DEBIAN], host.slots) == (64, "a" * 64, ("vm1",))


def test_a_repaired_image_is_offered_again_and_an_altered_one_no_more() -> None:
    images = FakeImages({DEBIAN: artifacts(), ROCKY: artifacts()}, altered={ROCKY: "root: hash differs"})
    found = verified(images)
    images.altered = {DEBIAN: "kernel: missing"}
    Deferred.fromCoroutine(found.verify())
    assert found.host().refusals == {DEBIAN: "kernel: missing"}
    with pytest.raises(ImageRefused, match="kernel: missing"):
        found.usable(DEBIAN)
    assert found.usable(ROCKY) == artifacts()


def test_an_obstacle_keeps_everything_from_being_offered() -> None:
    host = verified(FakeImages({DEBIAN: artifacts(), ROCKY: artifacts()}), "no accelerator works").host()
    assert set(host.refusals.values()) == {"no accelerator works"}


def test_an_environment_out_of_the_catalogue_is_not_usable() -> None:
    with pytest.raises(ImageRefused, match="'windows' is not in the catalogue"):
        verified(FakeImages()).usable(EnvironmentName("windows"))


def test_an_image_that_a_reload_names_is_not_used_before_it_was_verified() -> None:
    """The old one's files were given to VMs on whose record the new one was."""
    images = FakeImages({DEBIAN: artifacts(), ROCKY: artifacts()})
    found = verified(images)
    found.host()
    found.catalogue = Catalogue(environments={DEBIAN: replace(ENTRY, sha256="b" * 64), ROCKY: ENTRY})
    assert found.host().refusals == {DEBIAN: "its image has not been verified yet"}
    with pytest.raises(ImageRefused, match="not been verified"):
        found.usable(DEBIAN)
    images.catalogue[DEBIAN] = artifacts("b" * 64)
    Deferred.fromCoroutine(found.verify())
    assert found.host().refusals == {}
    assert found.usable(DEBIAN).image == "b" * 64


def test_the_probe_is_made_with_the_same_environment_each_time() -> None:
    """One whose image was refused for a while came last when it was back: the host proved its accelerator anew."""
    images = FakeImages({DEBIAN: artifacts(), ROCKY: replace_fields(artifacts(), kernel="/rocky/kernel")})
    found = verified(images)
    first = found.some_artifacts()
    images.altered = {DEBIAN: "kernel: missing"}
    Deferred.fromCoroutine(found.verify())
    images.altered = {}
    Deferred.fromCoroutine(found.verify())
    assert found.some_artifacts() == first


def test_one_vm_that_comes_up_forgives_all_that_did_not() -> None:
    found = verified(FakeImages({DEBIAN: artifacts(), ROCKY: artifacts()}))
    for _ in range(LIMIT):
        found.failed(DEBIAN, "no hello")
    assert "no hello" in found.host().refusals[DEBIAN]
    found.came_up(DEBIAN)
    found.failed(DEBIAN, "no hello")
    assert found.host().refusals == {}
