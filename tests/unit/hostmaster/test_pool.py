"""How many spares wait and what is made in the background: bounds, Little's law, scale to zero, one at a time."""

from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hostmaster.rules.capacity import Grant, Refusal, admit, in_the_way
from hostmaster.rules.golden import Golden, Kind, name_of
from hostmaster.rules.lifecycle import Vm, Way
from hostmaster.rules.pool import MEMORY_S, Demand, Line, Make, Plan, View, is_news, left, plan, usable_slots, wanted
from hostmaster.rules.spare import Purpose, Spare, SparePhase, evict
from protocol.ids import Generation, Room, Run, Shape, VmName
from protocol.messages import VmPhase
from tests.unit.hostmaster.records import DEBIAN, SHAPE, a_golden, a_host, a_request, a_spare, a_vm, lease_id

SMALL = Kind(DEBIAN, SHAPE)
BIG = Kind(DEBIAN, Shape(cpus=2, memory_mib=1024, disk_mib=128))
SLOTS = tuple(VmName(f"vm{n}") for n in range(1, 5))
ROOM = Room(cpus=4, memory_mib=2048, disk_mib=1024)
HOST = a_host(slots=SLOTS, total=ROOM)
NAMES = {(slot, kind): name_of(slot, kind.environment, str(kind.shape)) for slot in SLOTS for kind in (SMALL, BIG)}
P = SparePhase


def a_view(**changes: Any) -> View:
    fields: dict[str, Any] = {
        "now": 1000.0, "host": HOST, "vms": (), "spares": (), "goldens": (), "lines": (Line(SMALL, 1, 3),),
        "names": NAMES, "demand": {}, "refill_s": {}, "budget_mib": 10_000,
    }  # fmt: skip
    return View(**{**fields, **changes})


def spare(number: int = 7, slot: str = "vm1", **changes: Any) -> Spare:
    usual = {"phase": P.PAUSED, "golden": NAMES[VmName(slot), SMALL]}
    return a_spare(generation=Generation(number), vm=VmName(slot), **{**usual, **changes})


def golden(slot: str = "vm1") -> Golden:
    return a_golden(slot, name=NAMES[VmName(slot), SMALL])


# --- how many ---------------------------------------------------------------------------------------------


def test_without_demand_there_are_as_many_as_are_to_be_kept() -> None:
    assert wanted(Line(SMALL, 0, 5), 0.0, 3.0) == 0
    assert wanted(Line(SMALL, 2, 5), 0.0, 3.0) == 2


def test_littles_law_says_how_many_are_taken_while_one_is_made() -> None:
    assert wanted(Line(SMALL, 0, 99), 4.0, 1.0) == 6  # 4 on the average, and what chance adds
    assert wanted(Line(SMALL, 0, 5), 4.0, 1.0) == 5


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0, 1e6), st.floats(0, 1e4))
def test_the_configuration_bounds_it(keep: int, more: int, rate: float, refill_s: float) -> None:
    assert keep <= wanted(Line(SMALL, keep, keep + more), rate, refill_s) <= keep + more


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_more_demand_never_means_fewer(rate: float, more: float, refill_s: float) -> None:
    line = Line(SMALL, 0, 10_000)
    assert wanted(line, rate, refill_s) <= wanted(line, rate + more, refill_s)


@given(st.floats(0.1, 50), st.floats(0.1, 50))
def test_it_is_never_less_than_what_arrives_meanwhile(rate: float, refill_s: float) -> None:
    during = rate * refill_s
    if during >= 0.1:
        assert during <= wanted(Line(SMALL, 0, 10_000), rate, refill_s) <= during + sqrt(during) + 1


def test_demand_is_forgotten() -> None:
    demand = Demand()
    for second in range(600):
        demand = demand.asked(float(second))
    assert demand.rate(599.0) == pytest.approx(1.0, rel=0.2)
    assert demand.now(599.0 + 10 * MEMORY_S) < 0.05
    assert demand.now(0.0) == demand.weight  # a clock that was set back


# --- what is made -------------------------------------------------------------------------------------------


def test_a_golden_state_comes_first_and_the_spare_from_it() -> None:
    assert plan(a_view()).make == Make(SLOTS[0], SMALL, Purpose.GOLDEN, Way.BOOT, NAMES[SLOTS[0], SMALL])
    restored = Make(SLOTS[0], SMALL, Purpose.POOL, Way.RESTORE, golden().name, golden().uuid)
    assert plan(a_view(goldens=(golden(),))).make == restored


def test_without_golden_states_a_spare_is_booted() -> None:
    made = plan(a_view(budget_mib=0)).make
    assert made == Make(SLOTS[0], SMALL, Purpose.POOL, Way.BOOT, NAMES[SLOTS[0], SMALL])


def test_what_was_asked_for_gets_golden_states_and_is_forgotten_again() -> None:
    demand = {BIG: Demand().asked(990.0)}
    made = plan(a_view(lines=(), demand=demand)).make
    assert made is not None
    assert (made.kind, made.purpose) == (BIG, Purpose.GOLDEN)
    assert plan(a_view(lines=(), demand=demand, now=990.0 + 4 * MEMORY_S)) == Plan()


