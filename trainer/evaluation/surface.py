"""Likeness and drift as functions of how strongly an adapter acts in each of its blocks.

Near strengths c the predictions are taken to be linear in the strengths,

    p(s) = p(c) + sum over k of (s_k - c_k) g_k,    g_k = (p(c) - p(c - d e_k)) / d,

with a small step d for one block after the other. All squared errors are then quadratic forms in s,
and K + 1 forward passes over the points, without gradients, tell what any strengths would do. What
is chosen by them is measured itself before it counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from trainer.diffusion import predict
from trainer.evaluation.meters import MeterBench
from trainer.lora.attach import set_strengths
from trainer.lora.names import ModuleKey
from trainer.models.base import BaseModel
from trainer.typed_torch import floats

MOST = 1.5  # the greatest strength that a block gets
_STEP = 0.5
_DESCENT = 400
_BLOCK = re.compile(r"(?:(?:down|up)_blocks\.\d+|mid_block)(?:\.attentions\.\d+)?")


@dataclass(frozen=True)
class Knob:
    """Layers of an adapter whose strength is chosen together."""

    name: str  # such as ``unet.mid_block.attentions.0.attn2``
    adapter: str  # its name on the base model
    layers: tuple[ModuleKey, ...]


def block_of(key: ModuleKey) -> str:
    """The block of a layer: a text encoder, or in the UNet one attention's half, self or cross."""
    found = _BLOCK.match(key.path) if key.part == "unet" else None
    if found is None:
        return key.part
    half = next((name for name in ("attn1", "attn2") if f".{name}." in key.path), "")
    return ".".join(filter(None, (key.part, found[0], half)))


def knobs_of(
    layers: Iterable[ModuleKey], adapter: str, name: Callable[[ModuleKey], str] = block_of
) -> list[Knob]:
    """One knob for each block of an adapter."""
    groups: dict[str, list[ModuleKey]] = {}
    for key in sorted(layers):
        groups.setdefault(name(key), []).append(key)
    return [Knob(block, adapter, tuple(members)) for block, members in groups.items()]


def turn(base: BaseModel, knobs: Sequence[Knob], strengths: Sequence[float] | Tensor) -> None:
    """Sets the strengths of adapters all of whose layers are some knob's."""
    wanted: dict[str, dict[ModuleKey, float]] = {}
    for knob, strength in zip(knobs, strengths, strict=True):
        wanted.setdefault(knob.adapter, {}).update(dict.fromkeys(knob.layers, float(strength)))
    for adapter, by_layer in wanted.items():
        set_strengths(base, adapter, by_layer)


class Surface:
    """What is measured near some strengths, as quadratic forms.

    Args:
        bench: with pictures of each concept.
        centre: (K,), where the predictions are exact.
        with_drift: whether drifts are wanted too, which cost most.
    """

    def __init__(
        self, bench: MeterBench, knobs: Sequence[Knob], centre: Tensor, *, with_drift: bool = True
    ) -> None:
        self._bench, self._centre, self._with_drift = bench, centre.double(), with_drift
        turn(bench.base, knobs, centre)
        at_centre = self._rows()
        directions: list[list[Tensor]] = [at_centre]
        for number in range(len(knobs)):
            moved = self._centre.clone()
            moved[number] -= _STEP
            turn(bench.base, knobs, moved)
            pairs = zip(at_centre, self._rows(), strict=True)
            directions.append([(here - there) / _STEP for here, there in pairs])
        turn(bench.base, knobs, centre)
        # (N, K + 1, K + 1) for each group of N points.
        self._forms = [
            torch.einsum("anp,bnp->nab", stacked, stacked).double()
            for stacked in map(torch.stack, zip(*directions, strict=True))
        ]

    def likeness(self, strengths: Tensor) -> Tensor:
        """(concepts,), see `trainer.evaluation.likeness`."""
        found: list[Tensor] = []
        forms = iter(self._forms)
        for checked, *_ in self._bench.references:
            if checked is None:
                continue
            errors = torch.cat([self._at(strengths, next(forms)) for _ in checked.examples])
            steps = torch.cat([example.points.timesteps for example in checked.examples])
            means = [errors[steps == step].mean() for step in floats(cast(Tensor, steps.unique()))]
            base = checked.base.by_timestep.double().clamp_min(1e-12)
            found.append(1 - (torch.stack(means) / base).mean())
        return torch.stack(found)

    def drift(self, strengths: Tensor) -> dict[str, Tensor]:
        """The drift of every prompt, see `trainer.evaluation.drift`."""
        prompts = self._bench.probes.prompts
        shares = self._at(strengths, self._forms[-1]).view(len(prompts), -1).mean(dim=1)
        return dict(zip(prompts, shares, strict=True))

    def _at(self, strengths: Tensor, forms: Tensor) -> Tensor:
        point = torch.cat([torch.ones(1, dtype=torch.float64), strengths - self._centre])
        return torch.einsum("nab,a,b->n", forms, point, point)

    def _rows(self) -> list[Tensor]:
        """Errors of the predictions as rows whose squares sum up to what is measured."""
        bench, rows = self._bench, list[Tensor]()
        for checked, *_ in bench.references:
            for example in checked.examples if checked else ():
                error = predict(bench.base, example.points, bench.device) - example.wanted
                if example.masks is not None:
                    counted = example.masks.mean(dim=(1, 2, 3), keepdim=True)
                    error = error * (example.masks / counted).sqrt()
                rows.append(error.flatten(1) / error[0].numel() ** 0.5)
        if self._with_drift:
            probes = bench.probes
            moved = predict(bench.base, probes.points, bench.device) - probes.unmoved
            size = probes.unmoved.pow(2).sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
            rows.append((moved / size).flatten(1))
        return rows


def descend(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Strengths between 0 and `MOST` where an objective is small, by Adam from some strengths."""
    strengths = start.double().clone().requires_grad_()
    optimizer = torch.optim.Adam([strengths], lr=0.02)
    for _ in range(_DESCENT):
        optimizer.zero_grad()
        objective(strengths).backward()
        optimizer.step()
        with torch.no_grad():
            strengths.clamp_(0, MOST)
    return strengths.detach()
