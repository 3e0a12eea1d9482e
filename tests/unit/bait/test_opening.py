"""The bait's node follows the gate, and a human's word stands above it."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bait.lrms.base import NodeState
from bait.opening import Opening
from bait.rules.hostview import HostView
from protocol.ids import Room, Shape
from tests.fakes.lrms import FakeLrms
from tests.unit.bait.records import BAIT, SHAPE, a_capacity, an_offer
from wnod.config import Gate

SMALL = Shape(cpus=1, memory_mib=64, disk_mib=16)


class Case:
    def __init__(self) -> None:
        self.clock = Clock()
        self.lrms = FakeLrms(self.clock)
        self.lrms.add_node(BAIT)
        self.view = HostView()
        self.told: list[bool] = []
        self.opening = Opening(self.clock, BAIT, self.lrms, self.view, Gate(), self.told.append)
        self.view.connected(False)
        self.view.capacity = a_capacity()
        self.opening.kick()

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)

    def changed(self, **capacity: Any) -> None:
        self.view.capacity = a_capacity(**capacity)
        self.opening.kick()
        self.run(0.2)

    def state(self) -> NodeState:
        got: list[Any] = []
        Deferred.fromCoroutine(self.lrms.node(BAIT)).addCallback(got.append)
        state = got[0].state
        assert isinstance(state, NodeState)
        return state

    @property
    def closed(self) -> str | None:
        return self.lrms.all_nodes[BAIT].closed


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_starting_bait_is_closed_until_there_has_been_room_for_a_while(case: Case) -> None:
    case.run(1)
    assert case.state() is NodeState.CLOSED_BY_US
    case.run(5)
    assert case.state() is NodeState.READY
    assert case.told == [False, True]


def test_a_full_host_closes_its_bait_at_once_and_says_why(case: Case) -> None:
    case.run(7)
    case.changed(free_slots=0)
    assert case.closed == "wnod: all 2 VM slots are taken"
    case.changed()
    assert case.state() is NodeState.CLOSED_BY_US
    case.run(5.5)
    assert case.state() is NodeState.READY


def test_a_lost_host_closes_its_bait(case: Case) -> None:
    case.run(7)
    case.view.disconnected()
    case.opening.kick()
    case.run(0.2)
    assert case.closed == "wnod: the hostmaster of this host does not answer"


def test_a_node_that_a_human_closed_is_not_touched(case: Case) -> None:
    case.run(7)
    case.lrms.drain(BAIT, "fan broken")
    case.changed(free_slots=0)
    assert (case.closed, case.opening.human) == ("fan broken", "fan broken")
    case.changed()
    case.run(20)
    assert case.closed == "fan broken"
    assert case.told == [False, True]  # nobody is told that it opened
    case.lrms.undrain(BAIT)
    case.run(11)
    assert (case.state(), case.opening.human) == (NodeState.READY, "")


def test_a_node_that_somebody_opened_is_closed_again_while_there_is_no_room(case: Case) -> None:
    case.run(7)
    case.changed(free_slots=0)
    case.lrms.undrain(BAIT)
    case.run(11)
    assert case.state() is NodeState.CLOSED_BY_US


def test_the_reason_is_kept_current_but_not_rewritten_for_every_figure(case: Case) -> None:
    written: list[str] = []
    close = case.lrms.close_node

    async def counted(node: str, reason: str) -> None:
        written.append(reason)
        await close(node, reason)

    case.run(7)
    case.lrms.close_node = counted  # type: ignore[method-assign]
    for cpus in (0, 0, 0):
        case.changed(free=Room(cpus=cpus, memory_mib=100 + len(written), disk_mib=0))
        case.run(11)
    assert len(written) == 1
    case.changed(free_slots=0)
    assert written[1:] == ["wnod: all 2 VM slots are taken"]


def test_an_lrms_that_is_away_is_tried_again(case: Case) -> None:
    case.run(7)
    case.lrms.away = True
    case.changed(free_slots=0)
    assert case.opening.up is False
    case.lrms.away = False
    case.run(2.2)
    assert (case.state(), case.opening.up) == (NodeState.CLOSED_BY_US, True)


def test_a_node_the_lrms_does_not_know_is_waited_for(case: Case) -> None:
    node = case.lrms.all_nodes.pop(BAIT)
    case.run(10)
    assert case.opening.up is False
    case.lrms.all_nodes[BAIT] = node
    case.run(3)
    assert case.opening.up is True


def test_without_configured_limits_the_smallest_usual_shape_must_fit(case: Case) -> None:
    assert case.opening.limits().close_below == SHAPE
    offers = (an_offer(), an_offer("rocky9", usual=SMALL), an_offer("x", available=False))
    case.view.capacity = a_capacity(offers=offers)
    limits = case.opening.limits()
    assert (limits.close_below, limits.open_above) == (SMALL, SMALL)


def test_a_daemon_that_stops_leaves_its_node_closed_and_nothing_planned(case: Case) -> None:
    case.run(7)
    done = Deferred.fromCoroutine(case.opening.close())
    case.run(0.1)
    assert done.called
    assert case.closed == "wnod: the bait daemon is stopped"
    assert case.clock.getDelayedCalls() == []


def test_a_daemon_that_stops_while_the_lrms_is_away_stops_all_the_same(case: Case) -> None:
    case.lrms.away = True
    done = Deferred.fromCoroutine(case.opening.close())
    case.run(0.1)
    assert done.called


def test_a_bait_calls_itself_open_only_when_the_lrms_has_it_open(case: Case) -> None:
    case.run(1)
    assert not case.opening.is_open
    case.lrms.away = True
    case.run(30)
    assert case.opening.gate.open
    assert not case.opening.is_open
    assert "the LRMS does not see" in case.opening.reason
    case.lrms.away = False
    case.run(5)
    assert case.state() is NodeState.READY
    assert (case.opening.is_open, case.opening.reason) == (True, "")


def test_a_bait_that_a_human_closed_says_so_and_is_not_open(case: Case) -> None:
    case.run(30)
    assert case.opening.is_open
    case.lrms.drain(BAIT, "new disks")
    case.run(15)
    assert not case.opening.is_open
    assert case.opening.reason == "closed by a human: new disks"
