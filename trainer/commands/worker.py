"""The service worker: what the page asks of the library between trainings, in one process.

One JSON object a line. A request ``{"id": 1, "verb": "generate", "arguments": {…}}`` is answered by
any number of ``{"id": 1, "event": "progress", "step": 3, "total": 25, "message": "…"}`` and then
exactly one ``{"id": 1, "event": "result", "value": {…}}`` or ``{"id": 1, "event": "error",
"message": "…", "hint": "…"}``. Requests are done one after the other; ``{"verb": "cancel",
"arguments": {"id": 1}}`` ends one at its next step. A base model stays loaded from one request to
the next, until a training needs the device. The process ends with its input, or when idle.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trainer.errors import UserError
from trainer.events import Progress
from trainer.places import RUNS
from trainer.runs.layout import list_runs
from trainer.runs.status import ENDED, effective_status

if TYPE_CHECKING:
    from trainer.generation.studio import Studio

Arguments = Mapping[str, object]
Verb = Callable[[Arguments, Progress], object]

IDLE_SECONDS = 600.0
LOOK_AROUND_SECONDS = 2.0
"""How often an idle worker looks whether a training needs its memory."""

CANCELLED = "Stopped."


class Cancelled(Exception):
    """The request was withdrawn."""


@dataclass(frozen=True)
class Request:
    """One line of the input."""

    id: int
    verb: str
    arguments: Arguments


def verb_table(studio: Studio, runs: Path = RUNS) -> dict[str, Verb]:
    """What can be asked for: name -> function(arguments, progress) -> JSON-able object."""
    table: dict[str, Verb] = {
        "generate": lambda arguments, progress: generate(studio, runs, arguments, progress),
        "trigger.judge": judge_trigger,
        "trigger.suggest": suggest_triggers,
        "check-images": command_verb(("check-images",), "folder"),
        "fit": fit,
        "evaluate": lambda arguments, progress: evaluate(runs, arguments, progress),
        "ping": lambda _, __: {"loaded": studio.loaded},
    }
    for action, positional in ADAPTER_ACTIONS.items():
        table[f"adapter.{action}"] = command_verb(("adapter", action), positional)
    return table


# Each action of `adapter`, and which of its arguments has no option's name.
ADAPTER_ACTIONS = {
    "inspect": "file",
    "verify": "file",
    "convert": "file",
    "resize": "file",
    "merge": "files",
    "extract": "",
    "download": "file",
}


def generate(
    studio: Studio, runs: Path, arguments: Arguments, progress: Progress
) -> dict[str, object]:
    """Draws pictures while nothing trains; see `trainer.generation.studio.GenerateRequest`.

    Raises:
        UserError: the device is busy, or the request can't be fulfilled.
    """
    from trainer.generation.studio import GenerateRequest

    refuse_while_training(runs)
    looked = time.monotonic()

    def watchful(step: int, total: int, message: str) -> None:
        nonlocal looked
        if time.monotonic() - looked > LOOK_AROUND_SECONDS:
            looked = time.monotonic()
            refuse_while_training(runs)
        progress(step, total, message)

    files = studio.generate(GenerateRequest.of(arguments), watchful)
    return {"files": [str(path) for path in files]}


def fit(arguments: Arguments, progress: Progress) -> dict[str, object]:
    """What ``fit --json`` prints, for a whole configuration as nested objects.

    Raises:
        UserError: the configuration or the base model is at fault.
    """
    from trainer.config.file import validate
    from trainer.memory.prediction import predict

    tree, vram = arguments.get("config"), arguments.get("vram")
    config = validate(tree if isinstance(tree, Mapping) else {}, "config")
    return predict(config, float(vram) if isinstance(vram, int | float) else None).as_json()


def judge_trigger(arguments: Arguments, progress: Progress) -> list[dict[str, object]]:
    """Verdicts on ``words``; see `trainer.commands.trigger.judge_words`.

    Raises:
        UserError: the base model or the images can't be read.
    """
    from trainer.commands.trigger import judge_words

    given = arguments.get("words")
    words = [str(word) for word in given] if isinstance(given, list) else []
    return [one.as_dict() for one in judge_words(words, *_subject(arguments))]


def suggest_triggers(arguments: Arguments, progress: Progress) -> list[dict[str, object]]:
    """Rare words; see `trainer.commands.trigger.suggest_words`.

    Raises:
        UserError: the base model or the images can't be read.
    """
    from trainer.commands.trigger import SUGGESTIONS, suggest_words

    return [one.as_dict() for one in suggest_words(SUGGESTIONS, *_subject(arguments))]


def _subject(arguments: Arguments) -> tuple[str, str, Path | None]:
    """Base model, class word and image set of a question about trigger words."""
    images = arguments.get("images")
    base, class_word = (str(arguments.get(name) or "") for name in ("base", "class_word"))
    return base, class_word, Path(str(images)) if images else None


def evaluate(runs: Path, arguments: Arguments, progress: Progress) -> object:
    """Measures a run or an adapter file while nothing trains; the arguments of ``evaluate``, with
    ``target`` for the run or file.

    Raises:
        UserError: the device is busy, or there is nothing to measure.
    """
    refuse_while_training(runs)
    return command_verb(("evaluate",), "target")(arguments, progress)


def refuse_while_training(runs: Path) -> None:
    """The device is for one thing at a time.

    Raises:
        UserError: a run is at work; it is named, and how far it is.
    """
    name = training_now(runs)
    if name is not None:
        raise UserError(
            f"The device is busy: {name}.",
            "Wait until it has finished, or stop it on the Runs screen.",
        )


def training_now(runs: Path) -> str | None:
    """The run that is at work, in words, or None."""
    for run in list_runs(runs):
        status = effective_status(run)
        if status is not None and status.phase not in ENDED:
            return f"the run {run.name} is at step {status.step} of {status.total_steps}"
    return None


def command_verb(command: tuple[str, ...], positional: str = "") -> Verb:
    """A command of the command line as a verb: same arguments, and what it prints with --json."""

    def run(arguments: Arguments, progress: Progress) -> object:
        from trainer.commands.cli import build_parser

        printed, complaint = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                with contextlib.redirect_stderr(complaint):
                    line = command_line(command, positional, arguments)
                    options = build_parser().parse_args(line)
            except SystemExit:
                raise UserError(complaint.getvalue().strip().rpartition("error: ")[2]) from None
            options.command(options)
        return json.loads(printed.getvalue())

    return run


def command_line(command: tuple[str, ...], positional: str, arguments: Arguments) -> list[str]:
    """A verb's arguments as the command line has them; no value is ever taken for an option."""
    options: list[str] = []
    values: list[str] = []
    for name, value in arguments.items():
        if name == positional:
            values = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        elif value is True:
            options.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False:
            options.append(f"--{name.replace('_', '-')}={value}")
    return [*command, "--json", *options, "--", *values]


