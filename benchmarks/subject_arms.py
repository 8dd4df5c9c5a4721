"""What the arms of `benchmarks.subject` do, beyond what a configuration says.

Ways to draw the subject and keep the rest that were tried before the default was chosen: other
layers, another course of the preservation weight, gradients put together in another way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from trainer.lora.layers import find_targets
from trainer.training.optimizers import set_learning_rates
from trainer.training.session import Session
from trainer.training.step import batch_loss

PLAIN = {
    "preservation.method": "none",
    "optimizer.learning_rate": 3e-3,
    "optimizer.text_encoder_learning_rate": 1e-3,
}


@dataclass(frozen=True)
class Beside:
    """What an arm does that no configuration says.

    Attributes:
        weight: (first, last, power): the weight of preservation over the run.
        layers: pattern of the layers that are adapted beside attention, of the configuration's.
        ranks: {pattern: rank} of layers with another rank.
        timesteps: [lowest, highest] of the preserved points.
        pull: lambda of an L2 penalty on the change of each weight (arXiv 2505.19519).
        project: "training" or "preservation": which gradient gives way where they disagree
            (arXiv 2001.06782).
        memory: decay of a running mean of the preservation gradient, for `project`.
    """

    weight: tuple[float, float, float] | None = None
    layers: str | None = None
    ranks: dict[str, int] | None = None
    timesteps: tuple[int, int] | None = None
    pull: float = 0.0
    project: str = ""
    memory: float = 0.0


def adapt_layers(beside: Beside) -> Any:
    """Stands in for the choice of layers, until the block ends."""

    def chosen(base: Any, targets: Any) -> Any:
        keys = find_targets(base, targets)
        return [
            key
            for key in keys
            if beside.layers is None
            or re.search(r"attn[12]|self_attn", key.path)
            or re.search(beside.layers, key.path)
        ]

    return chosen


def weight_at(beside: Beside, done: float, usual: float) -> float:
    """The weight of preservation when a share of the run is done."""
    if beside.weight is None:
        return usual
    first, last, power = beside.weight
    return first + (last - first) * done**power


def special_step(session: Session, beside: Beside, kept: dict[str, Any]) -> None:
    """A step with gradients put together in another way."""
    step, settings = session.step, session.config.preservation
    set_learning_rates(session.optimizer, session.schedule(step))
    parameters = list(session.parameters.values())
    weight = settings.weight
    preserves = session.preservation is not None and step % settings.every == 0
    session.train_mode()
    (batch,) = session.batches.step(step)
    loss, _ = batch_loss(session, batch, None)
    own = torch.autograd.grad(loss, parameters, allow_unused=True)
    own = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, own, strict=True)]
    held = [torch.zeros_like(p) for p in parameters]
    if preserves and session.preservation:
        rows = session.preservation.rows(step, batch.slots, batch.total)
        _, loss = batch_loss(session, None, rows)
        held = torch.autograd.grad(loss, parameters, allow_unused=True)
        held = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, held, strict=True)
        ]
        mean = kept.get("mean")
        decay = beside.memory if mean else 0.0
        kept["mean"] = [
            decay * m + (1 - decay) * h for m, h in zip(mean or held, held, strict=True)
        ]
    mean = kept.get("mean", held)
    if beside.project:
        keep, give = (mean, own) if beside.project == "training" else (own, held)
        dot = sum((a * b).sum() for a, b in zip(keep, give, strict=True))
        size = sum(a.pow(2).sum() for a in keep)
        if dot < 0 and size > 0:
            give = [b - dot / size * a for a, b in zip(keep, give, strict=True)]
        own, held = (give, held) if beside.project == "training" else (own, give)
    for parameter, a, b in zip(parameters, own, held, strict=True):
        parameter.grad = a + weight * b
    torch.nn.utils.clip_grad_norm_(parameters, session.config.optimizer.max_gradient_norm)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    session.step += 1


def pull_back(session: Session, strength: float) -> None:
    """One decoupled step of the penalty ``strength * |B A|^2 / 2``."""
    named = session.parameters
    with torch.no_grad():
        rate = session.optimizer.param_groups[0]["lr"]
        for name, up in named.items():
            if name.endswith(".lora_B"):
                down = named[name[:-1] + "A"]
                a, b = down.flatten(1), up.flatten(1)
                change = b @ a
                grad_b, grad_a = change @ a.T, b.T @ change
                up -= rate * strength * grad_b.view_as(up)
                down -= rate * strength * grad_a.view_as(down)


FORMER = {"preservation.weight": 4.0, "preservation.every": 2}
ATTENTION = FORMER | {"adapter.targets": "attention"}
FEED_FORWARD = FORMER | {"adapter.targets": "feed-forward"}
CONVOLUTION = FORMER | {"adapter.targets": "convolution"}
_DEEP = r"down_blocks\.[12]|mid_block|up_blocks\.[01]"
_DEEPEST = r"(down_blocks\.2|mid_block|up_blocks\.0)\..*resnets\.\d+\.conv[12]"


def _weight(value: float) -> dict[str, Any]:
    return {"preservation.weight": value}


_EVERY = {"preservation.every": 1}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (ATTENTION | PLAIN, {}),
    "plain-rate": (ATTENTION | {"preservation.method": "none"}, {}),
    "default": ({}, {}),
    "attention-w4": (ATTENTION, {}),
    "attention-w1": (ATTENTION | _weight(1.0), {}),
    "ff-w2": (FEED_FORWARD | _weight(2.0), {}),
    "ff-w4": (FEED_FORWARD, {}),
    "ff-w8": (FEED_FORWARD | _weight(8.0), {}),
    "ff-w2-e1": (FEED_FORWARD | _EVERY | _weight(2.0), {}),
    "ff-w4-e1": (FEED_FORWARD | _EVERY, {}),
    "fftext": (FEED_FORWARD, {"layers": "attentions"}),
    "ff-proj": (FEED_FORWARD, {"project": "training", "memory": 0.8}),
    "ff-pull": (FEED_FORWARD, {"pull": 0.5}),
    "conv-w1": (CONVOLUTION | _weight(1.0), {}),
    "conv-w4": (CONVOLUTION, {}),
    "conv-w4-e1": (CONVOLUTION | _EVERY, {}),
    "conv-late": (CONVOLUTION, {"weight": [0.5, 6.0, 1.0]}),
    "deep-w2": (CONVOLUTION | _weight(2.0), {"layers": _DEEP}),
    "lean-w4": (CONVOLUTION, {"layers": _DEEPEST}),
}
"""Values of the configuration, and of `Beside`, by the arm's name."""
