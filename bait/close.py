"""`python -m bait.close`: closes the node of a bait whose daemon is gone.

systemd calls it after every end of the daemon (ExecStopPost). A daemon that stops in order has closed its node already;
one that was killed, or cannot start, has not, and an open node without a daemon costs every job that comes 2 minutes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import LogLevel

from bait.lrms.base import Lrms, LrmsRefused, LrmsUnavailable, NodeState, NodeView
from bait.lrms.slurm import slurm
from bait.rules.gate import REASON
from wnod.ask import DaemonUnreachable, ask, socket_path
from wnod.commands import OK, PROBLEM
from wnod.commands.text import complain, plain
from wnod.config import BaitNode, ConfigMistakes, load_bait_node
from wnod.journal import JournalError
from wnod.journalfile import look
from wnod.logs import json_line
from wnod.service import CONFIG

NOT_RUNNING = f"{REASON} the bait daemon is not running"
LIMIT_S = 10.0
"""In all. systemd starts the daemon again only afterwards, and a starter that waits for it gives up after 20 s."""
AGAIN_S = 1.0
_ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. `closed`: the LRMS was seen to send no jobs to the node."""

    closed: bool
    text: str
    code: int = PROBLEM


def main(argv: Sequence[str] | None = None) -> int:
    """Close the node, say what came of it; the exit code."""
    options = _parser().parse_args(argv)
    bait = ""
    try:
        node = load_bait_node(options.config)
        bait = node.bait
        result = _objection(node) or _run(lambda reactor: close(reactor, _lrms(reactor, node), bait))
    except ConfigMistakes as mistakes:
        result = Result(False, f"not known which node to close, nothing was done: {mistakes}", CONFIG)
    _say(bait, result, options.json)
    return result.code


async def close(clock: IReactorTime, lrms: Lrms, bait: str) -> Result:
    """Close the node unless it is closed already, by whomever. While the LRMS does not answer: again, up to LIMIT_S."""
    last = "no answer"
    begun = clock.seconds()
    while clock.seconds() - begun < LIMIT_S:
        left = LIMIT_S - (clock.seconds() - begun)
        try:
            return await Deferred.fromCoroutine(_once(lrms, bait)).addTimeout(left, clock)
        except LrmsRefused as error:
            return Result(False, f"{bait} could not be closed: {error}")
        except LrmsUnavailable as error:
            last = str(error)
        except TimeoutError:
            break
        await deferLater(clock, AGAIN_S)
    return Result(False, f"{bait} was not seen to be closed within {LIMIT_S:g} s: {last}")


async def _once(lrms: Lrms, bait: str) -> Result:
    before = await _look(lrms, bait)
    if _is_closed(before):
        return Result(True, f"{bait} was closed already: {before.reason}", OK)
    await lrms.close_node(bait, NOT_RUNNING)
    after = await _look(lrms, bait)
    if _is_closed(after):
        return Result(True, f"{bait} is closed: {after.reason}", OK)
    if after.state is NodeState.DOWN:  # for a reason that may be a human's
        return Result(False, f"{bait} is {after.word} ({after.reason}) and was left so: back up, it takes jobs")
    return Result(False, f"{bait} is {after.word} all the same: somebody has opened it")


def _is_closed(node: NodeView) -> bool:
    """True of a node that is down as well: once it is up it stays closed."""
    ours_and_down = node.state is NodeState.DOWN and node.reason.startswith(REASON)
    return ours_and_down or node.state in (NodeState.CLOSED_BY_US, NodeState.CLOSED_BY_OTHERS)


async def _look(lrms: Lrms, bait: str) -> NodeView:
    node = await lrms.node(bait)
    if node is None:
        raise LrmsRefused(f"the LRMS knows no node {bait!r}: is the name (bait: in bait.yaml) right?")
    return node


def _objection(node: BaitNode) -> Result | None:
    """Why this node is not to be closed: it has a daemon, here or on another host."""
    try:
        ask(socket_path(node.runtime), "/status", _ANSWER_S)
    except DaemonUnreachable:
        owner = _owner(node.state)
        if owner in (node.bait, ""):
            return None
        text = f"nothing was done: the journal in {node.state} is of bait {owner}, so {node.bait} is another host's"
        return Result(False, f"{text}; which of the two is it?")
    return Result(False, f"nothing was done: the daemon of {node.bait} answers; to close it: scontrol, with a reason")


def _owner(state: str) -> str:
    """The bait whose journal that is; empty if there is none that can be read."""
    try:
        return look(f"{state}/journal.sqlite").owner
    except JournalError:
        return ""


def _lrms(reactor: Any, node: BaitNode) -> Lrms:
    """The adapter as far as nodes are concerned: no jobs, so neither cluster nor partition."""
    return slurm(reactor, "", "", node.lrms.commands, LIMIT_S)


def _run(work: Callable[[Any], Coroutine[Any, Any, Result]]) -> Result:
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it: only now, and only here

    results: list[Any] = []

    def begin() -> None:
        Deferred.fromCoroutine(work(reactor)).addBoth(results.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    result = results[0] if results else Result(False, "interrupted")
    return result if isinstance(result, Result) else Result(False, f"it failed: {result}")


def _say(bait: str, result: Result, as_json: bool) -> None:
    """A sentence; or one line as in the daemon's log, with which it is mixed."""
    if as_json:
        level = LogLevel.info if result.code == OK else LogLevel.warn
        facts = {"bait": bait, "closed": result.closed, "log_format": "{text}", "text": result.text}
        line = {**facts, "log_time": time.time(), "log_level": level, "log_namespace": "bait.close"}
        print(json_line(line))
    elif result.code == OK:
        print(plain(result.text, 2000))
    else:
        complain(result.text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bait.close",
        description="Close the node of a bait whose daemon is gone. systemd does it whenever the daemon has ended.",
        epilog="exit codes: 0 no jobs are sent there, 1 it could not be closed, 2 wrong usage, 78 wrong configuration",
    )
    parser.add_argument("--config", default="/etc/wnod/bait.yaml", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, as the daemon's log has them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
