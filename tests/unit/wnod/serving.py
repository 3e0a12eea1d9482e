"""Two real status servers in one real process, for the tests of the command line. Run with a JSON file as argument."""

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList

from wnod.metrics import Metrics
from wnod.status import Do, StatusServer


def server(runtime: str, told: dict[str, Any]) -> StatusServer:
    """One daemon's window. A snapshot of null means: the daemon's code has a bug."""

    def snapshot() -> dict[str, Any]:
        return dict(told["snapshot"])

    def does(deed: str) -> Do:
        answers = told.get("acts", {})[deed]
        return lambda arguments, by: answers.get(
            arguments.get("vm") or arguments.get("name"), [404, {"error": f"{deed}: no such VM, {by}"}]
        )

    acts = {deed: does(deed) for deed in told.get("acts", {})}
    return StatusServer(reactor, runtime, snapshot, told["jobs"].get, Metrics("bait", "x"), acts)


def main() -> None:
    """Serve until killed; says `ready` when it does."""
    servers = [server(runtime, told) for runtime, told in json.loads(Path(sys.argv[1]).read_text()).items()]
    starts = DeferredList([Deferred.fromCoroutine(each.start()) for each in servers], fireOnOneErrback=True)
    starts.addCallback(lambda _: print("ready", flush=True))
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
