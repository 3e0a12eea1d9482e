"""What a bait may rely on, whatever the LRMS: the same suite over the fake and over real Slurm."""

import pytest
import pytest_twisted

from bait.lrms.base import NO_REQUEUE, OUR_NOTE, Home, JobState, LrmsRefused, LrmsUnavailable, NodeState
from protocol.ids import Run, Shape
from tests.contract.lrms.slurm_world import SlurmWorld
from tests.contract.lrms.worlds import BAIT, VM, World, intercepted, node, parked, seen, until

HOME = Home(partition="batch", requeue=True, vm=VM)
OWN = Home(partition="batch", requeue=True, required_nodes=(BAIT,), vm=VM)
SHAPE = Shape(cpus=1, memory_mib=1024, disk_mib=64)
NOTE = "wnod:0123456789abcdef:1795150725"


@pytest_twisted.ensureDeferred
async def test_an_unknown_job_is_absent_and_hides_no_other(world: World) -> None:
    job = world.submit()
    assert set(await world.lrms.jobs([job, "999999", "999999_3"])) == {job}
    assert await world.lrms.jobs(["999999"]) == {}
    assert await world.lrms.jobs([]) == {}


@pytest_twisted.ensureDeferred
async def test_what_a_job_asks_for_can_be_read(world: World) -> None:
    run = await intercepted(world, cpus=2, memory_mib=1025, time_limit_s=5400, wishes="debian12", account="physics")
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.cpus, view.memory_mib, view.time_limit_s, view.wishes) == (2, 1025, 5400, "debian12")
    assert (view.user, view.account, view.partition, view.nodes, view.batch) == ("alice", "physics", "batch", 1, True)
    assert (view.requeue, view.required_nodes, view.note, view.held) == (True, (), "", False)
    assert (run.restart, run.task) == (0, None)


@pytest_twisted.ensureDeferred
async def test_parking_holds_the_next_run_of_the_same_job(world: World) -> None:
    run = await intercepted(world)
    await world.exits(run.job, 199)
    view = await seen(world, run.job, state=JobState.PENDING)
    assert (view.run, view.held, view.node) == (run.next(), True, None)
    await world.later(2.5)
    assert (await world.lrms.jobs([run.job]))[run.job] == view


@pytest_twisted.ensureDeferred
async def test_handing_back_is_a_requeue_without_a_hold(world: World) -> None:
    run = await intercepted(world)
    await world.exits(run.job, 198)
    view = await seen(world, run.job, state=JobState.PENDING)
    assert (view.run, view.held) == (run.next(), False)


