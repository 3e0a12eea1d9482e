"""The administrator's pause: what he may ask, what follows, and above all when a VM does not go on, or must."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from hostmaster.administer import Administration
from hostmaster.rules.lifecycle import Deed, Facts, Step, Times, Vm, decide
from hostmaster.rules.standstill import Pause, Standstill, rest_s, silent_since
from hostmaster.rules.yielding import Limits, Refusal, find, note, pause, resume, row, told
from hostmaster.world import DomainState
from protocol.ids import Generation, Run, VmName
from protocol.messages import VmPhase
from tests.conftest import LoggedFailures
from tests.fakes.living import a_running_job, stands_still, with_long_jobs
from tests.fakes.site import CONFIG, Site
from tests.fakes.wire import Crash
from tests.unit.hostmaster.records import BOOT, RUN, a_vm
from wnod.crashpoint import watched

RUNNING, PAUSED = DomainState.RUNNING, DomainState.PAUSED
TIMES = Times()
LIMITS = Limits(90.0, TIMES)
NOW = 1000.0
STARTED = a_vm(phase=VmPhase.STARTED, bound=RUN.next(), boot_id=BOOT)
HELD = changed(STARTED, pause=Pause(NOW, NOW + 60, "root"))


def at(after: float, domain: DomainState | None = PAUSED, **more: Any) -> Facts:
    """So many seconds after the wish, in contact."""
    return replace(Facts(now=NOW + after, domain=domain, overlay=None, contact=NOW + after), **more)


# --- asked -----------------------------------------------------------------------------------------------


def asked(vm: Vm = STARTED, seconds: float | None = None, seen: DomainState = RUNNING, now: float = NOW) -> Any:
    return pause(vm, seconds, "root", seen, now, LIMITS)


def test_without_a_duration_a_pause_is_as_long_as_may_be() -> None:
    assert asked().pause == Pause(NOW, NOW + 90, "root")
    assert asked(seconds=20.0).pause == Pause(NOW, NOW + 20, "root")


@pytest.mark.parametrize("seconds", [0.0, -1.0, 90.1, float("nan"), float("inf")])
def test_a_duration_that_cannot_be_names_the_value_the_limit_and_its_field(seconds: float) -> None:
    text = asked(seconds=seconds).text
    for words in (f"{seconds:g} s", "at most 90 s", "times.pause_limit_s", "times.lrms_gives_up_s", "300 s"):
        assert words in text


@pytest.mark.parametrize("phase", [phase for phase in VmPhase if phase is not VmPhase.STARTED])
def test_only_a_vm_in_which_a_job_runs_is_paused(phase: VmPhase) -> None:
    assert f"is {phase}" in asked(a_vm(phase=phase)).text


def test_a_vm_that_stands_still_is_not_paused_again_whoever_did_it() -> None:
    assert "by root for 60 s more; wnod vm resume vm1" in asked(HELD).text
    assert "no contact with the LRMS" in asked(changed(STARTED, fenced=NOW)).text
    assert "virsh resume" in asked(seen=PAUSED).text


def test_a_vm_must_run_for_a_while_between_two_pauses() -> None:
    stood = changed(STARTED, stood=Standstill(NOW - 100, NOW - 10))
    assert "try again in 110 s" in asked(stood).text
    assert isinstance(asked(stood, now=NOW + 110), Vm)


def test_a_paused_vm_goes_on_at_once_when_asked() -> None:
    after = resume(HELD, "bob", PAUSED, NOW + 5)
    assert isinstance(after, Vm)
    assert decide(after, at(5), TIMES).deed is Deed.UNPAUSE
    assert resume(after, "eve", PAUSED, NOW + 6) == after


def test_what_cannot_be_let_go_on_is_refused_with_the_reason() -> None:
    for vm, seen, words in (
        (changed(STARTED, fenced=NOW), PAUSED, "cannot be let go on by hand"),
        (STARTED, PAUSED, "was not paused by wnod"),
        (STARTED, RUNNING, "is not paused: it is started"),
        (a_vm(phase=VmPhase.BOOTING), RUNNING, "it is booting"),
    ):
        refusal = resume(vm, "root", seen, NOW)
        assert isinstance(refusal, Refusal)
        assert words in refusal.text


def test_a_vm_is_found_by_its_name_and_by_its_job() -> None:
    task = a_vm(generation=Generation(2), vm=VmName("vm2"), asked=Run(cluster="c", job="13", task=3, restart=0))
    gone = a_vm(generation=Generation(3), vm=VmName("vm3"), phase=VmPhase.GONE)
    vms = (STARTED, task, gone)
    assert [find(name, vms) for name in ("vm1", "12", "vm1-g1")] == [STARTED] * 3
    assert [find(name, vms) for name in ("vm2", "13_3")] == [task] * 2
    for name in ("13", "vm3", "", "vm1\x1b[2J"):
        refusal = find(name, vms)
        assert isinstance(refusal, Refusal)
        assert refusal.unknown
        assert "VMs here: vm1, vm2" in refusal.text
        assert "\x1b" not in refusal.text


# --- decided ---------------------------------------------------------------------------------------------


def test_a_wish_is_on_record_before_the_vm_is_paused_and_holds_until_its_time() -> None:
    assert decide(HELD, at(0, RUNNING), TIMES).deed is Deed.PAUSE
    assert decide(HELD, at(1), TIMES) == Step(HELD, None, NOW + 60)
    assert decide(HELD, at(59.9, RUNNING), TIMES).deed is Deed.PAUSE, "somebody let it run"


def test_a_pause_ends_by_itself_and_the_end_is_on_record_once_the_vm_is_seen_to_run() -> None:
    assert decide(HELD, at(60), TIMES).deed is Deed.UNPAUSE
    step = decide(HELD, at(61, RUNNING), TIMES)
    assert (step.deed, step.vm.pause, step.vm.stood) == (None, None, Standstill(NOW, NOW + 61))


def test_a_clock_that_was_set_back_ends_a_pause() -> None:
    assert decide(HELD, at(-5), TIMES).deed is Deed.UNPAUSE


def test_a_vm_that_cannot_be_seen_is_looked_at_again() -> None:
    for after in (5.0, 65.0):
        assert decide(HELD, at(after, None), TIMES) == Step(HELD, None, NOW + after + 1)


def test_a_paused_vm_that_is_out_of_contact_is_fenced_and_does_not_go_on_at_its_time() -> None:
    vm = changed(HELD, pause=Pause(NOW, NOW + 95, "root"))
    step = decide(vm, at(92, contact=NOW + 1), TIMES)
    assert (step.vm.fenced, step.vm.pause, step.vm.stood) == (NOW + 1, None, Standstill(NOW, NOW + 92))
    assert decide(step.vm, at(96, contact=NOW + 1), TIMES).deed is None


def test_a_fence_soon_after_a_pause_counts_from_the_pause() -> None:
    """The LRMS may not have heard of the VM in between: 150 s of silence may be 235 s for it."""
    fenced = changed(STARTED, fenced=NOW + 85, stood=Standstill(NOW, NOW + 90))
    assert decide(fenced, at(149, contact=NOW + 149), TIMES).deed is Deed.UNPAUSE
    assert decide(fenced, at(151, contact=NOW + 151), TIMES).deed is None
    long_ago = changed(fenced, stood=Standstill(NOW - 300, NOW - 200))
    assert decide(long_ago, at(151, contact=NOW + 151), TIMES).deed is Deed.UNPAUSE


def test_a_released_vm_goes_also_while_it_is_paused() -> None:
    assert decide(changed(HELD, phase=VmPhase.DESTROYING), at(5), TIMES).deed is Deed.DESTROY


def test_a_paused_vm_that_dies_is_gone_as_any_other() -> None:
    assert decide(HELD, at(5, DomainState.ABSENT), TIMES).vm.phase is VmPhase.DESTROYING


@given(st.floats(0.1, 90), st.floats(0, 1000), st.sampled_from([RUNNING, PAUSED]), st.floats(0, 1000), st.booleans())
def test_no_wish_lets_a_fenced_vm_go_on(
    length: float, after: float, domain: DomainState, lost: float, fenced: bool
) -> None:
    """Whatever is asked for when: out of contact, nothing that the administrator does unpauses a VM."""
    vm = changed(STARTED, fenced=NOW) if fenced else changed(HELD, pause=Pause(NOW, NOW + length, "root"))
    let_go = resume(vm, "root", domain, NOW + after)
    vm = let_go if isinstance(let_go, Vm) else vm
    facts = at(after, domain, contact=NOW + after - lost)
    if lost >= TIMES.fence_pause_s or fenced:
        assert decide(vm, facts, TIMES).deed is not Deed.UNPAUSE or (fenced and facts.contact > NOW)


@given(st.floats(0.1, 90), st.lists(st.floats(0, 400), max_size=30), st.floats(0, 100))
def test_the_lrms_is_never_left_without_an_answer_for_three_of_its_questions(
    length: float, waits: list[float], phase: float
) -> None:
    """Any pauses that are granted, one after the other: of any two questions in a row one finds the VM running."""
    vm, now, stands = STARTED, NOW, []
    for wait in waits:
        now += wait
        after = pause(vm, length, "root", RUNNING, now, LIMITS)
        if isinstance(after, Vm) and after.pause is not None:
            now = after.pause.until
            stands.append((after.pause.at, now))
            vm = changed(vm, stood=Standstill(after.pause.at, now))
    questions = [NOW + phase + 100.0 * n for n in range(int((now - NOW) / 100) + 4)]
    silent = [any(start <= question < end for start, end in stands) for question in questions]
    assert not any(one and other for one, other in pairwise(silent))


def test_the_rest_between_two_pauses_is_bounded_where_nothing_is_fenced() -> None:
    assert (rest_s(300), rest_s(86400)) == (120.0, 400.0)
    assert silent_since(Standstill(0, 10), 129, 300) == 0
    assert silent_since(Standstill(0, 10), 130, 300) == 130


# --- said ------------------------------------------------------------------------------------------------


def test_the_story_says_who_for_how_long_and_why_it_ended() -> None:
    over = changed(HELD, pause=None, stood=Standstill(NOW, NOW + 60))
    early = changed(HELD, pause=Pause(NOW, NOW + 5, "root", "bob"))
    assert told(STARTED, HELD) == "paused by root for at most 60 s"
    assert told(HELD, over) == "goes on after 60.0 s: its time was up"
    assert told(early, over) == "goes on after 60.0 s: resumed by bob"
    assert told(HELD, changed(over, fenced=NOW)) == told(None, STARTED) == told(HELD, early) == ""


def test_a_list_of_vms_says_why_one_stands_still() -> None:
    assert note(HELD, PAUSED) == "paused by root"
    assert note(HELD, RUNNING) == "to be paused by root"
    assert note(changed(STARTED, fenced=NOW), PAUSED) == "paused: no contact with the LRMS"
    assert note(STARTED, PAUSED) == "paused by somebody else: wnod leaves it alone"
    assert note(STARTED, PAUSED, "is the disk full?") == "stopped: is the disk full?"
    assert note(STARTED, RUNNING) == note(changed(HELD, phase=VmPhase.DESTROYING), PAUSED) == ""
    assert row(HELD, PAUSED) == {"since": NOW, "until": NOW + 60, "by": "root", "seen": True}
    assert row(STARTED, PAUSED) is None


# --- the whole site --------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, logged_failures: LoggedFailures) -> Iterator[Site]:
    with with_long_jobs(tmp_path, logged_failures) as site:
        yield site


def ask(site: Site, act: str, **arguments: str) -> tuple[int, Any]:
    assert site.host is not None
    return Administration(site.host.keeper, CONFIG.times.longest_pause_s).acts()[act](arguments, "root")


def story(site: Site, job: str) -> list[str]:
    assert site.host is not None
    return [step.text for step in site.host.journal.read_history(job)]


def test_a_job_is_paused_and_goes_on_when_asked(site: Site) -> None:
    job = a_running_job(site)
    status, answer = ask(site, "pause", vm=job, **{"for": "60"})
    assert (status, answer["vm"], answer["until"]) == (200, "vm1", site.clock.seconds() + 60)
    site.until(lambda: stands_still(site), 2.0)
    site.run(20.0)
    assert stands_still(site)
    assert ask(site, "pause", vm="vm1")[0] == 409
    assert ask(site, "resume", vm="vm1")[0] == 200
    site.until(lambda: not stands_still(site), 2.0)
    site.run(1.0)
    assert site.running(job)
    assert story(site, job)[-2:] == [
        "vm1-g1 paused by root for at most 60 s",
        "vm1-g1 goes on after 20.0 s: resumed by root",
    ]


def test_a_pause_ends_at_its_limit(site: Site) -> None:
    a_running_job(site)
    began = site.clock.seconds()
    ask(site, "pause", vm="vm1")
    site.until(lambda: stands_still(site), 2.0)
    site.until(lambda: not stands_still(site), 100.0)
    assert 90.0 <= site.clock.seconds() - began <= 91.0


def test_what_is_asked_wrongly_is_answered(site: Site) -> None:
    a_running_job(site)
    assert ask(site, "pause", vm="vm9")[0] == ask(site, "resume")[0] == 404
    assert ask(site, "pause", vm="vm1", **{"for": "soon"}) == (
        400,
        {"error": "for: 'soon': expected a number of seconds"},
    )
    assert ask(site, "pause", vm="vm1", **{"for": "91"})[0] == ask(site, "resume", vm="vm1")[0] == 409


@pytest.mark.parametrize("away_s", [1.0, 120.0])
def test_a_hostmaster_that_is_killed_while_a_vm_is_paused_lets_it_go_on_in_its_next_life(
    site: Site, away_s: float
) -> None:
    job = a_running_job(site)
    began = site.clock.seconds()
    ask(site, "pause", vm=job)
    site.until(lambda: stands_still(site), 2.0)
    site.crash_host(away_s=away_s)
    site.until(lambda: not stands_still(site), 200.0)
    assert max(90.0, away_s) <= site.clock.seconds() - began <= max(90.0, away_s) + 5.0
    site.run(5.0)
    assert site.running(job)


@pytest.mark.parametrize(
    "point", [f"host.deed.{deed}.{when}" for deed in ("pause", "unpause") for when in ("before", "after")]
)
def test_a_hostmaster_that_dies_around_either_deed_ends_the_pause_in_time(site: Site, point: str) -> None:
    job = a_running_job(site)
    deaths: list[str] = []

    def die(name: str) -> None:
        if name == point and not deaths:
            deaths.append(name)
            site.clock.callLater(0, site._die, "host")
            site._stop("host")
            raise Crash(name)

    with watched(die):
        ask(site, "pause", vm=job)
        site.run(100.0)
    assert deaths == [point]
    assert not stands_still(site)
    assert story(site, job)[-1].endswith("its time was up")


def test_a_guest_that_stood_still_is_told_the_time_also_if_it_was_not_connected(site: Site) -> None:
    a_running_job(site)
    assert site.host is not None
    guests = site.host.guests
    heartbeat = next(
        call for call in site.clock.getDelayedCalls() if getattr(call.func, "__name__", "") == "_hello"
    ).getTime()
    site.until(lambda: site.clock.seconds() > heartbeat)
    ask(site, "pause", vm="vm1", **{"for": "5"})
    guests.channels["vm1-g1"] = False
    site.until(lambda: stands_still(site), 2.0)
    site.until(lambda: not stands_still(site), 7.0)
    site.run(0.5)
    assert guests.take("vm1-g1") == []
    (machine,) = site.guests.values()
    guests.says("vm1-g1", f"hello 1 {machine.boot_id} vm1".encode())
    times = [line for line in guests.take("vm1-g1") if line.startswith("time ")]
    assert [abs(float(line.split()[1]) - site.clock.seconds()) < 0.1 for line in times] == [True]


def test_a_guest_that_somebody_else_stopped_and_let_go_on_is_told_the_time(site: Site) -> None:
    """QEMU at a full disk, or an administrator with virsh: in the lab its clock was 55 s behind from then on."""
    a_running_job(site)
    assert site.host is not None
    ((uuid, domain),) = site.hypervisor.kept.items()
    for state in (PAUSED, RUNNING):
        site.run(20.0)
        site.host.guests.take("vm1-g1")
        domain.state = state
        site.hypervisor._hint(uuid)
        site.run(1.0)
    times = [line for line in site.host.guests.take("vm1-g1") if line.startswith("time ")]
    assert [abs(float(line.split()[1]) - site.clock.seconds()) < 1.1 for line in times] == [True]


def test_a_paused_job_on_a_host_that_is_cut_off_is_fenced(site: Site) -> None:
    a_running_job(site)
    site.lrms.away, site.controller = True, False
    site.run(60.0)
    assert ask(site, "pause", vm="vm1")[0] == 200
    site.run(100.0)
    assert stands_still(site)
    code, answer = ask(site, "resume", vm="vm1")
    assert (code, "cannot be let go on by hand" in answer["error"]) == (409, True)
    site.run(400.0)
    assert stands_still(site)
