"""A few HTTP pages on a Twisted endpoint, and the few acts that some may do: all that is needed of a web server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from twisted.internet.interfaces import IAddress, IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from wnod import unixsocket

_log = Logger(namespace="wnod.pages")

JSON = "application/json"
MOST_BODY = 4096
"""Bytes of a request's body. None of ours has any."""
MOST_CONNECTIONS = 100
"""At a time. Whoever reaches the port may make some, and each takes a descriptor that the daemon may need."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: bytes
    content_type: str = JSON
    status: int = 200


Page = Callable[[Mapping[str, str]], Answer]
"""Called per GET with the query's arguments (the first of each name)."""


Act = Callable[[Mapping[str, str], int], Answer]
"""Called per POST with the arguments and the uid of the process that asked, as the kernel knows it."""


async def serve_pages(
    endpoint: IStreamServerEndpoint, pages: Mapping[str, Page], acts: Mapping[str, Act] | None = None
) -> IListeningPort:
    """Answer GET /NAME for each page, POST /NAME for each act; 404 and 405 for the rest.

    Acts are for Unix sockets only: nothing else says who asks. The endpoint's errors pass through.
    """
    root: Any = _Root()  # type: ignore[no-untyped-call]
    for name, page in pages.items():
        root.putChild(name.encode("ascii"), _Leaf(page))
    for name, act in (acts or {}).items():
        root.putChild(name.encode("ascii"), _Doing(act))
    site: Any = Site(root, timeout=30)  # type: ignore[no-untyped-call]
    site.log = lambda request: None  # an access log line per scrape helps nobody
    site.requestFactory = _Bounded
    few: Any = _Few(site)  # type: ignore[no-untyped-call]
    port: IListeningPort = await endpoint.listen(few)
    return port


class _Few(WrappingFactory):
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override] # noqa: N802 - Twisted's name
        """None: one connection too many, it is closed."""
        return super().buildProtocol(addr) if len(self.protocols) < MOST_CONNECTIONS else None


class _Bounded(Request):
    """Keeps no body: Twisted would write a long one to the disk, as long as somebody sends."""

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Some of the body."""
        request: Any = self
        if request.content.tell() + len(data) <= MOST_BODY:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]
        else:
            request.channel.transport.loseConnection()


class _Root(Resource):
    def getChild(self, path: bytes, request: Request) -> IResource:  # noqa: N802 - Twisted's name
        """What has no name here."""
        return notFound()


class _Only(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name
    methods: tuple[bytes, ...] = ()

    def render(self, request: Request) -> Any:
        """By these methods only."""
        if request.method in self.methods:
            return super().render(request)  # type: ignore[no-untyped-call]
        response: Any = request
        response.setHeader(b"allow", b", ".join(self.methods))
        return _answered(request, lambda: Answer(b"not by this method", "text/plain", 405))


class _Leaf(_Only):
    methods = (b"GET", b"HEAD")

    def __init__(self, page: Page) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._page = page

    def render_GET(self, request: Request) -> bytes:  # noqa: N802 - Twisted's name
        """Answer, or say that it went wrong: a question must never harm the daemon."""
        return _answered(request, lambda: self._page(_arguments(request)))


class _Doing(_Only):
    methods = (b"POST",)

    def __init__(self, act: Act) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._act = act

    def render_POST(self, request: Request) -> bytes:  # noqa: N802 - Twisted's name
        """Do it, or say why not."""
        return _answered(request, lambda: self._act(_arguments(request), _peer_uid(request)))


def _answered(request: Request, answers: Callable[[], Answer]) -> bytes:
    try:
        answer = answers()
    except Exception:
        _log.failure("cannot answer {uri}", uri=ascii(request.uri))
        answer = Answer(b'{"error": "internal error: see the daemon\'s log"}', status=500)
    response: Any = request
    response.setResponseCode(answer.status)
    response.setHeader(b"content-type", answer.content_type.encode("ascii"))
    return answer.body


def _peer_uid(request: Request) -> int:
    return unixsocket.peer_uid(cast(Any, request).channel.transport.socket)


def _arguments(request: Request) -> dict[str, str]:
    given: Mapping[bytes, list[bytes]] = request.args or {}
    return {name.decode("utf-8", "replace"): values[0].decode("utf-8", "replace") for name, values in given.items()}