@pytest_twisted.ensureDeferred
async def test_a_parked_job_moves_to_its_vm_and_ends_there(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.send(run, VM, SHAPE, NOTE)
    view = await seen(world, run.job, state=JobState.RUNNING)
    assert (view.run, view.node, view.note, view.required_nodes) == (run, VM, NOTE, (VM,))
    await world.lrms.send(run, VM, SHAPE, NOTE)  # the answer to the first may have been lost
    assert (await world.lrms.jobs([run.job]))[run.job].run == run
    await world.exits(run.job, 3)
    view = await seen(world, run.job, state=JobState.ENDED)
    assert (view.run, view.exit_code, view.signal) == (run, 3, 0)


@pytest_twisted.ensureDeferred
async def test_a_job_sent_before_it_was_released_is_sent_once(world: World) -> None:
    world.start_vm()
    run = await parked(world, requeue=True)
    for _ in range(3):
        await world.lrms.send(run, VM, SHAPE, NOTE)
    assert (await seen(world, run.job, state=JobState.RUNNING)).run == run


@pytest_twisted.ensureDeferred
async def test_another_run_of_the_job_is_left_alone(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    before = (await world.lrms.jobs([run.job]))[run.job]
    for other in (
        Run(cluster=run.cluster, job=run.job, restart=0),
        run.next(),
        Run(cluster="x", job=run.job, restart=1),
    ):
        with pytest.raises(LrmsRefused):
            await world.lrms.send(other, VM, SHAPE, NOTE)
        with pytest.raises(LrmsRefused):
            await world.lrms.give_back(other, HOME, "")
        with pytest.raises(LrmsRefused):
            await world.lrms.refuse(other, HOME, "no")
        await world.lrms.tell(other, "no")
    assert (await world.lrms.jobs([run.job]))[run.job] == before


@pytest_twisted.ensureDeferred
async def test_a_job_cannot_be_sent_to_a_node_that_is_not_there(world: World) -> None:
    run = await parked(world)
    with pytest.raises(LrmsRefused):
        await world.lrms.send(run, VM, SHAPE, NOTE)
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.held, view.run) == (True, run)


@pytest_twisted.ensureDeferred
async def test_giving_back_undoes_everything(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.close_node(VM, "not yet")
    await world.lrms.send(run, VM, SHAPE, NOTE)
    for _ in range(2):
        await world.lrms.give_back(run, HOME, "", delay_s=3600)
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.partition, view.required_nodes, view.held, view.note, view.run) == ("batch", (), False, "", run)
    await world.later(2.5)
    assert (await world.lrms.jobs([run.job]))[run.job].state is JobState.PENDING  # the delay counts


@pytest_twisted.ensureDeferred
async def test_a_job_with_a_reservation_of_the_bait_starts_in_its_vm_and_has_it_again_when_it_comes_back(
    world: World,
) -> None:
    world.reserve("course")
    world.start_vm()
    run = await parked(world, reservation="course", requeue=True)
    assert (await world.lrms.jobs([run.job]))[run.job].reservation == "course"
    await world.lrms.close_node(VM, "not yet")
    await world.lrms.send(run, VM, SHAPE, NOTE)
    await world.lrms.give_back(run, Home("batch", True, vm=VM, reservation="course"), "", delay_s=3600)
    assert (await world.lrms.jobs([run.job]))[run.job].reservation == "course"
    await world.lrms.open_node(VM)
    await world.lrms.send(run, VM, SHAPE, NOTE)
    view = await seen(world, run.job, state=JobState.RUNNING, node=VM)
    assert (view.run, view.reservation) == (run, "")


@pytest_twisted.ensureDeferred
async def test_a_job_given_back_comes_to_a_bait_again(world: World) -> None:
    run = await parked(world)
    await world.lrms.give_back(run, HOME, "")
    view = await seen(world, run.job, state=JobState.RUNNING)
    assert (view.node, view.run) == (BAIT, run)


@pytest_twisted.ensureDeferred
async def test_the_users_own_hold_stays(world: World) -> None:
    run = await intercepted(world)
    await world.exits(run.job, 198)
    await seen(world, run.job, state=JobState.PENDING, run=run.next())
    world.hold(run.job)
    await world.lrms.give_back(run.next(), HOME, "")
    assert (await world.lrms.jobs([run.job]))[run.job].held
    with pytest.raises(LrmsRefused):
        await world.lrms.send(run.next(), BAIT, SHAPE, NOTE)


@pytest_twisted.ensureDeferred
async def test_the_users_hold_of_a_parked_job_stays_until_he_releases_it(world: World) -> None:
    run = await intercepted(world)
    await world.lrms.make_requeueable(run, "wnod:lease=0123:home=batch:requeue=1")
    await world.exits(run.job, 199)
    run = (await seen(world, run.job, state=JobState.PENDING, held=True)).run
    world.hold(run.job)
    with pytest.raises(LrmsRefused):
        await world.lrms.send(run, BAIT, SHAPE, NOTE)
    await world.lrms.give_back(run, HOME, "")
    assert (await world.lrms.jobs([run.job]))[run.job].held
    world.release(run.job)
    assert not (await world.lrms.jobs([run.job]))[run.job].held


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("home", [Home("batch", requeue=True), HOME, OWN], ids=["no VM", "a VM", "known"])
@pytest.mark.parametrize("code", [198, 199])
async def test_a_job_that_was_never_sent_keeps_its_own_required_nodes(world: World, code: int, home: Home) -> None:
    run = await intercepted(world, required_nodes=(BAIT,))
    await world.exits(run.job, code)
    run = (await seen(world, run.job, state=JobState.PENDING, run=run.next())).run
    await world.lrms.give_back(run, home, "", delay_s=3600)
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.required_nodes, view.partition, view.held) == ((BAIT,), "batch", False)
    await world.lrms.refuse(run, home, "no such environment")
    assert (await world.lrms.jobs([run.job]))[run.job].required_nodes == (BAIT,)


