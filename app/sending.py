"""The first load made small: gradio packs its scripts but not the page, and lets none be kept."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FOREVER = "public, max-age=31536000, immutable"
_STYLES = f"assets/rarebit-{version('gradio')}.css"
_SMALL = 12_000  # bytes of a style sheet; the larger ones belong to components that few pages have


class LightMiddleware:
    """Packs the page, and lets a browser keep scripts whose names change with their content."""

    def __init__(self, app: ASGIApp) -> None:
        from gradio.brotli_middleware import BrotliMiddleware  # takes seconds, as gradio does

        class Packed(BrotliMiddleware):
            def _is_compressible_file_type(self, scope: Scope) -> bool:
                return True

        self.app, self.packed = app, Packed(app, quality=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path == "/":
            await self.packed(scope, receive, send)
            return

        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = _FOREVER
            await send(message)

        await self.app(scope, receive, send_kept if path.startswith("/assets/") else send)


@cache
def _sheets() -> tuple[Path, ...]:
    """Gradio's style sheets that are sent as one: each would be a request of its own."""
    package = find_spec("gradio")
    assert package is not None and package.origin is not None
    assets = Path(package.origin).parent / "templates" / "frontend" / "assets"
    first = "".join(
        one.read_text(encoding="utf-8") for one in assets.glob("index-*.js")
    )  # names its own
    small = (one for one in sorted(assets.glob("*.css")) if one.stat().st_size < _SMALL)
    return tuple(one for one in small if one.name not in first)


def style_links() -> str:
    """For the page's head: the one style sheet. The others are named, so that none is fetched."""
    named = (f'<link rel="stylesheet" href="assets/{one.name}" disabled>' for one in _sheets())
    return f'<link rel="stylesheet" href="{_STYLES}">{"".join(named)}'


def routes() -> list[Route]:
    """What answers for the style sheet, and for gradio's script of pages in frames of others."""

    def styles(request: Request) -> Response:
        return Response(
            "".join(one.read_text(encoding="utf-8") for one in _sheets()), media_type="text/css"
        )

    def nothing(request: Request) -> Response:
        return Response(media_type="text/javascript")

    frames = "/static/js/iframeResizer.contentWindow.min.js"
    return [Route(f"/{_STYLES}", styles), Route(frames, nothing)]
