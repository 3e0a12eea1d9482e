"""A few read-only HTTP pages on a Twisted endpoint: all that metrics and status need of a web server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

_log = Logger(namespace="wnod.pages")

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: bytes
    content_type: str = JSON
    status: int = 200


Page = Callable[[Mapping[str, str]], Answer]
"""Called per GET with the query's arguments (the first of each name)."""


async def serve_pages(endpoint: IStreamServerEndpoint, pages: Mapping[str, Page]) -> IListeningPort:
    """Answer GET /NAME for each page; 404 and 405 for the rest. The endpoint's errors pass through."""
    root: Any = Resource()  # type: ignore[no-untyped-call]
    for name, page in pages.items():
        root.putChild(name.encode("ascii"), _Leaf(page))
    site: Any = Site(root, timeout=30)  # type: ignore[no-untyped-call]
    site.log = lambda request: None  # an access log line per scrape helps nobody
    port: IListeningPort = await endpoint.listen(site)
    return port


class _Leaf(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, page: Page) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._page = page

    def render_GET(self, request: Request) -> bytes:  # noqa: N802 - Twisted's name
        """Answer, or say that it went wrong: a question must never harm the daemon."""
        try:
            answer = self._page(_arguments(request))
        except Exception:
            _log.failure("cannot answer {uri}", uri=ascii(request.uri))
            answer = Answer(b'{"error": "internal error: see the daemon\'s log"}', status=500)
        response: Any = request
        response.setResponseCode(answer.status)
        response.setHeader(b"content-type", answer.content_type.encode("ascii"))
        return answer.body


def _arguments(request: Request) -> dict[str, str]:
    given: Mapping[bytes, list[bytes]] = request.args or {}
    return {name.decode("utf-8", "replace"): values[0].decode("utf-8", "replace") for name, values in given.items()}