@pytest_twisted.ensureDeferred
async def test_a_job_that_was_sent_gets_its_own_required_nodes_back(world: World) -> None:
    world.start_vm()
    run = await parked(world, required_nodes=(BAIT,))
    await world.lrms.close_node(VM, "not yet")
    await world.lrms.send(run, VM, SHAPE, NOTE)
    assert (await world.lrms.jobs([run.job]))[run.job].required_nodes == (VM,)
    for _ in range(2):
        await world.lrms.give_back(run, OWN, "", delay_s=3600)
        view = (await world.lrms.jobs([run.job]))[run.job]
        assert (view.required_nodes, view.partition, view.held) == ((BAIT,), "batch", False)


@pytest_twisted.ensureDeferred
async def test_a_refused_job_has_its_own_required_nodes(world: World) -> None:
    world.start_vm()
    run = await parked(world, required_nodes=(BAIT,))
    await world.lrms.close_node(VM, "not yet")
    await world.lrms.send(run, VM, SHAPE, NOTE)
    for _ in range(2):
        await world.lrms.refuse(run, OWN, "a reserved code")
        view = (await world.lrms.jobs([run.job]))[run.job]
        assert (view.required_nodes, view.partition, view.held) == ((BAIT,), "batch", True)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("theirs", [(BAIT,), ()])
async def test_required_nodes_that_somebody_chose_for_a_sent_job_stay(world: World, theirs: tuple[str, ...]) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.close_node(VM, "not yet")
    await world.lrms.send(run, VM, SHAPE, NOTE)
    world.require(run.job, ",".join(theirs))
    home = HOME if theirs else OWN
    for _ in range(2):
        await world.lrms.give_back(run, home, "", delay_s=3600)
        view = (await world.lrms.jobs([run.job]))[run.job]
        assert (view.required_nodes, view.partition) == (theirs, "batch")


@pytest_twisted.ensureDeferred
async def test_a_job_whose_own_nodes_are_gone_is_given_back_without_them(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.close_node(VM, "not yet")
    await world.lrms.send(run, VM, SHAPE, NOTE)
    gone = Home("batch", requeue=True, required_nodes=("gone-1",), vm=VM)
    await world.lrms.give_back(run, gone, "wnod: given back: full", delay_s=3600)
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.required_nodes, view.partition, view.held) == ((), "batch", False)
    assert view.note.startswith("wnod: given back: full")
    assert "gone-1" in view.note


@pytest_twisted.ensureDeferred
async def test_a_long_note_is_kept_whole(world: World) -> None:
    run = await parked(world)
    note = f"{OUR_NOTE}0123456789abcdef:nodes={'n[1-3,7],m2,' * 160}:until=1795150725"
    await world.lrms.make_requeueable(run, note)
    assert (await world.lrms.jobs([run.job]))[run.job].note == note


@pytest_twisted.ensureDeferred
async def test_a_refused_job_waits_for_its_user_who_can_release_it(world: World) -> None:
    run = await parked(world, comment="my own words")
    await world.lrms.refuse(run, HOME, "no environment retired6: choose debian12")
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.held, view.partition, view.required_nodes) == (True, "batch", ())
    assert "choose debian12" in world.told(run.job)
    assert "my own words" in world.told(run.job)
    world.release(run.job)
    assert (await seen(world, run.job, held=False)).run == run


@pytest_twisted.ensureDeferred
async def test_a_waiting_job_can_be_refused_too(world: World) -> None:
    run = await intercepted(world)
    await world.exits(run.job, 198)
    view = await seen(world, run.job, state=JobState.PENDING, run=run.next())
    await world.lrms.refuse(view.run, HOME, "too big")
    assert (await world.lrms.jobs([run.job]))[run.job].held
    world.release(run.job)
    assert not (await seen(world, run.job, held=False)).held


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("code", [198, 199])
async def test_a_refused_job_can_be_given_back(world: World, code: int) -> None:
    run = await intercepted(world)
    await world.exits(run.job, code)
    run = (await seen(world, run.job, state=JobState.PENDING, run=run.next())).run
    await world.lrms.refuse(run, HOME, "no such environment")
    await world.lrms.give_back(run, HOME, "", delay_s=3600)
    assert not (await world.lrms.jobs([run.job]))[run.job].held