def test_nothing_at_all_happens_where_nothing_is_configured() -> None:
    demand = {SMALL: Demand().asked(990.0)}
    assert plan(a_view(lines=(), budget_mib=0, demand=demand)) == Plan()


@pytest.mark.parametrize("phase", sorted({VmPhase.RESERVED, VmPhase.CREATING, VmPhase.BOOTING}))
def test_the_background_waits_while_a_vm_of_a_job_is_made(phase: VmPhase) -> None:
    assert plan(a_view(vms=(a_vm(phase=phase, vm=SLOTS[3]),), goldens=(golden(),))) == Plan()


def test_nothing_boots_while_a_job_is_about_to_start_but_a_spare_is_restored() -> None:
    vms = (a_vm(phase=VmPhase.BOUND, vm=SLOTS[3]),)
    assert plan(a_view(vms=vms)) == Plan()
    made = plan(a_view(vms=vms, goldens=(golden(),))).make
    assert made is not None
    assert made.way is Way.RESTORE


@pytest.mark.parametrize("phase", [P.CREATING, P.BOOTING, P.STANDBY, P.SAVING])
def test_one_is_made_at_a_time(phase: SparePhase) -> None:
    busy = spare(slot="vm4", phase=phase, purpose=Purpose.GOLDEN)
    assert plan(a_view(spares=(busy,), goldens=(golden(),))) == Plan()


def test_a_kind_that_failed_rests_and_a_refused_environment_is_left_alone() -> None:
    assert plan(a_view(resting=frozenset({SMALL}))) == Plan()
    assert plan(a_view(host=a_host(slots=SLOTS, total=ROOM, refusals={DEBIAN: "altered"}))) == Plan()


def test_surplus_stale_and_unknown_spares_are_dropped() -> None:
    full = tuple(spare(n, f"vm{n}") for n in (1, 2, 3))
    assert plan(a_view(spares=full)).drop == (2, 3)
    assert plan(a_view(spares=(spare(golden="vm1-of-old"),))).drop == (7,)
    assert plan(a_view(spares=(spare(image="b" * 64),))).drop == (7,)
    assert plan(a_view(spares=(spare(shape=BIG.shape, golden=NAMES[SLOTS[0], BIG]),))).drop == (7,)
    assert plan(a_view(spares=(spare(golden="vm1-of-old"),), names={})).drop == ()


def test_when_more_is_in_use_than_there_is_spares_go() -> None:
    """After a restart with less capacity a granted VM would wait for ever."""
    waiting = a_vm(phase=VmPhase.RESERVED, vm=SLOTS[3])
    view = a_view(
        vms=(waiting,), spares=(spare(),), host=a_host(slots=SLOTS, total=Room(cpus=1, memory_mib=512, disk_mib=128))
    )
    assert plan(view).drop == (7,)


# --- a host that lives ---------------------------------------------------------------------------------------

events = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.sampled_from([SHAPE, BIG.shape])),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("gone"), st.integers(0, 5)),
        st.tuples(st.just("advance"), st.integers(0, 5)),
        st.tuples(st.just("look"), st.just(0)),
    ),
    max_size=60,
)  # fmt: skip


