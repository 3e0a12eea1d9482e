"""Self-fencing (R9, ADR 0008): what pauses a VM with a job, what lets it go on, and above all what does not."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from hostmaster.contact import ASKED_S, LOOK_EVERY_S, Contact, tcp
from hostmaster.rules.lifecycle import GAVE_UP_S, Deed, Facts, Step, Times, decide
from hostmaster.rules.reconcile import adoptable
from hostmaster.world import DomainState
from protocol.messages import VmPhase
from tests.conftest import LoggedFailures
from tests.fakes.living import a_running_job, stands_still, with_long_jobs
from tests.fakes.site import Site
from tests.unit.hostmaster.records import BOOT, RUN, a_domain, a_vm, lease_id
from wnod.journal import Journal

TIMES = Times()
STARTED = a_vm(phase=VmPhase.STARTED, bound=RUN.next(), boot_id=BOOT)
LOST = 1000.0
"""When the LRMS was last heard."""


def at(after: float, domain: DomainState | None = DomainState.RUNNING, **changes: Any) -> Facts:
    """So many seconds after the last contact."""
    return replace(Facts(now=LOST + after, domain=domain, overlay=None, contact=LOST), **changes)


def fenced(facts: Facts) -> Step:
    return decide(a_vm(phase=VmPhase.STARTED, bound=RUN.next(), boot_id=BOOT, fenced=LOST), facts, TIMES)


# --- decided ---------------------------------------------------------------------------------------------


def test_a_silence_is_recorded_before_the_vm_is_paused() -> None:
    assert decide(STARTED, at(89.9), TIMES) == Step(STARTED, wake_at=LOST + 90)
    step = decide(STARTED, at(90.0), TIMES)
    assert (step.vm.fenced, step.deed) == (LOST, None)
    assert decide(step.vm, at(90.0), TIMES).deed is Deed.PAUSE


def test_a_vm_is_not_destroyed_for_want_of_contact() -> None:
    step = fenced(at(1e7, DomainState.PAUSED))
    assert (step.vm.phase, step.deed) == (VmPhase.STARTED, None)


def test_a_vm_that_cannot_be_seen_is_looked_at_again() -> None:
    assert decide(STARTED, at(95.0, None), TIMES) == Step(STARTED, wake_at=LOST + 96)


def test_contact_that_is_back_soon_lets_the_vm_go_on_at_once() -> None:
    back = at(149.0, DomainState.PAUSED, contact=LOST + 149)
    assert fenced(back).deed is Deed.UNPAUSE
    assert fenced(replace(back, domain=DomainState.RUNNING)).vm.fenced is None


@pytest.mark.parametrize("after", [150.0, 299.0, 300.0 + GAVE_UP_S - 1])
def test_a_vm_stays_paused_while_the_lrms_may_be_about_to_start_the_run_elsewhere(after: float) -> None:
    now = LOST + after
    step = fenced(at(after, DomainState.PAUSED, contact=now, word=now))
    assert step.deed is None
    assert step.wake_at is not None


def test_after_that_the_baits_fresh_word_lets_it_go_on_and_nothing_else_does() -> None:
    now = LOST + 300 + GAVE_UP_S
    back = at(300 + GAVE_UP_S, DomainState.PAUSED, contact=now)
    assert fenced(back).deed is None
    assert fenced(replace(back, word=now - 5)).deed is None
    assert fenced(replace(back, word=now)).deed is Deed.UNPAUSE


def test_a_vm_that_was_found_paused_goes_on_late_and_at_the_baits_word_only() -> None:
    paused = a_domain(STARTED, DomainState.PAUSED, run=msgspec.json.encode(RUN).decode())
    (found,) = adoptable([paused], {}, "h1", LOST)
    soon, late = at(20.0, DomainState.PAUSED), at(300 + GAVE_UP_S, DomainState.PAUSED)
    assert decide(found, replace(soon, contact=soon.now, word=soon.now), TIMES).deed is None
    assert decide(found, replace(late, contact=late.now, word=late.now), TIMES).deed is Deed.UNPAUSE


def test_a_fenced_vm_that_somebody_let_run_is_paused_again() -> None:
    assert fenced(at(200.0)).deed is Deed.PAUSE


def test_a_vm_that_somebody_else_paused_is_left_to_him() -> None:
    assert decide(STARTED, at(10.0, DomainState.PAUSED), TIMES).deed is None


def test_a_released_vm_goes_also_while_it_is_fenced() -> None:
    vm = a_vm(phase=VmPhase.DESTROYING, fenced=LOST)
    assert decide(vm, at(500.0, DomainState.PAUSED), TIMES).deed is Deed.DESTROY


@given(
    st.sampled_from([VmPhase.RESERVED, VmPhase.CREATING, VmPhase.BOOTING, VmPhase.READY, VmPhase.BOUND]),
    st.floats(0, 1e6),
)
def test_a_vm_in_which_nothing_has_started_is_not_fenced(phase: VmPhase, after: float) -> None:
    assert decide(a_vm(phase=phase), at(after), TIMES).deed is not Deed.PAUSE


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0, 1000))
def test_no_run_goes_on_while_the_lrms_may_start_it_elsewhere(after: float, contact: float, word: float) -> None:
    """Whatever was heard when: between resume and give-up nothing lets a paused VM go on."""
    step = fenced(at(after, DomainState.PAUSED, contact=LOST + contact, word=LOST + word))
    if step.deed is Deed.UNPAUSE:
        assert after < TIMES.fence_resume_s or after >= TIMES.gives_up_s + GAVE_UP_S


# --- contact ---------------------------------------------------------------------------------------------


class Controller:
    """The controller's machine, and the clock."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.clock.advance(LOST)
        self.journal = Journal(str(path), "hostmaster", "h1")
        self.answers, self.asked = True, 0
        self.contact = self.anew()

    def anew(self) -> Contact:
        return Contact(self.clock, self.journal, "ctl:6817", self._answer)

    async def _answer(self) -> bool:
        self.asked += 1
        return self.answers

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / LOOK_EVERY_S)):
            self.clock.advance(LOOK_EVERY_S)
            self.contact.look([lease_id()])

    def silence(self) -> float:
        """How long the lease's VM has been out of contact."""
        return self.clock.seconds() - self.contact.last(lease_id(), 0.0)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    controller = Controller(tmp_path / "journal")
    yield controller
    controller.journal.close()