@pytest_twisted.ensureDeferred
async def test_a_user_reads_why_his_job_waits(world: World) -> None:
    run = await intercepted(world, comment="my own words")
    await world.lrms.tell(run, "VM boots")
    assert "VM boots" in world.told(run.job)
    await world.lrms.tell(run, "VM ready")
    told = world.told(run.job)
    assert "VM ready" in told
    assert "VM boots" not in told
    assert "my own words" in told
    await world.lrms.tell(Run(cluster=run.cluster, job="999999", restart=0), "nobody")


@pytest_twisted.ensureDeferred
async def test_a_user_reads_why_his_job_came_back_until_he_is_told_something_else(world: World) -> None:
    run = await intercepted(world, comment="my own words")
    await world.exits(run.job, 198)
    run = (await seen(world, run.job, state=JobState.PENDING, run=run.next())).run
    for told in ("back in the queue: full", ""):
        await world.lrms.give_back(run, HOME, "wnod: given back: full", 3600, told)
        assert "back in the queue: full" in world.told(run.job)
    assert "my own words" in world.told(run.job)


@pytest_twisted.ensureDeferred
async def test_a_job_that_must_not_be_requeued_can_be_parked_and_keeps_its_wish(world: World) -> None:
    world.start_vm()
    run = await intercepted(world, requeue=False)
    assert not (await world.lrms.jobs([run.job]))[run.job].requeue
    for _ in range(2):
        await world.lrms.make_requeueable(run, NOTE)
    seen_now = (await world.lrms.jobs([run.job]))[run.job]
    assert (seen_now.requeue, seen_now.note) == (True, NOTE)
    await world.exits(run.job, 199)
    run = (await seen(world, run.job, held=True)).run
    await world.lrms.send(run, VM, SHAPE, NOTE)
    assert (await seen(world, run.job, state=JobState.RUNNING)).requeue  # a node that fails now must not end it
    for _ in range(2):
        await world.lrms.forbid_requeue(run)
    assert not (await world.lrms.jobs([run.job]))[run.job].requeue


@pytest_twisted.ensureDeferred
async def test_a_job_that_is_given_back_stays_requeueable_at_home_and_nowhere_else(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.make_requeueable(run, NOTE)
    await world.lrms.give_back(run, Home("batch", requeue=False), f"{NO_REQUEUE}: given back: full", delay_s=3600)
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.requeue, view.note) == (True, f"{NO_REQUEUE}: given back: full")
    await world.lrms.give_back(run, Home("elsewhere", requeue=False), "", delay_s=3600)  # somebody has moved it here
    assert not (await world.lrms.jobs([run.job]))[run.job].requeue


@pytest_twisted.ensureDeferred
async def test_jobs_that_may_need_a_rescue_are_found_without_their_ids(world: World) -> None:
    world.start_vm()
    run = await intercepted(world)
    world.submit()
    await world.lrms.make_requeueable(run, NOTE)
    assert run.job not in await world.lrms.waiting()
    await world.exits(run.job, 199)
    run = (await seen(world, run.job, held=True)).run
    assert {key: (job.run, job.note) for key, job in (await world.lrms.waiting()).items()} == {run.job: (run, NOTE)}
    world.stop_vm()
    await world.lrms.send(run, VM, SHAPE, NOTE)
    view = (await world.lrms.jobs([run.job]))[run.job]
    if view.state is JobState.PENDING:  # unless it has started before the VM was seen to be gone
        assert (await world.lrms.waiting())[run.job].required_nodes == (VM,)


