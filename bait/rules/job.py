"""One job's way through a VM, decided: the lease on record, the LRMS and the host as seen, and the next deed.

Theory of operation. A `Lease` is what this bait intends for one *run* of one job (the run its starter caught,
restart r). The job leaves the bait only by the starter's exit (R3): told `park`, the starter exits with the
LRMS's own requeue-and-hold code, and the job comes back as run r+1, held. That run, and no other, is bound to
the VM; when the VM is a node of the LRMS, the job is sent there and released. From then on the LRMS owns
it. `decide` is run over the same facts again and again, also after a crash: nothing here remembers.

    REQUESTED -> PARKING -> PARKED -> RELEASED -> STARTED -> ENDED -> (forgotten)
    any of the first four -> RETURNING (back to the queue, to any bait) -> ENDED
    REQUESTED -> REFUSING (held for its user, told why) -> ENDED

Three rules make it safe. *A missing fact is not a fact*: `known` false means no deed on the job. *A restart
count that is not the expected one* means that somebody else (the LRMS, a user, an administrator, an older
self) moved the job: then this lease lets go of it (R6). *The VM is released last*, when the LRMS has no job on
it any more and its node is gone, so that a slot's next VM never meets its predecessor's node.
"""

from msgspec.structs import replace

from bait.lrms.base import OUR_NOTE, JobState, JobView
from bait.rules import note
from bait.rules.grace import left_s
from bait.rules.lease import Deed, Denial, Facts, Lease, Phase, Step, Times, VmView
from bait.rules.record import end, enter, failed, give_back, how_it_ended
from protocol.messages import VmPhase


def decide(lease: Lease, facts: Facts, times: Times) -> Step:
    """The next step of this lease."""
    if lease.phase is Phase.ENDED:
        return _ended(lease, facts, times)
    if not facts.known:
        return Step(lease, wake_s=times.poll_s)
    if facts.job is not None and facts.job.run.restart < lease.run.restart:
        # The LRMS has gone back in time (R15): nothing it says of this job can be trusted yet.
        return Step(lease, wake_s=times.poll_s)
    if facts.job is None or facts.job.state is JobState.ENDED:
        return Step(end(lease, facts, how_it_ended(facts.job)))
    match lease.phase:
        case Phase.REQUESTED:
            return _requested(lease, facts.job, facts, times)
        case Phase.PARKING:
            return _parking(lease, facts.job, facts, times)
        case Phase.PARKED:
            return _parked(lease, facts.job, facts, times)
        case Phase.RELEASED:
            return _released(lease, facts.job, facts, times)
        case Phase.STARTED:
            return _started(lease, facts.job, facts, times)
        case Phase.RETURNING:
            return _returning(lease, facts.job, facts, times)
        case Phase.REFUSING:
            return _refusing(lease, facts.job, facts, times)


def _soon_s(since: float | None, facts: Facts, times: Times) -> float:
    """When to look again for what began then. Slurm cleans up in a moment, or for minutes while it reaches no node."""
    hasty = since is None or facts.now < since + times.hasty_s
    return times.soon_s if hasty else times.poll_s


# --- at the bait: the starter waits, no user code has run -----------------------------------------------


def _here(lease: Lease, job: JobView, facts: Facts) -> bool:
    return job.run.restart == lease.run.restart and job.state is JobState.RUNNING and job.node == facts.bait


