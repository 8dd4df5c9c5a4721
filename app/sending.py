"""The page made light and quick: what gradio sends is packed, kept, and searches less."""

from __future__ import annotations

import re
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
# Gradio 6.31 searches the tree of all components, from its root, whenever it reads or changes one:
# with our 640, most of what a browser does. A map of them does, as no component comes later here.
_SEARCH = re.compile(
    r"function (\w+)\(e,t\)\{if\(e\.id===t\)return e;if\(e\.children\)for\(let n of e\.children\)"
    r"\{let e=\1\(n,t\);if\(e\)return e\}return null\}"
)
_LOOK_UP = r"""const found=new WeakMap;function \1(root,id){
    if(!found.has(root)){
        const all=new Map,left=[root];
        while(left.length){const one=left.pop();all.set(one.id,one);left.push(...one.children??[])}
        found.set(root,all);
    }
    return found.get(root).get(id)??null}"""


class LightMiddleware:
    """Packs the page, and lets a browser keep scripts whose names change with their content."""

    def __init__(self, app: ASGIApp) -> None:
        from gradio.brotli_middleware import BrotliMiddleware  # takes seconds, as gradio does

        class Packed(BrotliMiddleware):
            def _is_compressible_file_type(self, scope: Scope) -> bool:
                return True

        async def unpacked(scope: Scope, receive: Receive, send: Send) -> None:
            headers = [one for one in scope["headers"] if one[0] != b"accept-encoding"]
            await app({**scope, "headers": headers}, receive, send)

        self.app, self.packed = app, Packed(unpacked, quality=5)  # gradio's own has 4

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path == "/":
            await self.packed(scope, receive, send)
            return

        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = _FOREVER
            await send(message)

        if path.startswith("/assets/"):
            await self.packed(scope, receive, send_kept)
        else:
            await self.app(scope, receive, send)


def _assets() -> Path:
    package = find_spec("gradio")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "templates" / "frontend" / "assets"


@cache
def _sheets() -> tuple[Path, ...]:
    """Gradio's style sheets that are sent as one: each would be a request of its own."""
    assets = _assets()
    first = "".join(
        one.read_text(encoding="utf-8") for one in assets.glob("index-*.js")
    )  # asks for its own before it reads the page's head
    small = (one for one in sorted(assets.glob("*.css")) if one.stat().st_size < _SMALL)
    return tuple(one for one in small if one.name not in first)


def style_links() -> str:
    """For the page's head: the one style sheet. The others are named, so that none is fetched."""
    named = (f'<link rel="stylesheet" href="assets/{one.name}" disabled>' for one in _sheets())
    return f'<link rel="stylesheet" href="{_STYLES}">{"".join(named)}'


def routes() -> list[Route]:
    """What answers for the style sheet, for gradio's script of pages in frames of others, and for
    its script that searches components."""

    def styles(request: Request) -> Response:
        return Response(
            "".join(one.read_text(encoding="utf-8") for one in _sheets()), media_type="text/css"
        )

    def nothing(request: Request) -> Response:
        return Response(media_type="text/javascript")

    def core(request: Request) -> Response:
        return Response(quick_core(), media_type="text/javascript")

    frames = "/static/js/iframeResizer.contentWindow.min.js"
    routes = [Route(f"/{_STYLES}", styles), Route(frames, nothing)]
    return [*routes, *(Route(f"/assets/{one.name}", core) for one in _assets().glob("core-*.js"))]


@cache
def quick_core() -> str:
    """Gradio's script that holds the components, with a map of them instead of a search."""
    (script,) = _assets().glob("core-*.js")
    return _SEARCH.sub(_LOOK_UP, script.read_text(encoding="utf-8"))
