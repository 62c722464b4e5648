"""GET / and its files."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ttc.serving.page import PAGE_HEADERS, page_files

__all__ = ["PAGE_PATHS", "page_routes"]

_FILES = page_files()
PAGE_PATHS = frozenset(_FILES)


def page_routes() -> list[Route]:
    """Return one route for each file; other paths stay unknown."""
    return [Route(path, _giving(content, kind)) for path, (content, kind) in sorted(_FILES.items())]


def _giving(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def give(request: Request) -> Response:
        return Response(content, headers=dict(PAGE_HEADERS), media_type=media_type)

    return give