def test_a_controller_that_answers_is_contact_though_the_bait_is_dead(controller: Controller) -> None:
    controller.pass_time(1000)
    assert controller.silence() == 0.0


def test_a_controller_that_stops_answering_is_a_silence_since_its_last_answer(controller: Controller) -> None:
    controller.pass_time(50)
    controller.answers = False
    controller.pass_time(90)
    assert controller.silence() == 90.0


def test_a_bait_that_vouches_is_contact_though_the_controller_does_not_answer(controller: Controller) -> None:
    controller.pass_time(50)
    controller.answers = False
    controller.pass_time(40)
    controller.contact.said(lease_id())
    assert controller.silence() == 0.0


def test_a_controller_that_never_answered_cannot_be_lost(controller: Controller) -> None:
    controller.answers = False
    controller.pass_time(1000)
    assert controller.silence() == 0.0


def test_that_it_once_answered_is_known_after_a_restart(controller: Controller) -> None:
    controller.pass_time(20)
    controller.answers = False
    controller.contact = controller.anew()
    controller.pass_time(100)
    assert controller.silence() == 100.0


def test_a_daemon_that_slept_knows_of_no_silence_until_it_has_asked(controller: Controller) -> None:
    controller.pass_time(20)
    controller.clock.advance(5000.0)
    assert controller.silence() == 0.0


def test_the_controller_is_left_alone_while_the_bait_vouches(controller: Controller) -> None:
    controller.pass_time(20)
    asked = controller.asked
    for _ in range(10):
        controller.contact.said(lease_id())
        controller.pass_time(10)
    assert controller.asked == asked


def test_the_end_of_a_silence_is_told(controller: Controller) -> None:
    told: list[float] = []
    controller.contact.noticed = lambda: told.append(controller.clock.seconds())
    controller.pass_time(20)
    controller.answers = False
    controller.pass_time(60)
    controller.answers = True
    controller.pass_time(20)
    assert told == [LOST + 90]


# --- the whole site --------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, logged_failures: LoggedFailures) -> Iterator[Site]:
    with with_long_jobs(tmp_path, logged_failures) as site:
        yield site


def cut_off(site: Site, yes: bool = True) -> None:
    """The host and all on it lose the LRMS, or have it back."""
    site.lrms.away, site.controller = yes, not yes


