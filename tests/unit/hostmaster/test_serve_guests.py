"""The conversation with the guests: who says hello is configured, who asks to start is judged, after the commit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from hostmaster.rules import lifecycle
from hostmaster.rules.vm import End
from protocol.errors import TheirMistake
from protocol.messages import VmPhase
from tests.unit.hostmaster.host_case import HostCase, again, host_case
from tests.unit.hostmaster.records import BOOT, OTHER_BOOT, RUN, a_vm

HELLO = f"hello 1 {BOOT} vm1".encode()
READY = f"ready {BOOT}".encode()
ASK = f"may-start {BOOT} 7 12 - 1 1000".encode()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[HostCase]:
    with host_case(tmp_path / "journal") as case:
        case.keeper.put(a_vm())
        case.run()
        yield case


def says(case: HostCase, line: bytes, key: str = "vm1-g1") -> list[str]:
    case.guests.says(key, line)
    case.run()
    return case.guests.take(key)


def bind(case: HostCase, key: str = "vm1-g1") -> None:
    vm = case.keeper.by_key(key)
    assert vm is not None
    bound = lifecycle.bind(vm, vm.generation, RUN.next(), case.clock.seconds())
    assert isinstance(bound, lifecycle.Vm)
    case.keeper.put(bound)


def test_a_guest_that_says_hello_is_configured(case: HostCase) -> None:
    assert says(case, HELLO) == ["configuration"]
    assert says(case, HELLO) == ["configuration"]


def test_a_guest_that_is_ready_makes_its_vm_ready_and_is_not_set_up_again(case: HostCase) -> None:
    says(case, READY)
    assert case.vm.phase is VmPhase.READY
    assert says(case, HELLO) == ["welcome 1 1"]


def test_a_guest_that_was_ready_before_the_daemon_started_is_only_welcomed(case: HostCase) -> None:
    says(case, READY)
    case = again(case)
    assert says(case, HELLO) == ["welcome 1 1"]
    case.journal.close()


def test_a_guest_that_cannot_be_configured_leaves_the_reason(case: HostCase) -> None:
    def no_key(vm: lifecycle.Vm) -> bytes:
        raise OSError("/etc/munge/munge.key: permission denied")

    case.service.configure = no_key
    assert says(case, HELLO) == []
    case.run(61)
    assert case.vm.text == "cannot configure the guest: /etc/munge/munge.key: permission denied"


def test_a_failed_boot_stage_is_the_reason_when_the_boot_takes_too_long(case: HostCase) -> None:
    says(case, f"failed {BOOT} mount no%20route".encode())
    case.run(61)
    assert case.vm.text == "guest failed at mount: no route"


def test_a_guest_whose_file_systems_do_not_mount_when_it_is_a_node_already_goes(
    case: HostCase,
) -> None:
    says(case, READY)
    bind(case)
    says(case, f"failed {BOOT} mount no%20route".encode())
    assert (case.vm.phase, case.vm.text) == (VmPhase.GONE, "guest failed at mount: no route")


def test_a_guest_that_failed_and_then_got_ready_stays(case: HostCase) -> None:
    says(case, f"failed {BOOT} network no%20link".encode())
    says(case, READY)
    case.run(1)
    assert case.vm.phase is VmPhase.READY


def test_what_a_guest_says_of_a_failure_does_not_end_a_run_that_has_started(case: HostCase) -> None:
    says(case, READY)
    bind(case)
    assert says(case, ASK) == ["allow 7"]
    says(case, f"failed {BOOT} mount no%20route".encode())
    case.run(1)
    assert case.vm.phase is VmPhase.STARTED


def test_the_bound_run_is_allowed_when_its_start_is_on_disk(case: HostCase) -> None:
    says(case, READY)
    bind(case)
    on_disk: list[VmPhase] = []
    send = case.guests.send

    def look_first(name: str, lines: bytes) -> bool:
        on_disk.append(case.journal.load("vm", lifecycle.Vm)["1"].phase)
        return send(name, lines)

    case.guests.send = look_first  # type: ignore[method-assign]
    assert says(case, ASK) == ["allow 7"]
    assert on_disk == [VmPhase.STARTED]


def test_a_repeated_question_is_answered_again_also_after_a_restart(case: HostCase) -> None:
    says(case, READY)
    bind(case)
    assert says(case, ASK) == ["allow 7"]
    assert says(case, ASK.replace(b" 7 ", b" 8 ")) == ["allow 8"]
    case = again(case)
    assert says(case, ASK) == ["allow 7"]
    case.journal.close()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"may-start " + BOOT.encode() + b" 7 13 - 1 1000", "another run"),
        (b"may-start " + BOOT.encode() + b" 7 12 - 0 1000", "another run"),
        (b"may-start " + BOOT.encode() + b" 7 12 3 1 1000", "another run"),
        (b"may-start " + BOOT.encode() + b" 7 12 - 1 1001", "another user"),
    ],
)
def test_any_other_run_is_denied_and_nothing_is_written(case: HostCase, line: bytes, reason: str) -> None:
    says(case, READY)
    bind(case)
    before = case.vm
    (answer,) = says(case, line)
    assert answer.startswith("deny 7 ")
    assert reason.replace(" ", "%20") in answer
    assert case.vm == before


def test_a_vm_that_is_going_answers_nothing(case: HostCase) -> None:
    says(case, READY)
    bind(case)
    case.hypervisor.away = "hangs"
    case.keeper.put(lifecycle.release(case.vm, 110.0))
    assert says(case, ASK) == []
    assert case.vm.phase is VmPhase.DESTROYING


def test_only_the_end_of_the_run_that_started_is_passed_on(case: HostCase) -> None:
    says(case, READY)
    bind(case)
    end = f"finished {BOOT} 12 - 1 0".encode()
    says(case, end)
    assert case.ends == []
    says(case, ASK)
    says(case, f"finished {OTHER_BOOT} 12 - 1 0".encode())
    assert case.ends == []
    assert case.vm.end is None
    says(case, end)
    assert case.ends == [("vm1-g1", 0)]
    assert case.vm.end == End(0)


def test_an_end_is_written_down_once_however_often_and_with_whatever_status_it_is_said(case: HostCase) -> None:
    says(case, READY)
    bind(case)
    says(case, ASK)
    for status in (b"3", b"3", b"-", b"7"):
        says(case, f"finished {BOOT} 12 - 1 ".encode() + status)
    assert case.vm.end == End(3)
    assert case.ends == [("vm1-g1", 3), ("vm1-g1", 3), ("vm1-g1", None), ("vm1-g1", 7)]


def test_the_channel_says_which_vm_speaks_and_never_the_guest(case: HostCase) -> None:
    case.keeper.put(a_vm(generation=2, vm="vm2", uuid="2" * 8, lease="2" * 32, owner=1001))
    case.run()
    for key in ("vm1-g1", "vm2-g2"):
        says(case, READY, key)
        bind(case, key)
    assert says(case, ASK, "vm2-g2")[0].startswith("deny 7 ")
    assert says(case, ASK) == ["allow 7"]


def test_a_closed_channel_and_an_unknown_one_are_no_matter(case: HostCase) -> None:
    says(case, HELLO)
    case.guests.disconnects("vm1-g1")
    case.service.heard("vm7-g7", None)
    assert case.vm == replace(case.vm, phase=VmPhase.BOOTING)


def test_a_guest_that_says_the_same_without_end_has_libvirt_asked_for_nothing(case: HostCase) -> None:
    says(case, READY)
    case.run(1)
    asked = len(case.hypervisor.calls)
    for _ in range(20):
        says(case, READY)
    assert case.hypervisor.calls[asked:] == []


def test_an_exit_status_that_the_bait_cannot_be_told_is_not_heard(case: HostCase) -> None:
    """It was logged with a traceback, as often as the guest said it."""
    says(case, READY)
    bind(case)
    assert says(case, ASK) == ["allow 7"]
    with pytest.raises(TheirMistake, match="no exit status"):
        says(case, f"finished {BOOT} 12 - 1 9999999999".encode())
    assert case.ends == []
