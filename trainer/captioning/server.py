"""Captions from a server that speaks OpenAI's protocol: Ollama, llama.cpp, vLLM, LM Studio.

Pictures leave this machine only for the address that its owner gave: on the command line, or in
`places.SERVERS` for the page, which names a server of that file and never an address. Redirections
are not followed, and no proxy of the environment is used.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import tomlkit
from PIL import Image
from pydantic import Field, ValidationError
from tomlkit.exceptions import TOMLKitError

from trainer import places
from trainer.captioning.sets import Captioner
from trainer.captioning.wording import Wording
from trainer.config.section import Section
from trainer.data.findings import ImageProblem
from trainer.errors import UserError
from trainer.text import first_line
from trainer.untyped import is_list, is_mapping

CONNECTING = 5.0
"""Seconds."""
MOST_BYTES = 2_000_000
"""Of an answer; the rest is not read."""
MOST_TOKENS = 400
_EXAMPLE = "http://127.0.0.1:11434/v1"
KEY_VARIABLE = "RAREBIT_KEY"


class Server(Section):
    """A server and the model that is asked there."""

    address: str = Field(min_length=1, max_length=2000)  # such as ``http://127.0.0.1:11434/v1``
    # As the server calls it; "" where it has but one.
    model: str = Field(default="", max_length=200)
    # Sent as the bearer token where there is one.
    key: str = Field(default="", max_length=4000, repr=False)
    parallel: int = Field(default=4, ge=1, le=32)  # requests at a time
    timeout: float = Field(default=120.0, gt=0, le=3600)  # without a byte, and of a whole answer
    side: int = Field(default=768, ge=64, le=4096)  # pixels of the longer side of what is sent

    @property
    def url(self) -> str:
        """Where requests go.

        Raises:
            UserError: the address is none.
        """
        text = self.address.strip()
        text = (text if "://" in text else f"http://{text}").rstrip("/")
        try:
            parts = urlsplit(text)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname)
            valid = valid and not (parts.username or parts.query or parts.fragment)
            valid = valid and (parts.port is None or parts.port > 0)
        except ValueError:
            valid = False
        if not valid:
            raise UserError(
                f"{self.address!r} is not a server's address.", f"Give one such as {_EXAMPLE}"
            )
        for end in ("/chat/completions", "/v1"):
            text = text.removesuffix(end)
        return f"{text}/v1/chat/completions"

    @property
    def shown(self) -> str:
        """Where it is, for people."""
        return urlsplit(self.url).netloc


class ServerCaptioner(Captioner):
    """Asks a server about each picture."""

    def __init__(self, server: Server) -> None:
        self.server, self.url = server, server.url
        self.title = f"{server.model or 'the model'} at {server.shown}"
        self.parallel = server.parallel
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        timeout = httpx.Timeout(server.timeout, connect=CONNECTING)
        self.client = httpx.Client(
            headers=headers, timeout=timeout, follow_redirects=False, trust_env=False
        )

    def caption(self, name: str, picture: Image.Image, wording: Wording) -> str:
        """The answer of the server's model."""
        body = {
            **({"model": self.server.model} if self.server.model else {}),
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": wording.instruction},
                        {
                            "type": "image_url",
                            "image_url": {"url": _data_url(picture, self.server)},
                        },
                    ],
                }
            ],
            "max_tokens": MOST_TOKENS,
            "temperature": 0.2,
        }
        return answer_in(self._ask(body), self.server.shown)

    def _ask(self, body: Mapping[str, object]) -> bytes:
        """The answer's bytes.

        Raises:
            ImageProblem: no answer in time, or none to this picture.
            UserError: no server there, or it refuses all requests.
        """
        at, seconds = self.server.shown, self.server.timeout
        try:
            with self.client.stream("POST", self.url, json=body) as response:
                data = _bounded(response, seconds)
                _check(response.status_code, data, self.server)
                return data
        except (httpx.ConnectTimeout, httpx.ConnectError) as error:
            raise UserError(
                f"There is no server at {at} ({first_line(error, 120)}).",
                f"Start it, or check the address, such as {_EXAMPLE}",
            ) from None
        except httpx.TimeoutException:
            raise ImageProblem(
                f"{at} gave no answer within {seconds:.0f} seconds.",
                "Wait longer with --timeout, ask for fewer at a time, or take a smaller model.",
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ImageProblem(
                f"{at} broke off its answer ({first_line(error, 120)}).", "Try it again."
            ) from None


def _bounded(response: httpx.Response, seconds: float) -> bytes:
    """The first `MOST_BYTES` of an answer; one that trickles in is ended after ``seconds``."""
    data, end = b"", time.monotonic() + seconds
    for piece in response.iter_bytes():
        data += piece
        if len(data) > MOST_BYTES:
            break
        if time.monotonic() > end:
            raise httpx.ReadTimeout("it trickles")
    return data[:MOST_BYTES]


def _check(status: int, data: bytes, server: Server) -> None:
    """Raises for an answer that is none: `UserError` where any other would be refused as well."""
    if 200 <= status < 300:
        return
    at, said = server.shown, _said(data)
    if status in (401, 403):
        raise UserError(
            f"{at} wants a key, or refuses this one ({status}{said}).",
            f"Set the variable {KEY_VARIABLE}, or write key into {places.SERVERS.name}.",
        )
    if status == 404:
        model = server.model or "a model by that name"
        raise UserError(
            f"{at} has no {model}, or does not speak this protocol (404{said}).",
            "Name one of its models, and give the address that ends in /v1.",
        )
    if 300 <= status < 400:
        raise UserError(
            f"{at} sends requests to another address ({status}), which is not followed.",
            "Give that address itself.",
        )
    reason = f"{at} refused this picture ({status}{said})."
    hint = "Choose a model that sees pictures." if status == 400 else "Try it again later."
    raise ImageProblem(reason, hint)


def _said(data: bytes) -> str:
    """What an answer gives as its reason, cut."""
    try:
        value: Any = json.loads(data)
        error = value.get("error", value) if is_mapping(value) else value
        text = error.get("message", "") if is_mapping(error) else error
        return f": {' '.join(str(text).split())[:200]}" if text else ""
    except (ValueError, RecursionError):
        return ""


def answer_in(data: bytes, at: str) -> str:
    """The text in a server's answer.

    Raises:
        ImageProblem: there is none.
    """
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        kind = "a web page" if data.lstrip()[:1] == b"<" else "no JSON"
        raise ImageProblem(f"{at} answered with {kind}.", "Give the address of its API.") from None
    try:
        text: Any = value["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        text = None
    if is_list(text):
        text = " ".join(str(part.get("text", "")) for part in text if is_mapping(part))
    if not isinstance(text, str) or not text.strip():
        raise ImageProblem(
            f"{at} answered without a caption.", "Choose a model that sees pictures."
        )
    if value["choices"][0].get("finish_reason") == "length":  # cut off in the middle
        text = text[: max(text.rfind(","), text.rfind("."), 0)]
        if not text.strip():
            raise ImageProblem(f"{at} broke off its caption.", "Ask for a shorter one.")
    return text


def _data_url(picture: Image.Image, server: Server) -> str:
    small = picture.copy()
    small.thumbnail((server.side, server.side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


# ------------------------------------------------------------------------------ the owner's list


def owner_servers(path: Path | None = None) -> dict[str, Server]:
    """The servers that the machine's owner wrote down, by name; none without the file.

    Raises:
        UserError: the file cannot be read as such a list.
    """
    file = path or places.SERVERS
    try:
        tree = tomlkit.parse(file.read_text(encoding="utf-8")).unwrap()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeError, TOMLKitError) as error:
        raise UserError(f"{file.name} cannot be read: {first_line(error, 120)}", _FORM) from None
    found: dict[str, Server] = {}
    for name, value in tree.items():
        try:
            found[str(name)] = server = Server.model_validate(value)
        except ValidationError:
            raise UserError(f"{file.name}: [{name}] does not describe a server.", _FORM) from None
        _ = server.url
    return found


_FORM = f'Write it as [NAME], address = "{_EXAMPLE}", model = "…" and, if wanted, key = "…".'


def server_of(address: str, model: str, parallel: int, timeout: float) -> Server:
    """A server that the command line names, with the key of the environment.

    Raises:
        UserError: an option is out of range.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    try:
        return Server(address=address, model=model, key=key, parallel=parallel, timeout=timeout)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]} {first['input']}: {first['msg']}.") from None