class Life:
    """VMs and spares of one host, moved by the deciding functions alone."""

    def __init__(self) -> None:
        self.vms: dict[int, Vm] = {}
        self.spares: dict[int, Spare] = {}
        self.goldens: dict[str, Golden] = {}
        self.demand: dict[Kind, Demand] = {}
        self.number = 0
        self.taken: list[int] = []

    def view(self) -> View:
        return a_view(
            vms=tuple(self.vms.values()), spares=tuple(self.spares.values()), goldens=tuple(self.goldens.values()),
            demand=self.demand, lines=(Line(SMALL, 1, 3), Line(BIG, 0, 2)),
        )  # fmt: skip

    def request(self, shape: Shape) -> None:
        self.number += 1
        run = Run(cluster="c", job=str(self.number), restart=0)
        ask = a_request(self.number, run=run, shape=shape)
        kind = Kind(DEBIAN, shape)
        self.demand[kind] = self.demand.get(kind, Demand()).asked(1000.0)
        vms = tuple(self.vms.values())
        answer = admit(ask, HOST, vms, tuple(self.spares.values()), tuple(self.goldens.values()))
        without = admit(ask, HOST, vms)
        assert type(answer) is type(without), "spares keep nobody out, and let nobody in"
        if isinstance(answer, Refusal):
            return
        assert isinstance(without, Grant)
        if answer.spare is not None:
            record = self.spares.pop(answer.spare)
            assert record.generation not in self.taken, "a spare is given to two leases"
            assert (record.shape, record.environment, record.vm) == (shape, DEBIAN, answer.slot)
            self.taken.append(record.generation)
            self.vms[record.generation] = a_vm(
                generation=record.generation, vm=record.vm, lease=lease_id(self.number), asked=run, shape=shape,
                phase=VmPhase.BOOTING,
            )  # fmt: skip
            return
        for generation in answer.evict:
            self.spares[generation] = evict(self.spares[generation], "", 1000.0)
        self.vms[self.number] = a_vm(
            generation=Generation(self.number), vm=answer.slot, lease=lease_id(self.number), asked=run, shape=shape
        )

    def end(self, which: int) -> None:
        for generation in sorted(self.vms)[which : which + 1]:
            if self.vms[generation].phase is not VmPhase.RESERVED:
                del self.vms[generation]

    def gone(self, which: int) -> None:
        for generation in sorted(self.spares)[which : which + 1]:
            if self.spares[generation].phase in (P.DESTROYING, P.SAVING):
                del self.spares[generation]

    def advance(self, which: int) -> None:
        order = [P.CREATING, P.BOOTING, P.STANDBY]
        for generation in sorted(self.spares)[which : which + 1]:
            record = self.spares[generation]
            if record.phase in order:
                last = P.SAVING if record.purpose is Purpose.GOLDEN else P.PAUSED
                phase = [*order, last][order.index(record.phase) + 1]
                self.spares[generation] = spare(
                    generation, record.vm, phase=phase, purpose=record.purpose, shape=record.shape, golden=record.golden
                )  # fmt: skip
                if phase is P.SAVING:
                    state = a_golden(record.vm, name=record.golden, shape=record.shape)
                    self.goldens[state.name] = state

    def look(self, _: int) -> None:
        found = plan(self.view())
        for generation in found.drop:
            self.spares[generation] = evict(self.spares[generation], "", 1000.0)
        if found.make is not None:
            self.number += 1
            make = found.make
            assert make.slot in usable_slots(self.view())
            shape = make.kind.shape
            assert shape.fits(left(HOST, self.vms.values(), self.spares.values()))
            self.spares[self.number] = spare(
                self.number, make.slot, phase=P.CREATING, purpose=make.purpose, shape=shape, golden=make.golden
            )  # fmt: skip

    def create(self) -> None:
        """Reserved VMs that need not wait any more exist from now on."""
        for generation, vm in self.vms.items():
            spares = tuple(self.spares.values())
            if vm.phase is VmPhase.RESERVED and not in_the_way(vm, HOST, self.vms.values(), spares):
                self.vms[generation] = a_vm(
                    generation=vm.generation, vm=vm.vm, lease=vm.lease, asked=vm.asked, shape=vm.shape,
                    phase=VmPhase.STARTED,
                )  # fmt: skip

    def check(self) -> None:
        exist = [vm for vm in self.vms.values() if vm.phase is not VmPhase.RESERVED]
        slots = [vm.vm for vm in exist] + [record.vm for record in self.spares.values()]
        assert len(set(slots)) == len(slots), "two domains of one name"
        assert len({vm.vm for vm in self.vms.values()}) == len(self.vms)
        shapes = [vm.shape for vm in exist] + [record.shape for record in self.spares.values()]
        assert sum(shape.memory_mib for shape in shapes) <= ROOM.memory_mib
        assert sum(shape.cpus for shape in shapes) <= ROOM.cpus


@given(events)
def test_spares_give_way_and_nothing_is_ever_given_twice(happened: list[tuple[str, Any]]) -> None:
    life = Life()
    for what, argument in happened:
        getattr(life, what)(argument)
        life.create()
        life.check()
    for _ in range(20):  # the spares that give way are gone at last: nobody waits any longer
        for which in range(6):
            life.gone(which)
        life.create()
    assert all(vm.phase is not VmPhase.RESERVED for vm in life.vms.values())


@given(events)
def test_what_is_no_news_leaves_a_background_at_rest_with_nothing_to_do(happened: list[tuple[str, Any]]) -> None:
    life = Life()
    for what, argument in happened:
        getattr(life, what)(argument)
    tried: tuple[tuple[dict[int, Any], Any], ...] = ((life.vms, VmPhase), (life.spares, SparePhase))
    for records, phases in tried:
        for generation, record in list(records.items()):
            changes = [replace(record, phase=phase) for phase in phases]
            plans = []
            for records[generation] in changes:
                plans.append(plan(life.view()))
            for before, nothing in zip(changes, plans, strict=True):
                for after, something in zip(changes, plans, strict=True):
                    assert nothing != Plan() or something == Plan() or is_news(before, after)
            records[generation] = record


def test_a_new_vm_one_that_need_not_wait_any_more_and_one_that_is_gone_are_news() -> None:
    reserved, creating, booting, going, gone = (
        a_vm(phase=VmPhase(name)) for name in ("reserved", "creating", "booting", "destroying", "gone")
    )
    assert is_news(None, reserved)
    assert is_news(reserved, creating)
    assert not is_news(creating, booting)
    assert is_news(going, gone)


def test_an_idle_host_comes_to_rest_with_what_was_configured() -> None:
    life = Life()
    for _ in range(200):
        life.look(0)
        for which in range(6):
            life.advance(which)
            life.gone(which)
        life.check()
    assert [record.phase for record in life.spares.values()] == [P.PAUSED]
    assert len(life.goldens) == 7  # of both kinds in each slot, but for the slot in which the spare waits
    assert plan(life.view()) == Plan()
