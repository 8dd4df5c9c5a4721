"""The service worker: what the page asks of the library between trainings, in one process.

One JSON object a line. A request ``{"id": 1, "verb": "generate", "arguments": {…}}`` is answered by
any number of ``{"id": 1, "event": "progress", "step": 3, "total": 25, "message": "…"}`` and then
exactly one ``{"id": 1, "event": "result", "value": …}`` or ``{"id": 1, "event": "error",
"message": "…", "hint": "…", "code": "…"}``. Requests are done one after the other; ``{"verb":
"cancel", "arguments": {"id": 1}}`` ends one at its next step. A base model stays loaded from one
request to the next, until a training needs the device. The process ends with its input, or when
idle.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pydantic import ConfigDict, ValidationError, create_model

from trainer.commands import adapter, adapter_repair
from trainer.commands.caption import propose
from trainer.commands.check_images import check_images
from trainer.commands.command import as_user_error, call, parameters_of
from trainer.commands.publish import upload_run
from trainer.commands.trigger import judge_words, suggest_words
from trainer.config.file import validate
from trainer.errors import UserError
from trainer.events import Progress
from trainer.generation.studio import GenerateRequest, Studio
from trainer.places import RUNS
from trainer.runs.layout import list_runs
from trainer.runs.status import at_work
from trainer.runs.wishes import gives_room
from trainer.untyped import is_list, is_mapping

Arguments = Mapping[str, object]
Verb = Callable[[Arguments, Progress], object]

IDLE_SECONDS = 180.0
"""After which a worker ends, and gives its memory back: about 1 GB, and a base model's."""
LOOK_AROUND_SECONDS = 2.0  # how often an idle worker looks whether a training needs its memory


class Cancelled(UserError):
    """The request was withdrawn."""

    def __init__(self) -> None:
        super().__init__("Stopped.", code="cancelled")


@dataclass(frozen=True)
class Request:
    """One line of the input."""

    id: int
    verb: str
    arguments: Arguments


def verb_table(studio: Studio, runs: Path = RUNS) -> dict[str, Verb]:
    """What can be asked for: name -> function(arguments, progress) -> JSON-able object."""
    actions = (
        *(adapter.inspect, adapter.verify, adapter.convert, adapter.resize, adapter.merge),
        *(adapter.extract, adapter.download, adapter_repair.tune, adapter_repair.together),
    )
    return {
        "generate": lambda arguments, progress: generate(studio, runs, arguments, progress),
        "trigger.judge": as_verb(judge_words),
        "trigger.suggest": as_verb(suggest_words),
        "check-images": as_verb(check_images),
        "caption": lambda arguments, progress: caption(studio, runs, arguments, progress),
        "mask": lambda arguments, progress: mask(studio, runs, arguments, progress),
        "fit": fit,
        "publish": as_verb(upload_run),
        **{f"adapter.{action.__name__}": as_verb(action) for action in actions},
    }


def as_verb(function: Callable[..., Any]) -> Verb:
    """A function of a command as a verb: its arguments by name, its answer as ``--json`` has it."""
    fields: dict[str, Any] = {
        one.name: (one.annotation, ... if one.default is one.empty else one.default)
        for one in parameters_of(function)
    }
    model = create_model("Given", __config__=ConfigDict(extra="forbid"), **fields)

    def verb(arguments: Arguments, progress: Progress) -> object:
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            checked = model.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        answer = call(function, {name: getattr(checked, name) for name in fields})
        return [one.as_dict() for one in answer] if is_list(answer) else answer.as_dict()

    return verb


def generate(
    studio: Studio, runs: Path, arguments: Arguments, progress: Progress
) -> dict[str, object]:
    """Draws pictures while nothing trains; see `trainer.generation.studio.GenerateRequest`.

    Raises:
        UserError: the device is busy, or the request can't be fulfilled.
    """
    look = watching(runs)
    look()

    def watchful(step: int, total: int, message: str) -> None:
        look()
        progress(step, total, message)

    files = studio.generate(GenerateRequest.of(arguments), watchful)
    return {"files": [str(path) for path in files]}


def caption(
    studio: Studio, runs: Path, arguments: Arguments, progress: Progress
) -> dict[str, object]:
    """Captions that nothing has written yet; see `trainer.commands.caption.CaptionRequest`.

    A model of this machine sees pictures only while nothing trains, and in the place of what the
    studio holds; a server does so beside a training.

    Raises:
        UserError: the device is busy, or the request can't be fulfilled.
    """
    make_room, ended = _making_room(studio, runs), threading.Event()

    def watchful(step: int, total: int, message: str) -> None:
        try:
            progress(step, total, message)
        except Cancelled:
            ended.set()  # the thread that looks at a picture ends too
            raise

    def check() -> None:
        if ended.is_set():
            raise Cancelled
        make_room()

    return propose(arguments, watchful, check)


