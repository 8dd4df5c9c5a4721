"""What a run tells TensorBoard, Weights & Biases and webhooks."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import Ended, Evaluated, Meters, StepDone, Validated, Warned
from trainer.runs.layout import RunFolder, open_run
from trainer.runs.log import read_events
from trainer.training import tracking


class Heard:
    """A server on this machine that keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.status = 200
        heard = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heard.requests.append((self.path, self.headers["Content-Type"], body))
                self.send_response(heard.status)
                if heard.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def heard() -> Iterator[Heard]:
    found = Heard()
    yield found
    found.server.shutdown()
    found.server.server_close()


class Writer:
    """Stands for TensorBoard's writer."""

    def __init__(self, place: str, **options: Any) -> None:
        self.place, self.options = place, options
        self.scalars: list[tuple[str, float, int]] = []
        self.hparams: dict[str, Any] = {}
        self.closed = False

    def add_scalar(self, name: str, value: float, global_step: int) -> None:
        self.scalars.append((name, value, global_step))

    def add_hparams(self, values: dict[str, Any], metric_dict: dict[str, Any]) -> None:
        self.hparams = values

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """The writers that are opened, in the place of TensorBoard's own package."""
    opened: list[Writer] = []

    def open_writer(place: str, **options: Any) -> Writer:
        opened.append(Writer(place, **options))
        return opened[-1]

    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = open_writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("torch.utils.tensorboard", module, raising=False)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    return opened


def test_a_run_tells_a_tracker(
    tiny_base: TinyBase, tmp_path: Path, writers: list[Writer], heard: Heard
) -> None:
    """Each step and each measurement, and at the end the webhook."""
    images = make_images(tmp_path / "images")
    changes = {
        "tracking__tracker": "tensorboard", "tracking__webhook": f"{heard.url}/my-topic",
    }  # fmt: skip
    config = small_config(tiny_base("sd1"), images, **changes)
    train_small(config, tmp_path / "run")
    (writer,) = writers
    assert Path(writer.place) == tmp_path / "run" / "tensorboard"
    steps = [step for name, _, step in writer.scalars if name == "train/loss"]
    losses = {
        e.step: e.loss for e in read_events(open_run(tmp_path / "run")) if isinstance(e, StepDone)
    }
    assert steps == list(losses) == [1, 2, 3, 4]
    assert [value for name, value, _ in writer.scalars if name == "train/loss"] == list(
        losses.values()
    )
    assert writer.closed
    assert writer.hparams["adapter.rank"] == config.adapter.rank
    # Nothing of the user's disk, and not the webhook's address.
    assert not {"images.path", "tracking.webhook"} & set(writer.hparams)
    ((path, kind, body),) = heard.requests
    assert (path, kind.partition(";")[0]) == ("/my-topic", "text/plain")
    assert "has finished" in body.decode()


def test_wandb_gets_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    run = SimpleNamespace(log=lambda values, **_: told.update(values), finish=lambda: None)
    module: Any = ModuleType("wandb")
    module.init = lambda **options: told.update(options) or run
    module.config = SimpleNamespace(update=lambda values, **_: None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    values = {"tracking.tracker": "wandb", "tracking.project": "foxes"}
    config = with_values(TrainingConfig(), values)
    telling = tracking.Telling(config, RunFolder(tmp_path / "fox"), lambda _: None, 0)
    telling(StepDone(1, loss=0.5))
    assert (told["project"], told["name"], told["train/loss"]) == ("foxes", "fox", 0.5)


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(
    tmp_path: Path, writers: list[Writer]
) -> None:
    config = with_values(TrainingConfig(), {"tracking.tracker": "tensorboard"})
    warnings: list[str] = []
    telling = tracking.Telling(config, RunFolder(tmp_path), warnings.append, 7)
    assert writers[0].options["purge_step"] == 8
    writers[0].add_scalar = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
    telling(StepDone(8, loss=0.5))
    telling(StepDone(9, loss=0.5))
    assert len(warnings) == 1 and "division by zero" in warnings[0]


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (StepDone(1, loss=0.5, learning_rate=float("nan")), {"train/loss", "train/seconds"}),
        (Validated(2, loss=0.1, training_loss=0.2, held_out=3),
         {"validation/loss", "validation/training_loss", "validation/held_out"}),
        (Evaluated(2, Meters(effect=1.0)), {"measured/effect", "measured/held_out"}),
        (Warned("a word"), set()),
    ],
)  # fmt: skip
def test_numbers_of_events(event: Any, names: set[str]) -> None:
    """What is not a number, or not known, is left out."""
    assert set(tracking.numbers_of(event)) == names


def test_the_end_is_told_to_a_webhook(tmp_path: Path, heard: Heard) -> None:
    """Of a run that has failed; one that the user has stopped needs no telling."""
    url = f"{heard.url}/api/webhooks/1/secret"
    config = with_values(
        TrainingConfig(), {"tracking.webhook": url, "captions.trigger": "@everyone"}
    )
    warnings: list[str] = []
    telling = tracking.Telling(config, RunFolder(tmp_path / "fox"), warnings.append, 0)
    telling(StepDone(1, loss=0.5))
    telling(Ended(3, "stopped", "user_stop", "stopped"))
    assert heard.requests == []
    telling(Ended(3, "failed", "disk_full", "The disk is full."))
    ((path, kind, body),) = heard.requests
    said = json.loads(body)
    assert (path, kind) == ("/api/webhooks/1/secret", "application/json")
    assert "@everyone has failed" in said["content"] and "The disk is full." in said["content"]
    assert said["allowed_mentions"] == {"parse": []}
    heard.status = 500
    telling(Ended(3, "failed", "disk_full", "The disk is full."))
    assert len(warnings) == 1 and "500" in warnings[0]


def test_a_webhook_that_leads_elsewhere_is_not_followed(heard: Heard) -> None:
    heard.status = 302
    with pytest.raises(HTTPError):
        tracking.send(heard.url, "a", "b")
    assert len(heard.requests) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tracking.tracker": "wandb"}, "wandb is not installed"),
        ({"tracking.webhook": "ntfy.sh/topic"}, "https://"),
        ({"tracking.webhook": "file:///etc/hosts"}, "https://"),
    ],
)
def test_what_cannot_be_told_is_refused_before_training(
    values: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError) as refusal:
        tracking.check_tracking(with_values(TrainingConfig(), values))
    assert words in str(refusal.value)
