"""What every hypervisor promises of saved VMs and of spares, tried on the fake, the test driver and QEMU."""

from dataclasses import replace

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from hostmaster.world import Domain, DomainRefused, DomainSpec, DomainState, HypervisorUnavailable, Ours
from protocol.ids import LeaseId
from tests.contract.hypervisor.worlds import FakeWorld, World


async def the(world: World, uuid: str) -> Domain | None:
    found = [d for d in await world.hypervisor.domains() if d.uuid == uuid]
    assert len(found) <= 1
    return found[0] if found else None


def spare(ours: Ours) -> Ours:
    return replace(ours, lease=LeaseId(""), bait="", owner=0, run="")


async def spare_spec(world: World) -> DomainSpec:
    spec = await world.spec()
    return replace(spec, ours=spare(spec.ours))


async def next_of(world: World, saved: DomainSpec) -> DomainSpec:
    """The slot's next VM: another generation, overlay, console and channel, and the saved one's UUID."""
    spec = await world.spec(generation=saved.ours.generation + 1)
    return replace(spec, uuid=saved.uuid, mac=saved.mac)


@pytest_twisted.ensureDeferred
async def test_a_saved_domain_is_absent_and_comes_back_as_another_generation(world: World) -> None:
    first = await spare_spec(world)
    await world.hypervisor.create(first)
    path = world.golden("a")
    await world.hypervisor.save(first.uuid, path)
    assert await the(world, first.uuid) is None
    second = await next_of(world, first)
    await world.hypervisor.restore(path, second)
    assert await the(world, first.uuid) == Domain(first.ours.slot, first.uuid, DomainState.RUNNING, second.ours)


@pytest_twisted.ensureDeferred
async def test_saving_and_restoring_again_change_nothing(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(spec)
    path = world.golden("a")
    for _ in range(2):
        await world.hypervisor.save(spec.uuid, path)
        assert await the(world, spec.uuid) is None
    again = await next_of(world, spec)
    await world.hypervisor.restore(path, again)
    await world.hypervisor.pause(again.uuid)
    await world.hypervisor.restore(path, again)
    domain = await the(world, again.uuid)
    assert domain is not None
    assert domain.state is DomainState.PAUSED


@pytest_twisted.ensureDeferred
async def test_one_file_is_restored_many_times(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(spec)
    path = world.golden("a")
    await world.hypervisor.save(spec.uuid, path)
    for _ in range(2):
        spec = await next_of(world, spec)
        await world.hypervisor.restore(path, spec)
        domain = await the(world, spec.uuid)
        assert domain is not None
        assert domain.ours == spec.ours
        await world.hypervisor.destroy(spec.uuid)


@pytest_twisted.ensureDeferred
async def test_a_domain_that_was_paused_when_it_was_saved_runs_when_it_is_restored(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(spec)
    await world.hypervisor.pause(spec.uuid)
    path = world.golden("a")
    await world.hypervisor.save(spec.uuid, path)
    await world.hypervisor.restore(path, spec)
    domain = await the(world, spec.uuid)
    assert domain is not None
    assert domain.state is DomainState.RUNNING


@pytest_twisted.ensureDeferred
async def test_what_does_not_exist_cannot_be_saved_and_what_another_saved_is_not_its(world: World) -> None:
    first, second = await world.spec("vm1", 1), await world.spec("vm2", 2)
    await world.hypervisor.create(first)
    path = world.golden("a")
    await world.hypervisor.save(first.uuid, path)
    with pytest.raises(DomainRefused, match=second.uuid):
        await world.hypervisor.save(second.uuid, path)
    with pytest.raises(DomainRefused, match=second.uuid):
        await world.hypervisor.save(second.uuid, world.golden("b"))
    await world.hypervisor.restore(path, first)


@pytest_twisted.ensureDeferred
async def test_somebody_elses_domain_is_never_saved_nor_named_anew(world: World) -> None:
    uuid, ours = await world.stranger(), (await world.spec()).ours
    with pytest.raises(DomainRefused, match="not ours"):
        await world.hypervisor.save(uuid, world.golden("a"))
    with pytest.raises(DomainRefused, match="not ours"):
        await world.hypervisor.relabel(uuid, ours)
    domain = await the(world, uuid)
    assert domain is not None
    assert domain.ours is None


@pytest_twisted.ensureDeferred
async def test_a_restore_that_cannot_be_is_refused_and_leaves_nothing(world: World) -> None:
    first = await world.spec()
    with pytest.raises(DomainRefused):
        await world.hypervisor.restore(world.golden("none"), first)
    await world.hypervisor.create(first)
    path = world.golden("a")
    await world.hypervisor.save(first.uuid, path)
    with pytest.raises(DomainRefused, match="saved was"):
        await world.hypervisor.restore(path, await world.spec(generation=2))  # a UUID of its own
    other = await world.spec("vm1", 3)
    await world.hypervisor.create(other)
    with pytest.raises(DomainRefused, match="vm1"):
        await world.hypervisor.restore(path, first)  # the slot is taken
    assert [d.uuid for d in await world.hypervisor.domains() if d.name == "vm1"] == [other.uuid]


@pytest_twisted.ensureDeferred
async def test_a_spare_becomes_a_leases_while_it_is_paused_and_listings_say_so_at_once(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(replace(spec, ours=spare(spec.ours)))
    await world.hypervisor.pause(spec.uuid)
    before = await the(world, spec.uuid)
    assert before is not None
    assert before.ours is not None
    assert before.ours.is_spare
    for _ in range(2):
        await world.hypervisor.relabel(spec.uuid, spec.ours)
        assert await the(world, spec.uuid) == replace(before, ours=spec.ours)
    await world.hypervisor.unpause(spec.uuid)
    with pytest.raises(DomainRefused, match="no domain"):
        await world.hypervisor.relabel((await world.spec("vm2")).uuid, spec.ours)


@pytest_twisted.ensureDeferred
async def test_a_label_given_while_another_looks_is_not_forgotten(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(replace(spec, ours=spare(spec.ours)))
    listing = Deferred.fromCoroutine(world.hypervisor.domains())
    await world.hypervisor.relabel(spec.uuid, spec.ours)
    await listing
    domain = await the(world, spec.uuid)
    assert domain is not None
    assert domain.ours == spec.ours


@pytest_twisted.ensureDeferred
async def test_what_a_hypervisor_is_stays_the_same(world: World) -> None:
    first = await world.hypervisor.identity()
    assert first
    assert await world.hypervisor.identity() == first


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_to_a_save_is_found_by_asking_again() -> None:
    world = FakeWorld()
    spec = await world.spec()
    await world.hypervisor.create(spec)
    world.hypervisor.lose_answers = 1
    with pytest.raises(HypervisorUnavailable):
        await world.hypervisor.save(spec.uuid, world.golden("a"))
    await world.hypervisor.save(spec.uuid, world.golden("a"))
    await world.hypervisor.restore(world.golden("a"), spec)
