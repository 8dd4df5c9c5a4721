"""Pictures of runs, served to the page one by one, so that a browser fetches each of them once."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.jobs import run_folder
from trainer.data.findings import ImageProblem
from trainer.data.images import load_rgb
from trainer.errors import UserError
from trainer.runs.layout import step_of

SMALL = 320  # pixels of the longer side of a small picture
_FILE = re.compile(r"[0-9A-Za-z][\w-]{0,60}\.png")
_EVALUATION = "evaluation"
_HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",  # the address changes with the file
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
}


def picture_url(run: str, folder: str, file: Path, *, small: bool = False) -> str:
    """The address of a picture in a run folder; another one as soon as the file changes."""
    version = file.stat().st_mtime_ns // 1000
    size = "&small=1" if small else ""
    return f"pictures/{quote(run)}/{folder}/{file.name}?v={version:x}{size}"


def picture_route() -> Route:
    """What answers those addresses: PNG files of previews and evaluations, and nothing else."""
    return Route("/pictures/{run}/{folder}/{file}", _answer)


async def _answer(request: Request) -> Response:
    if not _is_logged_in(request):
        return Response("Not logged in.", 401)
    path = find_picture(*(request.path_params[name] for name in ("run", "folder", "file")))
    if path is None:
        return Response("No such picture.", 404)
    if request.query_params.get("small"):
        data = await run_in_threadpool(_small, path, path.stat().st_mtime_ns)
    else:
        data = await run_in_threadpool(path.read_bytes)
    kind = "image/jpeg" if data.startswith(b"\xff\xd8") else "image/png"
    return Response(data, media_type=kind, headers=_HEADERS)


def find_picture(run: str, folder: str, file: str) -> Path | None:
    """The file of a picture; None for whatever is not one that the page shows."""
    if not _FILE.fullmatch(file) or (folder != _EVALUATION and step_of(folder) is None):
        return None
    try:
        root = run_folder(run)
    except (UserError, ValueError):
        return None
    inside = root.path / folder if folder == _EVALUATION else root.previews / folder
    path = inside / file
    links = any(part.is_symlink() for part in (path, inside, inside.parent))
    return path if path.is_file() and not links else None


def _is_logged_in(request: Request) -> bool:
    """Whether Gradio knows this browser, where it asks for a login at all."""
    app = request.app
    if getattr(app, "auth", None) is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)


@lru_cache(maxsize=512)
def _small(path: Path, changed: int) -> bytes:
    """A picture made small; as it is where it is small already or cannot be read."""
    data = path.read_bytes()
    try:
        picture = load_rgb(data)
    except ImageProblem:
        return data
    if max(picture.size) <= SMALL:
        return data
    picture.thumbnail((SMALL, SMALL))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()