def _requested(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    if job.run.restart > lease.run.restart:
        return Step(end(lease, facts, "the job left the bait by itself"))
    if not (_here(lease, job, facts) and facts.hook):
        # The LRMS is starting or requeueing it, or the starter is gone: the restart count will tell.
        late = facts.now > lease.since + times.answer_s and not facts.hook
        return Step(give_back(lease, facts, "the starter is gone") if late else lease, wake_s=times.soon_s)
    if facts.denied is not None:
        return _denied(lease, facts.denied, facts)
    if facts.lost:
        return Step(failed(lease, facts, facts.lost, times))
    if facts.now > lease.since + times.answer_s:
        return Step(give_back(lease, facts, "the hostmaster did not answer in time", delay_s=5))
    if facts.vm is None or not facts.vm.bound:
        ask = Deed.ASK if facts.vm is None else Deed.BIND
        return Step(lease, ask if facts.linked and not facts.asking else None, times.poll_s)
    if not (job.requeue and lease.marked):
        return Step(lease, Deed.MAKE_REQUEUEABLE)
    # Only now is it written down which VM: until here the host remembers, and tells it at each connect.
    return Step(enter(_named(lease, facts.vm), Phase.PARKING, facts.now, "granted"), Deed.SAY_PARK)


def _named(lease: Lease, vm: VmView) -> Lease:
    return replace(lease, vm=vm.vm, generation=vm.generation)


def _denied(lease: Lease, denial: Denial, facts: Facts) -> Step:
    if denial.permanent:
        return Step(enter(replace(lease, text=denial.text), Phase.REFUSING, facts.now))
    delay = int(denial.retry_after_s or 5)
    return Step(give_back(lease, facts, denial.text, delay_s=delay))


# --- between bait and VM ----------------------------------------------------------------------------------


def _parking(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    if _here(lease, job, facts):
        if facts.hook and not (job.requeue and lease.lease in job.note):
            # The LRMS has forgotten that we wrote it (R15), and without it nobody else could give the job back (R12).
            return Step(lease, Deed.MAKE_REQUEUEABLE)
        return Step(lease, Deed.SAY_PARK if facts.hook else None, _soon_s(lease.since, facts, times))
    if job.state is JobState.LEAVING or job.run.restart == lease.run.restart:
        return Step(lease, wake_s=_soon_s(lease.since, facts, times))
    if job.run != lease.target or job.state is not JobState.PENDING:
        return Step(_moved(lease, facts))
    if not job.held:
        return Step(give_back(lease, facts, "the starter ran out of time"))
    return Step(enter(lease, Phase.PARKED, facts.now, "parked"))


def _parked(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    sent = lease.vm in job.required_nodes
    if job.run != lease.target or job.state is not JobState.PENDING:
        # Sent it was by this lease, which did not live to write that down: what became of it is judged as after that.
        there = sent or (job.run == lease.target and job.node == lease.vm)
        return Step(enter(lease, Phase.RELEASED, facts.now, "released") if there else _moved(lease, facts))
    if _sent_by_another(lease, job):
        return Step(end(lease, facts, "another bait has sent the job to its VM"))
    if not job.held:
        return Step(enter(lease, Phase.RELEASED, facts.now, "released") if sent else _taken_away(lease, facts))
    if not sent:
        lease = _with_its_home(lease, job)
    trouble = _vm_trouble(lease, facts, times)
    if trouble:
        return Step(failed(lease, facts, trouble, times))
    if facts.vm is not None and facts.vm.phase is VmPhase.STARTED:
        # A host that lost its journal takes up its VMs as started (reconcile.adoptable): nothing may start in it.
        return Step(give_back(lease, facts, f"the host no longer knows whether {lease.vm} was used"))
    if facts.vm is not None and facts.vm.phase in (VmPhase.READY, VmPhase.BOUND) and facts.vm.bound:
        return _ready(lease, facts, times)
    return Step(lease, Deed.TELL if not lease.told else None, times.poll_s)


def _with_its_home(lease: Lease, job: JobView) -> Lease:
    """What sending takes away, as it is now: somebody may have changed it, and of several partitions the LRMS shows a
    running job's alone. Once it has been sent its partition is the VMs', and it has no reservation."""
    was_sent = "released" in lease.stages
    partition = lease.partition if was_sent else job.partition
    reservation = lease.reservation if was_sent else job.reservation
    if (partition, reservation, job.required_nodes) == (lease.partition, lease.reservation, lease.required_nodes):
        return lease
    return replace(lease, partition=partition, reservation=reservation, required_nodes=job.required_nodes)


def _ready(lease: Lease, facts: Facts, times: Times) -> Step:
    if "ready" not in lease.stages:
        lease = replace(lease, stages={**lease.stages, "ready": facts.now})
    if "busy" in lease.stages and not facts.node_busy:  # also of a node that is ready: the job may come back to this
        lease = replace(lease, stages={name: at for name, at in lease.stages.items() if name != "busy"})
    if lease.refused_at is not None and facts.now > lease.refused_at + times.refused_s:
        return Step(give_back(lease, facts, "the job could not be sent to its VM: is it held?"))
    if facts.node_ready:
        return _in_time(lease, facts, times)
    if facts.now > lease.stages["ready"] + times.register_s:
        text = f"the VM {lease.vm} did not become a node in {times.register_s:.0f} s"
        return Step(failed(lease, facts, text, times))
    if facts.node_busy:
        return _stale_node(lease, facts, times)
    return Step(lease, wake_s=_soon_s(lease.stages["ready"], facts, times))


def _stale_node(lease: Lease, facts: Facts, times: Times) -> Step:
    """The LRMS has forgotten the end of a run in the slot's last VM (R15), and takes ours for the node that runs it."""
    if "busy" not in lease.stages:
        return Step(replace(lease, stages={**lease.stages, "busy": facts.now}))
    if facts.now <= lease.stages["busy"] + times.stale_s:
        return Step(lease, wake_s=times.poll_s)
    if not lease.failed_node:
        return Step(lease, Deed.FAIL_NODE)
    text = (
        f"the batch system shows another job on the node of its new VM {lease.vm}, though it was told that it is gone"
    )
    return Step(failed(lease, facts, text, times))


def _in_time(lease: Lease, facts: Facts, times: Times) -> Step:
    """Send it, unless the LRMS has come up so lately that it may have forgotten a run of this job elsewhere."""
    if times.restart_grace_s <= 0:
        return Step(lease, Deed.SEND)
    if facts.up_for_s is None:
        if facts.now > lease.stages["ready"] + times.register_s:
            text = (
                f"the batch system did not say in {times.register_s:.0f} s for how long it has been up, and no job is "
                "sent to its VM before that is known; it is tried again. If this comes again, ask your administrator: "
                "the bait's log says why there was no answer"
            )
            return Step(give_back(lease, facts, text, delay_s=int(times.retry_s)))
        return Step(lease, wake_s=times.poll_s)
    wait_s = left_s(facts.up_for_s, times.restart_grace_s)
    return Step(lease, Deed.SEND) if wait_s <= 0 else Step(lease, wake_s=min(wait_s, times.poll_s))


def _vm_trouble(lease: Lease, facts: Facts, times: Times) -> str:
    if facts.lost:
        return facts.lost
    if _is_gone(lease, facts):
        return "the host has lost the VM"
    if not facts.linked and facts.now > lease.since + times.silence_s:
        return "the hostmaster does not answer"
    return ""


def _released(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    if job.run.restart > lease.target.restart:
        if not facts.host_known and not facts.lost:
            return Step(lease, wake_s=times.poll_s)  # whether it has started, only the host can say
        if _has_started(facts) or facts.ended:
            return _came_back(lease, job, facts, times)
        return Step(give_back(lease, facts, f"the run ended before it started in {lease.vm}"))
    if job.run != lease.target:
        return Step(_moved(lease, facts))
    if _has_started(facts):
        return Step(enter(lease, Phase.STARTED, facts.now, "running"))
    if job.state is JobState.PENDING and lease.vm not in job.required_nodes:
        return Step(_taken_away(lease, facts))
    if job.state is JobState.PENDING and job.held:
        # Its user holds it, or the LRMS has forgotten the release (R15): sending it again finds out which.
        return Step(enter(lease, Phase.PARKED, facts.now))
    trouble = _vm_trouble(lease, facts, times) if facts.linked else ""
    if job.state is JobState.PENDING and not facts.node_ready and facts.now > lease.since + times.register_s:
        trouble = trouble or f"the node {lease.vm} went away before the job started"
    if job.state is JobState.PENDING and facts.now > lease.since + times.start_s:
        # Its user changed it such that it cannot start there, or a limit keeps it away: its VM is not kept for ever.
        trouble = trouble or f"the batch system did not start the job in {lease.vm}"
    if trouble and job.state is JobState.PENDING:
        return Step(failed(lease, facts, trouble, times))
    if trouble and not lease.failed_node:
        return Step(lease, Deed.FAIL_NODE)
    return Step(lease, wake_s=times.poll_s)


def _has_started(facts: Facts) -> bool:
    """True if the gate let the run start. A VM that the host adopted shows no boot id: there nobody knows."""
    vm = facts.vm
    return vm is not None and vm.phase is VmPhase.STARTED and vm.bound and vm.boot_id is not None


def _moved(lease: Lease, facts: Facts) -> Lease:
    return end(lease, facts, "somebody else moved the job")


def _taken_away(lease: Lease, facts: Facts) -> Lease:
    return give_back(lease, facts, "the job was released or changed by somebody else")


# --- in the VM --------------------------------------------------------------------------------------------


def _started(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    if job.run.restart > lease.target.restart:
        return _came_back(lease, job, facts, times)
    if job.state is JobState.PENDING:
        # The LRMS has forgotten that it started this run (R15), or its answer is an old one: then it refuses.
        return Step(give_back(lease, facts, f"the batch system has lost the run in {lease.vm}"))
    if job.state is JobState.RUNNING and job.requeue and not lease.requeue:
        return Step(lease, Deed.FORBID_REQUEUE)
    if _has_died_untold(lease, facts):
        return Step(lease, Deed.FAIL_NODE)
    if job.state is JobState.LEAVING:
        return Step(lease, wake_s=_soon_s(facts.leaving_since, facts, times))
    return Step(lease, wake_s=times.running_s if _would_be_told(facts) else times.poll_s)


def _would_be_told(facts: Facts) -> bool:
    """True if the host is there to pass on what the guest says of the run's end, and has nothing of the kind yet."""
    return facts.linked and facts.host_known and facts.vm is not None and not facts.ended


def _came_back(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    """The run that started is over, and the job is in the queue again."""
    if job.state is JobState.LEAVING and _has_died_untold(lease, facts):
        return Step(lease, Deed.FAIL_NODE)  # a dead node cannot say that nothing of the run is left
    if job.state is JobState.LEAVING:
        return Step(lease, wake_s=_soon_s(facts.leaving_since, facts, times))
    ours = lease.lease in job.note or not job.note.startswith(OUR_NOTE)  # else a newer lease has parked it
    if (job.held or job.gave_back) and (facts.ended or not facts.lost) and job.run == lease.target.next() and ours:
        return _exited_as_a_gate_does(lease, facts, times)
    return Step(give_back(lease, facts, f"the run in {lease.vm} was requeued"))


def _exited_as_a_gate_does(lease: Lease, facts: Facts, times: Times) -> Step:
    """Its program did, or the gate, which never heard that it may start. A guest tells of an end again and again."""
    if facts.ended:
        return Step(enter(replace(lease, text=_RESERVED), Phase.REFUSING, facts.now))
    if "back" not in lease.stages:
        return Step(replace(lease, stages={**lease.stages, "back": facts.now}))
    waited_s = facts.now - lease.stages["back"]
    if waited_s < (times.ended_s if facts.host_known else times.silence_s):
        return Step(lease, wake_s=times.poll_s)
    return Step(give_back(lease, facts, f"the VM {lease.vm} gave it back, and nobody has seen it start"))


_RESERVED = (
    "the job has run to its end and exited with a code that this site reserves (see docs/troubleshoot.md); "
    "cancel it, or release it to run it once more"
)


def _has_died_untold(lease: Lease, facts: Facts) -> bool:
    """True if the VM is no more, and the LRMS has not been told."""
    return bool(facts.lost or _is_gone(lease, facts)) and not lease.failed_node


def _is_gone(lease: Lease, facts: Facts) -> bool:
    """True if the host was asked, and has no VM of the lease's generation (R13: not asked is not gone)."""
    return facts.host_known and (facts.vm is None or facts.vm.generation != lease.generation)


# --- back to the queue, or held for the user ---------------------------------------------------------------


def _returning(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    if _here(lease, job, facts):
        return Step(lease, Deed.SAY_BACK if facts.hook else None, _soon_s(lease.since, facts, times))
    if job.state is JobState.LEAVING:
        return Step(lease, wake_s=_soon_s(facts.leaving_since, facts, times))
    if job.state is JobState.PENDING and _still_ours(lease, job):
        return Step(lease, Deed.GIVE_BACK)
    if job.state is JobState.RUNNING and (job.run.restart == lease.run.restart or job.node == lease.vm):
        # Still the same run, not seen to have left yet; or on its way in the VM it was sent to.
        return Step(lease, wake_s=times.poll_s)
    return Step(end(lease, facts, "the job went on elsewhere"))


def _still_ours(lease: Lease, job: JobView) -> bool:
    """False if another bait has the job: what that one did to it is not for this lease to undo."""
    if _sent_by_another(lease, job):
        return False
    return job.run.restart <= lease.target.restart or lease.vm in job.required_nodes or lease.lease in job.note


def _sent_by_another(lease: Lease, job: JobView) -> bool:
    """Of a run that the LRMS has forgotten (R15) and started again there may be two leases, at two baits."""
    last = note.read(job.note)
    return last is not None and last.lease != lease.lease and last.home.vm in job.required_nodes


def _refusing(lease: Lease, job: JobView, facts: Facts, times: Times) -> Step:
    if _here(lease, job, facts):
        if not (job.requeue and lease.marked and lease.lease in job.note):
            return Step(lease, Deed.MAKE_REQUEUEABLE)
        return Step(lease, Deed.SAY_PARK if facts.hook else None, _soon_s(lease.since, facts, times))
    if job.state is JobState.PENDING and job.run.restart > lease.run.restart:
        return Step(lease, Deed.REFUSE)
    if job.state is JobState.LEAVING or job.run.restart == lease.run.restart:
        return Step(lease, wake_s=_soon_s(lease.since, facts, times))
    return Step(end(lease, facts, "the job went on elsewhere"))


# --- the end ----------------------------------------------------------------------------------------------


def _ended(lease: Lease, facts: Facts, times: Times) -> Step:
    if lease.vm is None and facts.last is not None:
        return Step(_named(lease, facts.last))  # it ended before its job could leave for the VM, which may be a node
    if lease.vm is not None and not facts.known:
        return Step(lease, wake_s=times.poll_s)
    if facts.asking:
        return Step(lease, wake_s=times.poll_s)
    if facts.host_known and facts.vm is None and not facts.lost:
        # Before any look at nodes: the slot is free, and a node of its name may be the next lease's already.
        return Step(lease, Deed.FORGET)
    if facts.node:
        return Step(lease, Deed.REMOVE_NODE)
    # Also if the VM was lost: the host keeps its slot until it is told that nobody needs the name any more.
    return Step(lease, Deed.RELEASE_VM if facts.linked else None, times.poll_s)
