"""Tells TensorBoard, Weights & Biases or a webhook what happens in a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from trainer import __version__
from trainer.config.concepts import run_name
from trainer.config.fields import all_fields, public_values
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.events import Ended, Evaluated, RunEvent, StepDone, Validated
from trainer.runs.layout import RunFolder

_PATIENCE_SECONDS = 10.0
_DISCORD = "/api/webhooks/"
_MOST_TEXT = 1500  # Discord takes 2,000 characters
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


class Telling:
    """Passes events on; where that fails, a warning says so once and the run goes on.

    Args:
        warn: takes such a warning.
        step: where the run goes on; what is known of later steps is out of date.
    """

    def __init__(
        self, config: TrainingConfig, run: RunFolder, warn: Callable[[str], None], step: int
    ) -> None:
        self._config, self._run, self._warn = config, run, warn
        self._tracker = _start(config, run, step)

    def __call__(self, event: RunEvent) -> None:
        """Tells what an event says."""
        values = numbers_of(event)
        try:
            if self._tracker is not None and values:
                self._tracker.log(values, step=getattr(event, "step"))  # noqa: B009
            if self._tracker is not None and isinstance(event, Ended):
                self._tracker.finish()
        except Exception as error:  # of another program, over a network: anything
            self._tracker = None
            told = f"{type(error).__name__}: {error}"
            self._warn(f"No more curves go to {self._config.tracking.tracker} ({told}).")
        url = self._config.tracking.webhook
        if url and isinstance(event, Ended) and event.code != "user_stop":
            try:
                send(url, *words_of(event, self._run, self._config))
            except (URLError, OSError, ValueError) as error:
                self._warn(f"The webhook could not be called at the end: {error}.")


def check_tracking(config: TrainingConfig) -> None:
    """Sees to it before a training that everything can be told.

    Raises:
        UserError: a program is not installed, or the webhook is no address.
    """
    tracker, url = config.tracking.tracker, config.tracking.webhook
    packages = _PACKAGES.get(tracker, ())
    if packages and not any(map(find_spec, packages)):
        raise UserError(
            f"tracking.tracker is {tracker}, and {tracker} is not installed.",
            f"Install it: .venv/bin/python -m pip install {packages[-1]} (on Windows "
            ".venv\\Scripts\\python). Or set tracking.tracker = none.",
        )
    if url and (urlsplit(url).scheme not in ("https", "http") or not urlsplit(url).hostname):
        raise UserError(
            "tracking.webhook is no address of the form https://…",
            "Such as https://ntfy.sh/my-topic, or a webhook's address of a Discord channel.",
        )


def _start(config: TrainingConfig, run: RunFolder, step: int) -> Any:
    """accelerate's tracker with the settings, without those of the user's disk; None for none."""
    if config.tracking.tracker == "none":
        return None
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    tracker: Any
    if config.tracking.tracker == "tensorboard":
        place = run.path / "tensorboard"
        tracker = TensorBoardTracker("", place, purge_step=step + 1 if step else None)
    else:
        name = run.path.name
        tracker = WandBTracker(
            config.tracking.project or "rarebit", name=name, group=name, dir=str(run.path)
        )
    tracker.start()
    if not step:
        values = public_values(config)
        flat = {
            name: values.get(one.section, {}).get(one.key) for name, one in all_fields().items()
        }
        plain = (str, int, float, bool)
        tracker.store_init_configuration(
            {
                name: value if isinstance(value, plain) else json.dumps(value)
                for name, value in flat.items()
                if value is not None
            }
        )
    return tracker


def numbers_of(event: RunEvent) -> dict[str, float]:
    """The finite numbers of an event that has a step, by names as curves have them."""
    if isinstance(event, StepDone):
        return _finite("train", asdict(event))
    if isinstance(event, Validated):
        return _finite("validation", asdict(event))
    if isinstance(event, Evaluated):
        return _finite("measured", asdict(event.meters))
    return {}


def _finite(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{group}/{name}": float(value)
        for name, value in values.items()
        if name not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value)
    }


def words_of(event: Ended, run: RunFolder, config: TrainingConfig) -> tuple[str, str]:
    """Title and text of the end of a run."""
    title = f"Rarebit: {run_name(config) or run.path.name} has {event.reason}"
    text = f"{run.path.name}, step {event.step:,} of {config.training.steps:,}. {event.message}"
    return title.replace("has stopped", "was stopped"), text[:_MOST_TEXT]


class _NoRedirect(HTTPRedirectHandler):
    """An address that leads elsewhere is an error: what is told is for the one that was given."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Follows nothing."""


def send(url: str, title: str, text: str) -> None:
    """Tells a webhook, of Discord or, at any other address, of ntfy.

    Raises:
        URLError, OSError, ValueError: it has not taken it.
    """
    agent = {"User-Agent": f"Rarebit/{__version__}"}
    if _DISCORD in urlsplit(url).path:
        # A name such as @everyone calls nobody.
        mentions: dict[str, list[str]] = {"parse": []}
        said = {"content": f"**{title}**\n{text}", "allowed_mentions": mentions}
        body, kind = json.dumps(said).encode(), "application/json"
    else:
        body, kind = f"{title}\n{text}".encode(), "text/plain; charset=utf-8"
    request = Request(url, body, {**agent, "Content-Type": kind}, method="POST")
    with build_opener(_NoRedirect).open(request, timeout=_PATIENCE_SECONDS) as answer:
        answer.read(1000)