def mask(studio: Studio, runs: Path, arguments: Arguments, progress: Progress) -> dict[str, object]:
    """A mask for one picture, see `trainer.captioning.masks.propose_mask`.

    A model looks for it only while nothing trains, and in the place of what the studio holds.

    Raises:
        UserError: the device is busy, or nothing is found.
    """
    from trainer.captioning.masks import propose_mask

    return propose_mask(arguments, progress, _making_room(studio, runs))


def watching(runs: Path) -> Callable[[], None]:
    """`refuse_while_training`, now and whenever it is called, but for what was looked at just now.

    Raises:
        UserError: as there.
    """
    looked = float("-inf")

    def look() -> None:
        nonlocal looked
        if time.monotonic() - looked > LOOK_AROUND_SECONDS:
            looked = time.monotonic()
            refuse_while_training(runs)

    return look


def _making_room(studio: Studio, runs: Path) -> Callable[[], None]:
    """`watching`; what the studio holds makes room as well."""
    look = watching(runs)

    def check() -> None:
        studio.forget()
        look()

    return check


def fit(arguments: Arguments, progress: Progress) -> dict[str, object]:
    """What ``fit --json`` prints, for a whole configuration as nested objects.

    Raises:
        UserError: the configuration or the base model is at fault.
    """
    from trainer.memory.prediction import predict

    tree, vram = arguments.get("config"), arguments.get("vram")
    config = validate(tree if is_mapping(tree) else {}, "config")
    return predict(config, float(vram) if isinstance(vram, int | float) else None).as_dict()


def refuse_while_training(runs: Path) -> None:
    """The device is for one thing at a time.

    Raises:
        UserError: a run is at work; it is named, and how far it is.
    """
    name = training_now(runs)
    if name is not None:
        raise UserError(
            f"The device is busy: {name}.",
            "Wait until it has finished, or stop it in the Runs tab.",
            "device_busy",
        )


def training_now(runs: Path) -> str | None:
    """The run that is at work, in words, or None; one that waits for a drawing is not."""
    for run in list_runs(runs):
        if status := at_work(run):
            if status.phase == "paused" and gives_room(run):
                continue
            return f"the run {run.name} is at step {status.step} of {status.total_steps}"
    return None


@dataclass
class Worker:
    """Reads requests in one thread and does them in another."""

    answers: TextIO
    studio: Studio
    verbs: Mapping[str, Verb]
    runs: Path = RUNS
    idle_seconds: float = IDLE_SECONDS
    _waiting: queue.Queue[Request | None] = field(default_factory=queue.Queue["Request | None"])
    _cancelled: set[int] = field(default_factory=set[int])
    _ended: threading.Event = field(default_factory=threading.Event)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, requests: TextIO) -> None:
        """Work until the input ends or nothing has come for the idle time."""
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        last = time.monotonic()
        while time.monotonic() - last < self.idle_seconds:
            try:
                pause = min(LOOK_AROUND_SECONDS, self.idle_seconds)
                request = self._waiting.get(timeout=pause)
            except queue.Empty:
                if self.studio.loaded and training_now(self.runs):
                    self.studio.forget()
                continue
            if request is None:
                return
            self._do(request)
            last = time.monotonic()

    def _read(self, requests: TextIO) -> None:
        for line in requests:
            if line.strip():
                self._take(line)
        self._ended.set()  # nobody is left to answer: what is under way ends too
        self._waiting.put(None)

    def _take(self, line: str) -> None:
        try:
            value = json.loads(line)
            verb, arguments = str(value["verb"]), dict(value.get("arguments") or {})
            if verb == "cancel":
                self._cancelled.add(int(arguments["id"]))
                return
            self._waiting.put(Request(int(value["id"]), verb, arguments))
        except (ValueError, KeyError, TypeError):
            self._refuse(None, UserError("This is no request."))

    def _do(self, request: Request) -> None:
        def progress(step: int, total: int, message: str) -> None:
            self._check(request)
            self._answer(request.id, "progress", step=step, total=total, message=message)

        try:
            self._check(request)
            verb = self.verbs.get(request.verb)
            if verb is None:
                raise UserError(f"There is no {request.verb} here.")
            self._answer(request.id, "result", value=verb(request.arguments, progress))
        except Exception as error:  # the next request may well succeed
            trouble = as_user_error(error)
            if trouble is None:
                traceback.print_exc(file=sys.stderr)
                trouble = UserError(
                    "This failed through a fault in Rarebit.",
                    "Try it once more. The terminal that Rarebit runs in says what happened.",
                    "defect",
                )
            self._refuse(request.id, trouble)

    def _check(self, request: Request) -> None:
        if self._ended.is_set() or request.id in self._cancelled:
            raise Cancelled

    def _refuse(self, number: int | None, error: UserError) -> None:
        told = {"message": error.message, "hint": error.hint, "code": error.code}
        self._answer(number, "error", **told)

    def _answer(self, number: int | None, event: str, **content: object) -> None:
        line = json.dumps({"id": number, "event": event, **content}, allow_nan=False)
        with self._writing, contextlib.suppress(BrokenPipeError):
            self.answers.write(f"{line}\n")
            self.answers.flush()
