"""A bait's way to the simulated batch system: every question has an answer of its own time."""

import random
from collections.abc import Mapping

from twisted.internet.defer import Deferred

from bait.lrms.base import JobView
from tests.simulation.clock import Life, World
from tests.simulation.lrms import Controller
from tests.simulation.way import Trouble, Way


def test_who_asks_for_a_job_in_the_moment_in_which_a_jumping_clock_brings_another_answer_is_answered_too() -> None:
    world = World()
    life = Life(world, "bait1", lambda life: None)
    controller = Controller(world, lambda job, what: None)
    way = Way(controller, life, random.Random(1), Trouble(), lambda verb, what, at: None)
    first, second = controller.submit(), controller.submit()
    seen: list[Mapping[str, JobView]] = []

    async def one_after_the_other() -> None:
        seen.append(await way.jobs([first]))
        seen.append(await way.jobs([second]))

    Deferred.fromCoroutine(one_after_the_other())
    life.jump(50.0)
    world.run(world.now)
    assert [sorted(views) for views in seen] == [[first]]
    Deferred.fromCoroutine(way.jobs([first])).addCallback(seen.append)
    world.run(world.now + 1.0)
    assert [sorted(views) for views in seen] == [[first], [first, second], [first, second]]
