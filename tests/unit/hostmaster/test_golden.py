"""Which golden states still fit, which are made next, which make room; and that the budget is kept."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hostmaster.rules.golden import CLEAR, Golden, Kind, Shelf, expected_mib, name_of, to_make, to_remove
from protocol.ids import EnvironmentName, Shape, VmName
from tests.unit.hostmaster.records import DEBIAN, SHAPE, a_golden

SMALL = Kind(DEBIAN, SHAPE)
BIG = Kind(DEBIAN, Shape(cpus=2, memory_mib=2048, disk_mib=128))
SLOTS = tuple(VmName(f"vm{n}") for n in range(1, 5))
NAMES = {(slot, kind): name_of(slot, kind.environment, str(kind.shape)) for slot in SLOTS for kind in (SMALL, BIG)}


def a_shelf(*goldens: Golden, **changes: Any) -> Shelf:
    fields: dict[str, Any] = {
        "slots": SLOTS, "names": NAMES, "images": {DEBIAN: "a" * 64}, "worth": {SMALL: 1.0}, "budget_mib": 10_000,
    }  # fmt: skip
    return Shelf(goldens=goldens, **{**fields, **changes})


def big(slot: str, **changes: Any) -> Golden:
    return a_golden(slot, shape=BIG.shape, name=NAMES[VmName(slot), BIG], **changes)


def test_a_name_is_another_when_anything_it_depends_on_is() -> None:
    name = name_of(VmName("vm1"), "image", "identity")
    assert name.startswith("vm1-")
    assert len(name) == len("vm1-") + 12
    assert len({name, name_of(VmName("vm2"), "image", "identity"), name_of(VmName("vm1"), "image", "new"),
                name_of(VmName("vm1"), "imagei", "dentity")}) == 4  # fmt: skip


def test_one_that_fits_stays_and_a_stale_one_goes() -> None:
    assert to_remove(a_shelf(a_golden())) == ()
    old = a_golden(name="vm1-of-old")
    assert to_remove(a_shelf(old)) == ("vm1-of-old",)
    assert to_remove(a_shelf(a_golden(), images={DEBIAN: "b" * 64})) == (a_golden().name,)
    assert to_remove(a_shelf(a_golden(), images={})) == (a_golden().name,)
    assert to_remove(a_shelf(a_golden(), slots=SLOTS[1:])) == (a_golden().name,)


def test_what_nobody_can_name_just_now_is_not_stale() -> None:
    assert to_remove(a_shelf(a_golden(name="vm1-of-old"), names={})) == ()


def test_one_in_use_is_not_removed() -> None:
    old = a_golden(name="vm1-of-old")
    assert to_remove(a_shelf(old, in_use=frozenset({old.name}))) == ()


def test_without_a_budget_all_go_and_none_is_made() -> None:
    assert to_remove(a_shelf(a_golden(), a_golden("vm2"), budget_mib=0)) == (a_golden().name, a_golden("vm2").name)
    assert to_make(a_shelf(budget_mib=0), SLOTS) == ()


def test_the_most_worthy_kind_is_made_first_and_each_slot_once() -> None:
    shelf = a_shelf(a_golden(), worth={SMALL: 1.0, BIG: 5.0})
    made = [(place.slot, place.kind) for place in to_make(shelf, SLOTS)]
    assert made == [(slot, BIG) for slot in SLOTS] + [(slot, SMALL) for slot in SLOTS[1:]]
    assert to_make(shelf, ()) == ()


def test_one_is_pushed_out_only_for_one_that_is_clearly_worth_more() -> None:
    tight = {"budget_mib": 300, "worth": {SMALL: 1.0, BIG: 1.9}}
    shelf = a_shelf(a_golden("vm1", mib=200), big("vm2", mib=60), **tight)
    assert to_make(shelf, SLOTS) == ()
    shelf = a_shelf(a_golden("vm1", mib=200), big("vm2", mib=60), **{**tight, "worth": {SMALL: 1.0, BIG: CLEAR}})
    assert {place.remove for place in to_make(shelf, SLOTS)} == {(a_golden().name,)}


def test_what_one_takes_is_known_from_others_of_its_kind() -> None:
    assert expected_mib(SMALL, a_shelf()) == SHAPE.memory_mib
    assert expected_mib(SMALL, a_shelf(a_golden(mib=70), a_golden("vm2", mib=90), big("vm3", mib=500))) == 90


goldens = st.lists(
    st.builds(
        lambda slot, kind, mib, age: replace(
            a_golden(slot), shape=kind.shape, name=NAMES[slot, kind], mib=mib, made_at=age
        ),
        st.sampled_from(SLOTS), st.sampled_from([SMALL, BIG]), st.integers(1, 400), st.floats(0, 100),
    ),
    unique_by=lambda golden: golden.name,
)  # fmt: skip
shelves = st.builds(
    lambda found, budget, small, large: a_shelf(*found, budget_mib=budget, worth={SMALL: small, BIG: large}),
    goldens, st.integers(0, 2000), st.floats(0, 10), st.floats(0, 10),
)  # fmt: skip


@given(shelves)
def test_what_stays_is_within_the_budget(shelf: Shelf) -> None:
    gone = to_remove(shelf)
    assert sum(golden.mib for golden in shelf.goldens if golden.name not in gone) <= shelf.budget_mib


@given(shelves)
def test_making_ends(shelf: Shelf) -> None:
    """No two kinds push each other out for ever, and no golden state is made twice."""
    for _ in range(40):
        gone = to_remove(shelf)
        kept = [golden for golden in shelf.goldens if golden.name not in gone]
        shelf = Shelf(shelf.slots, kept, shelf.names, shelf.images, shelf.worth, shelf.budget_mib)
        places = to_make(shelf, SLOTS)
        if not places:
            return
        place = places[0]
        assert place.name not in {golden.name for golden in kept}
        mib = expected_mib(place.kind, shelf)
        made = replace(a_golden(place.slot), shape=place.kind.shape, name=place.name, mib=mib)
        shelf = Shelf(
            shelf.slots, [*(g for g in kept if g.name not in place.remove), made], shelf.names, shelf.images,
            shelf.worth, shelf.budget_mib,
        )  # fmt: skip
        assert sum(golden.mib for golden in shelf.goldens) <= shelf.budget_mib
    raise AssertionError("golden states are made without end")


def test_another_environment_of_the_same_shape_is_another_kind() -> None:
    assert Kind(DEBIAN, SHAPE) != Kind(EnvironmentName("debian13"), SHAPE)
