"""The languages of the page: a catalogue each, from the English text to the other.

The English text in the code is the key. app/language.js puts the other language into its place in
the browser, so that no tab knows of it.
"""

from __future__ import annotations

import json
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_FOLDER = Path(__file__).with_name("words")
LANGUAGES = tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))
"""Those beside English, as browsers name them without their country."""


def catalogue(language: str) -> dict[str, str]:
    """The texts of a language by the English ones; ``{}`` is what is filled in.

    ``{2}`` in a translation is the second thing filled in, where the order differs.
    """
    return json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))


def routes() -> list[Route]:
    """What answers ``words/de.json``: for everyone, since it holds nothing of the user's."""
    return [Route("/words/{language}.json", _answer)]


async def _answer(request: Request) -> Response:
    language = request.path_params["language"]
    if language not in LANGUAGES:
        return Response("No such language.", 404)
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return FileResponse(_FOLDER / f"{language}.json", headers=headers)