@dataclass
class Worker:
    """Reads requests in one thread and does them in another."""

    answers: TextIO
    studio: Studio
    verbs: Mapping[str, Verb]
    runs: Path = RUNS
    idle_seconds: float = IDLE_SECONDS
    _waiting: queue.Queue[Request | None] = field(default_factory=queue.Queue)
    _cancelled: set[int] = field(default_factory=set)
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
            self._answer(None, "error", message="This is no request.", hint="")

    def _do(self, request: Request) -> None:
        try:
            self._check(request)
            verb = self.verbs.get(request.verb)
            if verb is None:
                raise UserError(f"There is no {request.verb} here.")
            value = verb(request.arguments, lambda *told: self._progress(request, *told))
        except Cancelled:
            self._answer(request.id, "error", message=CANCELLED, hint="")
        except UserError as error:
            self._answer(request.id, "error", message=error.message, hint=error.hint)
        except Exception as error:  # the next request may well succeed
            traceback.print_exc(file=sys.stderr)
            message, hint = explained(error)
            self._answer(request.id, "error", message=message, hint=hint)
        else:
            self._answer(request.id, "result", value=value)

    def _check(self, request: Request) -> None:
        if self._ended.is_set() or request.id in self._cancelled:
            raise Cancelled

    def _progress(self, request: Request, step: int, total: int, message: str) -> None:
        self._check(request)
        self._answer(request.id, "progress", step=step, total=total, message=message)

    def _answer(self, number: int | None, event: str, **content: object) -> None:
        line = json.dumps({"id": number, "event": event, **content}, allow_nan=False)
        with self._writing, contextlib.suppress(BrokenPipeError):
            self.answers.write(f"{line}\n")
            self.answers.flush()


def explained(error: Exception) -> tuple[str, str]:
    """What a person is told of an exception that nobody foresaw, and what to do."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return (
            "There was not enough memory for this.",
            "Draw smaller pictures, or close other programs that use the graphics card.",
        )
    if isinstance(error, OSError) and error.strerror:
        return f"A file could not be read or written: {error.strerror}.", ""
    return (
        "This failed through a fault in Rarebit.",
        "Try it once more. The terminal that Rarebit runs in says what happened.",
    )