def test_a_host_that_is_cut_off_pauses_its_job_before_slurm_would_start_it_elsewhere(site: Site) -> None:
    a_running_job(site)
    cut_off(site)
    began = site.clock.seconds()
    site.until(lambda: stands_still(site), 120.0)
    assert 80.0 <= site.clock.seconds() - began <= 105.0
    cut_off(site, False)
    site.until(lambda: not stands_still(site), 20.0)


def test_a_host_that_loses_its_journal_while_it_is_cut_off_fences_all_the_same(site: Site) -> None:
    # simulation, seed 7178: nothing was fenced, the job ran twice at once
    a_running_job(site)
    cut_off(site)
    site.run(5.0)
    site.crash_host(lose_journal=True)
    site.until(lambda: stands_still(site), 120.0)


def test_a_controller_that_was_away_for_long_costs_a_pause_and_no_job(site: Site) -> None:
    job = a_running_job(site)
    cut_off(site)
    site.run(1000.0)
    assert stands_still(site)
    cut_off(site, False)
    site.until(lambda: not stands_still(site), 30.0)
    assert len(site.starts) == 1
    assert site.running(job)


def test_a_run_that_was_started_elsewhere_meanwhile_never_goes_on(site: Site) -> None:
    job = a_running_job(site)
    cut_off(site)
    site.until(lambda: stands_still(site), 120.0)
    site.killed.update(site.guests)  # what ends here has been given up by the LRMS
    site.lrms.node_fails("vm1")
    cut_off(site, False)
    site.until(lambda: site.job(job).run.restart == 2 and not site.guests, 60.0)
    assert "unpause" not in {call.split(" ", maxsplit=1)[0] for call in site.hypervisor.calls}


@pytest.mark.parametrize("who", ["bait", "host", "lrms"])
def test_what_is_no_loss_of_contact_pauses_nothing(site: Site, who: str) -> None:
    job = a_running_job(site)
    if who == "bait":
        site.crash_bait(away_s=600.0)
    elif who == "host":
        site.crash_host(away_s=600.0)
    else:
        site.lrms.away = True  # slurmctld is stopped; its machine refuses the connection, which is an answer
    site.run(500.0)
    assert not stands_still(site)
    assert site.running(job)


def test_a_restart_alone_lets_no_paused_vm_go_on(site: Site) -> None:
    a_running_job(site)
    cut_off(site)
    site.until(lambda: stands_still(site), 120.0)
    site.crash_host()
    site.run(300.0)
    assert stands_still(site)
    assert "unpause" not in {call.split(" ", maxsplit=1)[0] for call in site.hypervisor.calls}


def test_a_hostmaster_that_dies_while_a_vm_is_paused_lets_it_go_on_after_its_restart(site: Site) -> None:
    job = a_running_job(site)
    cut_off(site)
    site.until(lambda: stands_still(site), 120.0)
    site.crash_host()
    cut_off(site, False)
    site.until(lambda: not stands_still(site), 60.0)
    assert site.running(job)


# --- the question itself, over loopback ------------------------------------------------------------------


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1)
    return sock


@pytest_twisted.ensureDeferred
async def test_an_accepted_connection_is_an_answer() -> None:
    with listening() as sock:
        assert await tcp(reactor, f"ctl.site:{sock.getsockname()[1]}", {"ctl.site": "127.0.0.1"})()
        sock.settimeout(5.0)
        sock.accept()[0].close()


@pytest_twisted.ensureDeferred
async def test_a_refused_connection_is_an_answer_too() -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
    assert await tcp(reactor, f"127.0.0.1:{port}", {})()


@pytest_twisted.ensureDeferred
async def test_silence_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostmaster.contact.ANSWER_S", 0.3)
    with listening() as sock, contextlib.ExitStack() as crowd:
        for _ in range(4):  # more than its queue takes: the kernel drops what comes then
            other = crowd.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(sock.getsockname())
        assert not await tcp(reactor, f"127.0.0.1:{sock.getsockname()[1]}", {})()


def test_a_name_that_nobody_resolves_is_silence_too() -> None:
    """A host that is cut off from its name servers as well asked for minutes, and knew of no silence meanwhile."""
    clock: Any = MemoryReactorClock()
    clock.nameResolver = SimpleNamespace(resolveHostName=lambda *_, **__: None)
    answers: list[bool] = []
    Deferred.fromCoroutine(tcp(clock, "ctl.site:6817", {})()).addCallback(answers.append)
    clock.advance(ASKED_S)
    assert answers == [False]