@pytest_twisted.ensureDeferred
async def test_a_sent_job_that_somebody_has_moved_is_found_and_given_back_where_it_was_moved(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.close_node(VM, "not yet")
    await world.lrms.send(run, VM, SHAPE, f"{OUR_NOTE}0123456789abcdef:home=elsewhere")
    world.move(run.job, "batch")
    found = (await world.lrms.waiting())[run.job]
    assert (found.partition, found.required_nodes) == ("batch", (VM,))
    await world.lrms.give_back(run, Home("elsewhere", requeue=True, vm=VM), "", delay_s=3600)
    view = (await world.lrms.jobs([run.job]))[run.job]
    assert (view.partition, view.required_nodes, view.held) == ("batch", (), False)
    assert run.job not in await world.lrms.waiting()


@pytest_twisted.ensureDeferred
async def test_array_tasks_are_jobs_of_their_own(world: World) -> None:
    world.start_vm()
    array = world.submit(tasks=(3, 4, 5))
    tasks = [f"{array}_{task}" for task in (3, 4, 5)]
    for task in tasks:
        await seen(world, task, state=JobState.RUNNING)
        await world.exits(task, 199)
        await seen(world, task, held=True)
    run = (await world.lrms.jobs([tasks[2]]))[tasks[2]].run  # Slurm's raw id of the last task is the array's
    assert (run.job, run.task, run.restart) == (array, 5, 1)
    await world.lrms.send(run, VM, SHAPE, NOTE)
    assert (await seen(world, tasks[2], state=JobState.RUNNING)).node == VM
    others = await world.lrms.jobs(tasks[:2])
    assert [(view.held, view.partition, view.note) for view in others.values()] == [(True, "batch", "")] * 2
    await world.lrms.give_back(others[tasks[0]].run, HOME, "", delay_s=3600)
    assert [view.held for view in (await world.lrms.jobs(tasks[:2])).values()].count(True) == 1


@pytest_twisted.ensureDeferred
async def test_a_cancelled_job_has_ended(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    world.cancel(run.job)
    view = await seen(world, run.job, state=JobState.ENDED)
    assert view.word == "CANCELLED"
    with pytest.raises(LrmsRefused):
        await world.lrms.send(run, VM, SHAPE, NOTE)


@pytest_twisted.ensureDeferred
async def test_a_closed_bait_takes_no_jobs_until_it_is_opened(world: World) -> None:
    for _ in range(2):
        await world.lrms.close_node(BAIT, "no room for 1 cpu, 512 MiB")
    closed = await node(world, BAIT)
    assert closed.state is NodeState.CLOSED_BY_US
    assert closed.reason == "wnod: no room for 1 cpu, 512 MiB"
    job = world.submit()
    await world.later(2.5)
    assert (await world.lrms.jobs([job]))[job].state is JobState.PENDING
    for _ in range(2):
        await world.lrms.open_node(BAIT)
    await seen(world, job, state=JobState.RUNNING)
    assert (await node(world, BAIT)).state is NodeState.BUSY


@pytest_twisted.ensureDeferred
async def test_a_closed_bait_is_occupied_until_its_last_job_has_left(world: World) -> None:
    job = world.submit()
    await seen(world, job, state=JobState.RUNNING)
    await world.lrms.close_node(BAIT, "the daemon stops")
    closed = await node(world, BAIT)
    assert (closed.state, closed.occupied) == (NodeState.CLOSED_BY_US, True)
    await world.exits(job, 199)
    await seen(world, job, held=True)
    for _ in range(100):
        if not (await node(world, BAIT)).occupied:
            return
        await world.later(0.2)
    raise AssertionError("still occupied")


@pytest_twisted.ensureDeferred
async def test_an_opened_bait_takes_jobs_at_once(world: World) -> None:
    """Slurm asks a node before it uses it again, for seconds, unless it is told that it is idle."""
    for _ in range(3):
        await world.lrms.close_node(BAIT, "no room")
        await world.lrms.open_node(BAIT)
        assert (await node(world, BAIT)).state is NodeState.READY


@pytest_twisted.ensureDeferred
async def test_a_node_a_human_closed_is_never_touched(world: World) -> None:
    world.drain(BAIT, "disk replaced on Monday")
    await world.lrms.close_node(BAIT, "no room")
    await world.lrms.open_node(BAIT)
    closed = await node(world, BAIT)
    assert (closed.state, closed.reason) == (NodeState.CLOSED_BY_OTHERS, "disk replaced on Monday")
    world.undrain(BAIT)
    assert (await node(world, BAIT)).state is NodeState.READY


@pytest_twisted.ensureDeferred
async def test_a_vms_node_is_removed_and_removing_it_again_is_no_error(world: World) -> None:
    world.start_vm()
    assert (await node(world, VM)).state is NodeState.READY
    world.stop_vm()
    for _ in range(2):
        await world.lrms.remove_node(VM)
        assert await world.lrms.node(VM) is None
    world.start_vm()  # the slot's name is used again
    assert (await node(world, VM)).state is NodeState.READY


@pytest_twisted.ensureDeferred
async def test_dead_nodes_are_those_of_vms_that_cannot_be_reached(world: World) -> None:
    world.start_vm()
    assert await world.lrms.dead_nodes() == ()
    world.stop_vm()
    await world.lrms.fail_node(VM, "wnod: the VM died")

    async def seen_dead() -> bool:
        return await world.lrms.dead_nodes() == (VM,)

    await until(world, seen_dead)
    await world.lrms.remove_node(VM)
    assert await world.lrms.dead_nodes() == ()


@pytest_twisted.ensureDeferred
async def test_a_node_with_a_job_and_a_bait_are_not_removed(world: World) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.send(run, VM, SHAPE, NOTE)
    await seen(world, run.job, state=JobState.RUNNING)
    for name in (VM, BAIT):
        with pytest.raises(LrmsRefused):
            await world.lrms.remove_node(name)
        assert await node(world, name)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("requeue", [True, False])
async def test_a_dead_vms_job_is_seen_to_at_once(world: World, requeue: bool) -> None:
    world.start_vm()
    run = await parked(world)
    await world.lrms.send(run, VM, SHAPE, f"{OUR_NOTE}0123:until=1795150725")
    await seen(world, run.job, state=JobState.RUNNING)
    if not requeue:
        await world.lrms.forbid_requeue(run)
    world.stop_vm()
    for _ in range(2):
        await world.lrms.fail_node(VM, "its VM is gone")
    view = await seen(world, run.job, state=JobState.PENDING if requeue else JobState.ENDED)
    assert view.run == (run.next() if requeue else run)
    if not requeue:
        assert view.word == "NODE_FAIL"
    else:  # a slurmctld that starts would end a job that waits for a node it does not know
        with pytest.raises(LrmsRefused):
            await world.lrms.remove_node(VM)
        await world.lrms.give_back(view.run, HOME, "")
    await world.lrms.remove_node(VM)
    await world.lrms.fail_node(VM, "long gone")
    with pytest.raises(LrmsRefused):
        await world.lrms.fail_node(BAIT, "not ours to kill")


@pytest_twisted.ensureDeferred
async def test_no_answer_is_not_an_answer(world: World) -> None:
    run = await parked(world)
    world.away()
    with pytest.raises(LrmsUnavailable):
        await world.lrms.jobs([run.job])
    with pytest.raises(LrmsUnavailable):
        await world.lrms.node(BAIT)
    with pytest.raises(LrmsUnavailable):
        await world.lrms.give_back(run, HOME, "")
    world.back()

    async def answers() -> bool:
        try:
            return (await world.lrms.jobs([run.job]))[run.job].held
        except LrmsUnavailable:
            return False

    await until(world, answers)


@pytest_twisted.ensureDeferred
async def test_it_says_for_how_long_it_has_been_up(world: World) -> None:
    before, asked = await world.lrms.up_for_s(), world.now()
    await world.later(3)
    passed = world.now() - asked
    assert await world.lrms.up_for_s() - before == pytest.approx(passed, abs=2.0)
    began = world.now()
    world.restart()
    age: list[float] = []

    async def answers() -> bool:
        try:
            age[:] = [await world.lrms.up_for_s()]
        except LrmsUnavailable:
            return False
        return (await node(world, BAIT)).state is NodeState.READY

    await until(world, answers)
    assert -1.0 <= age[0] <= world.now() - began + 2.0
    world.away()
    with pytest.raises(LrmsUnavailable):
        await world.lrms.up_for_s()


EVIL = "x=\"'\n1|2|3\x1f\x1e\tJobId=9 Features=vwn </name>`id` $(id) é \\n --"


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_slurm_users_texts_are_only_texts(slurm_world: SlurmWorld) -> None:
    run = await parked(slurm_world, comment=EVIL, name=EVIL, account=EVIL)
    other = slurm_world.submit()
    found = await slurm_world.lrms.jobs([run.job, other])
    assert set(found) == {run.job, other}
    assert found[run.job].account == EVIL.lower()
    await slurm_world.lrms.refuse(run, HOME, EVIL)
    assert "Features=(null)" in slurm_world.told(run.job)
    assert (await slurm_world.lrms.jobs([run.job]))[run.job].held
