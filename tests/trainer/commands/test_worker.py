"""The service worker: its protocol, and what it does with requests that fail or are withdrawn.

Waiting has no limit but that of the whole test, so that a busy machine fails none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.commands.worker import Arguments, Verb, Worker, verb_table
from trainer.config.file import write_config
from trainer.errors import UserError
from trainer.events import Progress
from trainer.generation.studio import Studio
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.status import own_status, write_status

reached, go_on = threading.Event(), threading.Event()


def echo(arguments: Arguments, progress: Progress) -> object:
    progress(1, 2, "half")
    return {"said": arguments.get("text")}


def refuse(arguments: Arguments, progress: Progress) -> object:
    raise UserError("No.", "Say yes.")


def fail(arguments: Arguments, progress: Progress) -> object:
    raise RuntimeError("secret detail")


def long(arguments: Arguments, progress: Progress) -> object:
    """Goes on for ever, unless it is stopped between two steps."""
    step = 0
    while True:
        step += 1
        progress(step, 0, "working")
        reached.set()
        go_on.wait()


VERBS: dict[str, Verb] = {"echo": echo, "refuse": refuse, "fail": fail, "long": long}


@dataclass
class Conversation:
    """A worker in a thread, at the other end of two pipes."""

    thread: threading.Thread
    requests: TextIO
    answers: TextIO

    def say(self, number: int, verb: str, **arguments: object) -> None:
        line = {"id": number, "verb": verb, "arguments": arguments}
        self.requests.write(json.dumps(line) + "\n")
        self.requests.flush()

    def hear(self) -> dict[str, Any]:
        return json.loads(self.answers.readline())

    def final(self, number: int) -> dict[str, Any]:
        """The answer that ends a request; progress ahead of it is skipped."""
        while True:
            answer = self.hear()
            if answer["event"] != "progress":
                assert answer["id"] == number
                return answer


class FakeStudio(Studio):
    """One that says it is loaded, until it has to forget."""

    full = True
    forgotten = threading.Event()

    @property
    def loaded(self) -> bool:
        return self.full

    def forget(self) -> None:
        self.full = False
        self.forgotten.set()


def converse(runs: Path, idle_seconds: float = 60.0, studio: Studio | None = None) -> Conversation:
    requests, answers = os.pipe(), os.pipe()
    worker = Worker(
        os.fdopen(answers[1], "w"), studio or Studio(), VERBS, runs, idle_seconds=idle_seconds
    )
    thread = threading.Thread(target=worker.serve, args=(os.fdopen(requests[0]),), daemon=True)
    thread.start()
    return Conversation(thread, os.fdopen(requests[1], "w"), os.fdopen(answers[0]))


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Conversation]:
    reached.clear()
    go_on.clear()
    conversation = converse(tmp_path)
    yield conversation
    go_on.set()
    conversation.requests.close()
    conversation.thread.join()


def test_an_answer_is_progress_and_then_one_result(worker: Conversation) -> None:
    worker.say(7, "echo", text="häh <b>")
    progress = {"event": "progress", "step": 1, "total": 2, "message": "half"}
    assert worker.hear() == {"id": 7, **progress}
    assert worker.hear() == {"id": 7, "event": "result", "value": {"said": "häh <b>"}}


@pytest.mark.parametrize(
    ("verb", "message", "hint"),
    [
        ("refuse", "No.", "Say yes."),
        ("fail", "This failed through a fault in Rarebit.", "Try it once more."),
        ("unheard", "There is no unheard here.", ""),
    ],
)
def test_a_failing_request_is_told_and_survived(
    worker: Conversation, verb: str, message: str, hint: str
) -> None:
    worker.say(1, verb)
    answer = worker.final(1)
    assert answer["event"] == "error"
    assert answer["message"] == message
    assert answer["hint"].startswith(hint)
    assert answer["code"] == ("defect" if verb == "fail" else "user_error")
    assert "secret" not in json.dumps(answer)
    worker.say(2, "echo", text="still there")
    assert worker.final(2)["value"] == {"said": "still there"}


@pytest.mark.parametrize("line", ["rubbish", "[]", "{}", '{"id": "x", "verb": "echo"}', "7"])
def test_rubbish_is_answered_without_a_number(worker: Conversation, line: str) -> None:
    worker.requests.write(f"{line}\n\n")
    worker.say(1, "echo")
    assert worker.hear()["id"] is None
    assert worker.final(1)["event"] == "result"


def test_cancel_ends_a_request_between_two_steps(worker: Conversation) -> None:
    worker.say(1, "long")
    reached.wait()
    worker.say(2, "long")
    worker.say(3, "echo")
    worker.say(0, "cancel", id=1)
    worker.say(0, "cancel", id=2)
    worker.say(0, "echo")  # read after the two, so they have been taken
    go_on.set()
    finals = [worker.final(number) for number in (1, 2, 3)]
    assert [answer.get("message") for answer in finals] == ["Stopped.", "Stopped.", None]
    assert finals[2]["event"] == "result"


def test_the_end_of_the_input_ends_what_is_under_way(worker: Conversation) -> None:
    worker.say(1, "long")
    reached.wait()
    worker.requests.close()
    go_on.set()
    assert worker.final(1)["code"] == "cancelled"
    worker.thread.join()


def test_an_idle_worker_ends(tmp_path: Path) -> None:
    conversation = converse(tmp_path, idle_seconds=0.05)
    conversation.thread.join()


def a_run_at_work(root: Path) -> RunFolder:
    """This very process is alive, so a status in its name is that of a run at work."""
    run = create_run(root, "busy")
    write_config(run.config, small_config(Path("base"), Path("images")))
    write_status(run, replace(own_status("training"), step=3, total_steps=9))
    return run


def test_the_memory_is_given_back_when_a_run_begins(tmp_path: Path) -> None:
    studio = FakeStudio()
    a_run_at_work(tmp_path)
    conversation = converse(tmp_path, studio=studio)
    studio.forgotten.wait()
    conversation.requests.close()


def a_drawing(tiny_base: TinyBase, tmp_path: Path) -> dict[str, object]:
    small = {"prompt": "a thing", "count": 1, "inference_steps": 2}
    return {**small, "base": str(tiny_base("sd1")), "out": str(tmp_path / "out")}


def test_nothing_is_drawn_while_a_run_is_at_work(tmp_path: Path, tiny_base: TinyBase) -> None:
    run = a_run_at_work(tmp_path / "runs")
    draw = verb_table(Studio(), tmp_path / "runs")["generate"]
    arguments = a_drawing(tiny_base, tmp_path)
    with pytest.raises(UserError, match="busy is at step 3 of 9") as refusal:
        draw(arguments, lambda *_: None)
    assert "Runs" in refusal.value.hint
    assert not (tmp_path / "out").exists()
    write_status(run, own_status("finished"))
    assert draw(arguments, lambda *_: None) == {"files": [str(tmp_path / "out" / "000001.png")]}


def test_adapter_verbs_answer_what_the_command_prints(tmp_path: Path, tiny_base: TinyBase) -> None:
    config = small_config(tiny_base("sd1"), make_images(tmp_path / "images"))
    adapter = train_small(config, tmp_path / "run")[0].run.adapter
    table = verb_table(Studio(), tmp_path)
    found: Any = table["adapter.inspect"]({"file": str(adapter)}, lambda *_: None)
    assert found["trigger_words"] == ["ohwx"]
    smaller = tmp_path / "smaller.safetensors"
    arguments = {"file": str(adapter), "rank": 1, "out": str(smaller)}
    written: Any = table["adapter.resize"](arguments, lambda *_: None)
    assert (written["file"], written["ranks"]) == (str(smaller), [1])
    with pytest.raises(UserError, match="exists already"):
        table["adapter.resize"](arguments, lambda *_: None)
    for wrong in ({"rank": "x"}, {"rank": 1, "unheard": 1}, {"layout": "kohya"}):
        with pytest.raises(UserError, match=r"rank|unheard|layout"):
            table["adapter.resize"]({"file": str(adapter), "out": "x", **wrong}, lambda *_: None)
    with pytest.raises(UserError, match="--rank, --energy and --keep-likeness"):
        table["adapter.resize"]({"file": str(adapter), "out": "x"}, lambda *_: None)


def test_the_process_keeps_its_output_for_answers(tmp_path: Path, tiny_base: TinyBase) -> None:
    """What libraries print goes elsewhere; the process ends with its input."""
    noisy = tmp_path / "sitecustomize.py"
    noisy.write_text("import atexit\nprint('noise')\natexit.register(print, 'more noise')\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAREBIT_RUNS": str(tmp_path / "runs")}
    request = a_drawing(tiny_base, tmp_path)
    line = json.dumps({"id": 5, "verb": "generate", "arguments": request})
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", "service"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline())]
        while answers[-1]["event"] == "progress":
            answers.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait() == 0
    assert [answer["step"] for answer in answers[:-1]] == [0, 1, 2]
    assert answers[-1]["value"] == {"files": [str(tmp_path / "out" / "000001.png")]}
