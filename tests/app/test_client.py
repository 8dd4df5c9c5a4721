"""The client of the service worker, against a worker that does as it is told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app import jobs
from app.client import ServiceClient, ShouldStop, Stopped, follow
from trainer.errors import UserError
from trainer.events import Progress

WORKER = """
import json, os, sys, time
cancelled = False
for line in sys.stdin:
    request = json.loads(line)
    number, verb, arguments = request.get("id"), request["verb"], request["arguments"]

    def answer(event, **content):
        print(json.dumps({"id": number, "event": event, **content}), flush=True)

    if verb == "pid":
        print(json.dumps({"id": -1, "event": "result", "value": "of nobody"}), flush=True)
        answer("progress", step=1, total=2, message="half")
        answer("result", value=os.getpid())
    elif verb == "refuse":
        answer("error", message="No.", hint="Say yes.")
    elif verb == "crash":
        answer("progress", step=1, total=2, message="soon")
        os._exit(11)
    elif verb == "crash at once":
        os._exit(11)
    elif verb == "end":
        answer("result", value=None)
        sys.exit()
    elif verb == "until cancelled":
        answer("progress", step=1, total=0, message="working")
        cancel = json.loads(sys.stdin.readline())
        assert cancel == {"verb": "cancel", "arguments": {"id": number}}, cancel
        answer("error", message="Stopped.", hint="")
    elif verb == "silence":
        time.sleep(60)
"""


class Spawner:
    """Starts such workers and counts them."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self.started: list[jobs.ServiceProcess] = []

    def __call__(self) -> jobs.ServiceProcess:
        process = subprocess.Popen(
            [sys.executable, str(self.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process


@pytest.fixture
def spawner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spawner:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    spawner = Spawner(script)
    monkeypatch.setattr(jobs, "spawn_service", spawner)
    return spawner


@pytest.fixture
def client(spawner: Spawner) -> Iterator[ServiceClient]:
    client = ServiceClient()
    yield client
    client.close()
    assert all(process.poll() is not None for process in spawner.started)


def test_one_worker_serves_all_calls(client: ServiceClient, spawner: Spawner) -> None:
    told: list[tuple[int, int, str]] = []
    assert spawner.started == []
    first = client.call("pid", {}, 30, lambda *progress: told.append(progress))
    assert first == client.call("pid", {}, 30) != os.getpid()
    assert told == [(1, 2, "half")]
    assert len(spawner.started) == 1


def test_calls_from_several_threads_wait_for_each_other(
    client: ServiceClient, spawner: Spawner
) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.call("pid", {}, 30), range(8)))
    assert found == [spawner.started[0].pid] * 8
    assert len(spawner.started) == 1


def test_the_workers_words_are_passed_on(client: ServiceClient) -> None:
    with pytest.raises(UserError) as refusal:
        client.call("refuse", {}, 30)
    assert (refusal.value.message, refusal.value.hint) == ("No.", "Say yes.")
    assert client.call("pid", {}, 30)


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("verb", ["crash", "crash at once"])
def test_a_crash_is_told_and_the_next_call_starts_another_worker(
    client: ServiceClient, spawner: Spawner, verb: str, warm: bool
) -> None:
    if warm:
        client.call("pid", {}, 30)
    with pytest.raises(UserError, match="ended unexpectedly"):
        client.call(verb, {}, 30)
    crashed = len(spawner.started)
    assert client.call("pid", {}, 30) == spawner.started[-1].pid
    assert len(spawner.started) == crashed + 1


def test_a_worker_that_ended_in_peace_is_replaced_silently(
    client: ServiceClient, spawner: Spawner
) -> None:
    client.call("end", {}, 30)
    assert client.call("pid", {}, 30) == spawner.started[1].pid


def test_a_call_is_withdrawn_between_two_steps(client: ServiceClient, spawner: Spawner) -> None:
    working = threading.Event()
    with pytest.raises(Stopped):
        client.call("until cancelled", {}, 30, lambda *_: working.set(), working.is_set)
    assert client.call("pid", {}, 30) == spawner.started[0].pid


def test_a_waiting_call_can_be_withdrawn_too(client: ServiceClient) -> None:
    working, enough = threading.Event(), threading.Event()

    def long() -> None:
        with pytest.raises(Stopped):
            client.call("until cancelled", {}, 30, lambda *_: working.set(), enough.is_set)

    thread = threading.Thread(target=long)
    thread.start()
    assert working.wait(30)
    with pytest.raises(Stopped):
        client.call("pid", {}, 30, should_stop=lambda: True)
    enough.set()
    thread.join(30)
    assert not thread.is_alive()


def test_silence_ends_the_worker(
    client: ServiceClient, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.client.LOADING_SECONDS", 0.0)
    with pytest.raises(UserError, match="no answer within 1 seconds"):
        client.call("silence", {}, 0.6)
    assert spawner.started[0].poll() is not None
    assert client.call("pid", {}, 30)


# ------------------------------------------------------------------------------ following


def test_the_newest_progress_is_shown_and_the_value_returned() -> None:
    def work(tell: Progress, stop: ShouldStop) -> str:
        for step in range(1000):
            tell(step, 1000, "at work")
        return "done"

    steps, following = [], follow(work, threading.Event())
    while True:
        try:
            steps.append(next(following).step)
        except StopIteration as end:
            assert end.value == "done"
            break
    assert steps == sorted(steps)


def test_what_the_work_raises_is_raised() -> None:
    def work(tell: Progress, stop: ShouldStop) -> None:
        tell(1, 2, "so far")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(follow(work, threading.Event()))


def test_work_is_stopped_when_nobody_listens_any_more() -> None:
    noticed = threading.Event()

    def work(tell: Progress, stop: ShouldStop) -> None:
        tell(0, 0, "begun")
        while not stop():
            time.sleep(0.01)
        noticed.set()

    following = follow(work, threading.Event())
    assert next(following) == (0, 0, "begun")
    following.close()
    assert noticed.wait(10)
