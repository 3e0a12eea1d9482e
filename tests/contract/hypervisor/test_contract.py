"""What every hypervisor promises (hostmaster.world.Hypervisor), tried on the fake, the test driver and QEMU."""

import pytest
import pytest_twisted

from hostmaster.world import Domain, DomainRefused, DomainState
from tests.contract.hypervisor.worlds import World, until


async def the(world: World, uuid: str) -> Domain | None:
    found = [d for d in await world.hypervisor.domains() if d.uuid == uuid]
    assert len(found) <= 1
    return found[0] if found else None


@pytest_twisted.ensureDeferred
async def test_a_created_domain_runs_and_says_whose_it_is(world: World) -> None:
    spec = await world.spec()
    assert await the(world, spec.uuid) is None
    await world.hypervisor.create(spec)
    assert await the(world, spec.uuid) == Domain(spec.ours.slot, spec.uuid, DomainState.RUNNING, spec.ours)


@pytest_twisted.ensureDeferred
async def test_creating_the_same_domain_again_changes_nothing(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(spec)
    await world.hypervisor.pause(spec.uuid)
    await world.hypervisor.create(spec)
    domain = await the(world, spec.uuid)
    assert domain is not None
    assert domain.state is DomainState.PAUSED


@pytest_twisted.ensureDeferred
async def test_a_name_in_use_is_refused_and_its_owner_stays(world: World) -> None:
    first, second = await world.spec(generation=1), await world.spec(generation=2)
    await world.hypervisor.create(first)
    with pytest.raises(DomainRefused, match=first.ours.slot):
        await world.hypervisor.create(second)
    assert await the(world, first.uuid) is not None
    assert await the(world, second.uuid) is None


@pytest_twisted.ensureDeferred
async def test_after_destroy_the_domain_is_absent_and_destroy_may_be_repeated(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(spec)
    await world.hypervisor.destroy(spec.uuid)
    assert await the(world, spec.uuid) is None
    await world.hypervisor.destroy(spec.uuid)


@pytest_twisted.ensureDeferred
async def test_a_slot_is_free_for_the_next_generation_right_after_destroy(world: World) -> None:
    first, second = await world.spec(generation=1), await world.spec(generation=2)
    await world.hypervisor.create(first)
    await world.hypervisor.destroy(first.uuid)
    await world.hypervisor.create(second)
    domain = await the(world, second.uuid)
    assert domain is not None
    assert domain.ours == second.ours


@pytest_twisted.ensureDeferred
async def test_destroying_a_stopped_or_paused_domain_succeeds(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(spec)
    await world.hypervisor.pause(spec.uuid)
    await world.hypervisor.destroy(spec.uuid)
    assert await the(world, spec.uuid) is None


@pytest_twisted.ensureDeferred
async def test_pause_and_unpause_may_be_repeated(world: World) -> None:
    spec = await world.spec()
    await world.hypervisor.create(spec)
    for _ in range(2):
        await world.hypervisor.pause(spec.uuid)
        paused = await the(world, spec.uuid)
        assert paused is not None
        assert paused.state is DomainState.PAUSED
    for _ in range(2):
        await world.hypervisor.unpause(spec.uuid)
        running = await the(world, spec.uuid)
        assert running is not None
        assert running.state is DomainState.RUNNING


@pytest_twisted.ensureDeferred
async def test_what_does_not_exist_cannot_be_paused(world: World) -> None:
    spec = await world.spec()
    with pytest.raises(DomainRefused, match=spec.uuid):
        await world.hypervisor.pause(spec.uuid)
    with pytest.raises(DomainRefused, match=spec.uuid):
        await world.hypervisor.unpause(spec.uuid)


@pytest_twisted.ensureDeferred
async def test_somebody_elses_domain_is_listed_and_never_destroyed(world: World) -> None:
    uuid = await world.stranger()
    domain = await the(world, uuid)
    assert domain is not None
    assert domain.ours is None
    with pytest.raises(DomainRefused, match="not ours"):
        await world.hypervisor.destroy(uuid)
    assert await the(world, uuid) is not None


@pytest_twisted.ensureDeferred
async def test_a_domain_that_ends_behind_our_back_is_hinted_and_then_absent(world: World) -> None:
    hints: list[str] = []
    spec = await world.spec()
    world.hypervisor.watch(hints.append)
    await world.hypervisor.create(spec)
    await until(lambda: spec.uuid in hints)
    hints.clear()
    await world.end(spec.uuid)
    await until(lambda: spec.uuid in hints)
    assert await the(world, spec.uuid) is None
    await world.hypervisor.destroy(spec.uuid)
