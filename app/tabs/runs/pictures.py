"""Pictures and files of runs, served to the page one by one: a browser fetches each only once."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from app.jobs import run_folder
from app.tabs.runs.publishing import zip_response
from trainer import places
from trainer.config.concepts import concepts_of
from trainer.config.file import read_config
from trainer.data.findings import ImageProblem
from trainer.data.images import load_rgb
from trainer.data.scan import look_into
from trainer.errors import UserError
from trainer.runs.layout import RunFolder, step_of

SMALL = 320  # pixels of the longer side of a small picture
MOST_OWN = 4  # of the user's own pictures are shown beside a run's
_FILE = re.compile(r"[0-9A-Za-z][\w-]{0,60}\.png")
_EVALUATION, _OWN = "evaluation", "own"
_HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",  # the address changes with the file
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
}

_FRESH_HEADERS = {**_HEADERS, "Cache-Control": "no-store"}


def picture_url(run: str, folder: str, file: Path, *, small: bool = False) -> str:
    """The address of a picture in a run folder; another one as soon as the file changes."""
    version = file.stat().st_mtime_ns // 1000
    size = "&small=1" if small else ""
    return f"pictures/{quote(run)}/{folder}/{file.name}?v={version:x}{size}"


def own_pictures(run: RunFolder) -> list[str]:
    """Addresses of the first few pictures that a run learns from, small."""
    return [
        f"pictures/{quote(run.name)}/{_OWN}/{at}.png?small=1&v={int(path.stat().st_mtime)}"
        for at, path in enumerate(_own_paths(run))
    ]


def run_files(run: RunFolder) -> list[tuple[str, str]]:
    """(label, address) of what a run has made, where it is there."""
    files = (
        ("Download the adapter", newest_adapter(run) or run.adapter),
        ("Report", run.report),
        ("Time-lapse of the previews", run.timelapse),
    )
    return [
        (label, f"files/{quote(run.name)}/{file.name}") for label, file in files if file.is_file()
    ]


def newest_adapter(run: RunFolder) -> Path | None:
    """The result; of a run that has none yet, the adapter as it was saved last."""
    steps = [] if run.adapter.is_file() else run.adapter_steps()
    newest = run.adapter_at(steps[-1]) if steps else run.adapter
    return newest if newest.is_file() else None


def routes() -> list[Route]:
    """What answers those addresses: PNG files of previews and evaluations, the pictures that a run
    learns from, its adapter, its report, its time-lapse and its zip, and nothing else."""
    return [
        Route("/pictures/{run}/{folder}/{file}", _answer),
        Route("/files/{run}/{file}", _answer_file),
    ]


def _own_paths(run: RunFolder) -> list[Path]:
    """The first few pictures of each concept, as files."""
    try:
        concepts = concepts_of(read_config(run.config))
        roots = [places.PROJECT / concept.path for concept in concepts if concept.path != Path()]
        each = -(-MOST_OWN // max(1, len(roots)))
        return [file.path for root in roots for file in look_into(root, 100_000).pictures[:each]]
    except (UserError, OSError):
        return []


async def _answer_file(request: Request) -> Response:
    """The adapter to keep under the run's name, or the report to read; it runs no script."""
    if not _is_logged_in(request):
        return Response("Not logged in.", 401)
    try:
        run = run_folder(request.path_params["run"])
    except (UserError, ValueError):
        return Response("No such run.", 404)
    file = request.path_params["file"]
    if file == f"{run.name}.zip":
        return await run_in_threadpool(zip_response, run, bool(request.query_params.get("tags")))
    adapter = newest_adapter(run)
    if adapter and file == adapter.name:
        step = "" if adapter == run.adapter else f"-{adapter.stem}"
        return FileResponse(adapter, filename=f"{run.name}{step}.safetensors")
    if file == run.timelapse.name and run.timelapse.is_file():
        return FileResponse(run.timelapse, media_type="image/webp", headers=_FRESH_HEADERS)
    if file == run.report.name and run.report.is_file():
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
        return FileResponse(run.report, media_type="text/html", headers=headers)
    return Response("No such file.", 404)


async def _answer(request: Request) -> Response:
    if not _is_logged_in(request):
        return Response("Not logged in.", 401)
    path = find_picture(*(request.path_params[name] for name in ("run", "folder", "file")))
    if path is None:
        return Response("No such picture.", 404)
    if request.query_params.get("small") or request.path_params["folder"] == _OWN:
        data = await run_in_threadpool(_small, path, path.stat().st_mtime_ns)
    else:
        data = await run_in_threadpool(path.read_bytes)
    kind = "image/jpeg" if data.startswith(b"\xff\xd8") else "image/png"
    return Response(data, media_type=kind, headers=_HEADERS)


def find_picture(run: str, folder: str, file: str) -> Path | None:
    """The file of a picture; None for whatever is not one that the page shows."""
    if not _FILE.fullmatch(file) or (folder not in (_EVALUATION, _OWN) and step_of(folder) is None):
        return None
    try:
        root = run_folder(run)
    except (UserError, ValueError):
        return None
    if folder == _OWN:
        own, number = _own_paths(root), file.removesuffix(".png")
        return own[int(number)] if number.isdecimal() and int(number) < len(own) else None
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
        return b""  # nobody's file is sent as it came
    if max(picture.size) <= SMALL and data.startswith(b"\x89PNG"):
        return data
    picture.thumbnail((SMALL, SMALL))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()
