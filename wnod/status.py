"""The daemons' window for people: an HTTP server on a Unix socket. `wnod.ask` is its other end.

Whoever may open the socket (mode 0660: root and the group wnod) may read. The few acts that a daemon offers are for
root and the daemon's own user: the kernel says who asks.
"""

import json
import os
import pwd
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort, IReactorUNIX

from wnod.ask import socket_path
from wnod.metrics import Metrics, metrics_page
from wnod.pages import Act, Answer, Page, serve_pages
from wnod.unixsocket import remove_socket

Snapshot = Callable[[], Mapping[str, Any]]
Explain = Callable[[str], Mapping[str, Any] | None]
Do = Callable[[Mapping[str, str], str], tuple[int, Mapping[str, Any]]]
"""Does what somebody who may asks for: arguments and his name to HTTP status and answer."""


class StatusServer:
    """Answers GET /status /vms /jobs /past /environments /explain?job=ID /metrics with what the daemon gives it.

    And POST /NAME for each of `acts`.
    """

    def __init__(
        self,
        reactor: IReactorUNIX,
        runtime: str,
        snapshot: Snapshot,
        explain: Explain = lambda job: None,
        metrics: Metrics | None = None,
        acts: Mapping[str, Do] | None = None,
    ) -> None:
        """`snapshot` and `explain` are called per question and return plain JSON values; None: no such job."""
        self.path = socket_path(runtime)
        self._reactor = reactor
        self._pages = _pages(snapshot, explain, metrics)
        self._acts = {name: _guarded(name, do) for name, do in (acts or {}).items()}
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Listen, replacing the socket a crashed predecessor left."""
        os.makedirs(os.path.dirname(self.path), mode=0o711, exist_ok=True)
        remove_socket(self.path)
        endpoint: Any = UNIXServerEndpoint(self._reactor, self.path, mode=0o660)  # type: ignore[no-untyped-call]
        self._port = await serve_pages(endpoint, self._pages, self._acts)

    async def stop(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()  # type: ignore[misc] # None only for ports that need no waiting
            remove_socket(self.path)


def _pages(snapshot: Snapshot, explain: Explain, metrics: Metrics | None) -> dict[str, Page]:
    def part(name: str) -> Page:
        return lambda arguments: _json(snapshot().get(name, []))

    def explanation(arguments: Mapping[str, str]) -> Answer:
        answer = explain(arguments.get("job", ""))
        return _json({"error": "unknown job"}, 404) if answer is None else _json(answer)

    names = ("vms", "jobs", "past", "environments", "spares", "golden", "quarantine")
    pages: dict[str, Page] = {name: part(name) for name in names}
    pages["status"] = lambda arguments: _json({k: v for k, v in snapshot().items() if k != "past"})
    pages["explain"] = explanation
    if metrics is not None:
        pages["metrics"] = metrics_page(metrics)
    return pages


def _guarded(name: str, do: Do) -> Act:
    """Only for root and whoever this daemon runs as."""

    def act(arguments: Mapping[str, str], uid: int) -> Answer:
        if uid not in (0, os.geteuid()):
            may = " and ".join(dict.fromkeys((user_name(0), user_name(os.geteuid()))))
            return _json({"error": f"{user_name(uid)} may look, but not {name}: {may} may; try it with sudo"}, 403)
        status, answer = do(arguments, user_name(uid))
        return _json(answer, status)

    return act


def user_name(uid: int) -> str:
    """Who that is, for people."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return f"uid {uid}"


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value, ensure_ascii=True).encode("ascii"), status=status)
