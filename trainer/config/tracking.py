"""The section of the configuration about what is told elsewhere while a run goes on."""

from __future__ import annotations

from functools import partial
from typing import Literal

from trainer.config.section import Section, field

aside = partial(field, resume=True, private=True)


class TrackingConfig(Section, title="Reporting to other programs"):
    """What a run tells other programs. Nothing here changes the result."""

    tracker: Literal["none", "tensorboard", "wandb"] = aside("none", title="Send curves to")
    """Another program that shows the curves, besides the page and report.html. tensorboard: files
    in the run's folder tensorboard. wandb: Weights & Biases, where you are logged in. Each has to
    be installed beside Rarebit. none: neither."""
    project: str = aside(
        "rarebit", title="Project of Weights & Biases", max_length=100,
        needs={"tracking.tracker": "wandb"},
    )  # fmt: skip
    """Name of the project that the run appears in there. Empty: rarebit."""
    webhook: str = aside("", title="Webhook", max_length=2000)
    """Address (https) that gets a message when a run finishes or fails: a topic of ntfy, such as
    https://ntfy.sh/my-topic, or a webhook of a Discord channel. It stands in the run's config.toml:
    whoever has it can write there. Empty: none."""
