"""Optimizers, parameter groups and learning-rate schedules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from trainer.config.optimizers import OPTIMIZERS, OptimizerConfig
from trainer.config.schema import TrainingConfig
from trainer.config.section import number_for
from trainer.errors import UserError
from trainer.lora.names import Part

Schedule = Callable[[int], float]


def learning_rates(config: OptimizerConfig) -> dict[Part, float]:
    """Peak rate of each part of a resolved configuration: unet_lr and text_encoder_lr elsewhere."""
    if config.learning_rate is None or config.text_encoder_learning_rate is None:
        raise ValueError("the configuration has to be resolved first")
    text = config.text_encoder_learning_rate
    second = config.text_encoder_2_learning_rate or text
    return {"unet": config.learning_rate, "text_encoder": text, "text_encoder_2": second}


def _rates(config: TrainingConfig) -> dict[str, float]:
    """Peak rate of each thing that a resolved configuration trains, by its name in sentences."""
    rates, new_tokens = learning_rates(config.optimizer), config.optimizer.new_tokens_learning_rate
    trained = {"UNet": rates["unet"]} if config.adapter.unet else {}
    trained |= {"text encoder": rates["text_encoder"]} if config.adapter.text_encoder else {}
    return trained | ({"new tokens": new_tokens} if new_tokens else {})


def leading_rate(config: TrainingConfig) -> float:
    """The peak rate that a log shows: the UNet's, or that of what trains without it.

    Args:
        config: resolved.
    """
    return next(iter(_rates(config).values()))


def rates_in_words(config: TrainingConfig) -> str:
    """What moves the adapter, and how fast: ``lion at 2e-05 (UNet) and 1e-05 (text encoder)``.

    Args:
        config: resolved.
    """
    parts = [f"{rate:g} ({part})" for part, rate in _rates(config).items()]
    name = config.optimizer.name
    finds = ", which finds the rate by itself, times" if OPTIMIZERS[name].rate is None else " at"
    return f"{name}{finds} {' and '.join(parts)}"


def parameter_groups(
    parameters: Mapping[Part, Sequence[tuple[str, Parameter]]],
    rates: Mapping[Part, float],
    lora_plus_ratio: float = 1.0,
    layer_rates: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """One group for each part, matrix and rate: B learns ``lora_plus_ratio`` times as fast as A.

    LoRA+ (arXiv 2402.12354): with equal rates, B, which starts at zero, is the slower one.

    Args:
        parameters: for each part ("unet", "text_encoder", …) its named adapter parameters.
        rates: peak rate of each part's A.
        layer_rates: what it is multiplied by in some layers (`trainer.config.section`).

    Returns:
        Groups as torch optimizers take them, each with its peak rate also under ``initial_lr``.
    """
    groups: list[dict[str, Any]] = []
    for part, named in parameters.items():
        for matrix, ratio in (("A", 1.0), ("B", lora_plus_ratio)):
            members: dict[float, list[Parameter]] = defaultdict(list)
            for name, parameter in named:
                if ("lora_B" in name) == (matrix == "B"):
                    layer = f"{part}.{name.rpartition('.')[0]}"
                    members[number_for(layer, layer_rates, 1.0)].append(parameter)
            for factor, of_factor in members.items():
                rate = rates[part] * ratio * factor
                facts = {"lr": rate, "initial_lr": rate, "part": part, "matrix": matrix}
                groups.append({"params": of_factor, **facts})
    return groups


def make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer that the configuration names, over `parameter_groups`.

    Raises:
        UserError: adamw8bit without bitsandbytes; prodigy with several rates.
    """
    options: dict[str, Any] = {"lr": groups[0]["lr"], "weight_decay": config.weight_decay}
    if config.name == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    if config.name == "adafactor":
        # Its steps are shares of a parameter's own size (arXiv 1804.04235, section 8): none for B,
        # which starts at zero. With 1 as the least size, rates mean what they do in AdamW.
        return torch.optim.Adafactor(groups, eps=(None, 1.0), **options)
    if config.name == "adamw8bit":
        if find_spec("bitsandbytes") is None:
            raise UserError(
                "optimizer.name adamw8bit needs the package bitsandbytes, which is not installed.",
                "Use adamw, or install what requirements.txt names.",
            )
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(groups, **options)
    # Imported late: the package loads every optimizer it has, which takes a second.
    import pytorch_optimizer

    if config.name == "lion":
        return pytorch_optimizer.Lion(groups, **options)
    if config.name == "came":
        return pytorch_optimizer.CAME(groups, **options)
    if config.name == "adamw_schedule_free":
        return pytorch_optimizer.ScheduleFreeAdamW(groups, **options)
    # Without bias correction the second moment is far too small at first: for a hundred steps they
    # are 3 to 6 times as long as the distance that was found, and the base model is destroyed.
    return pytorch_optimizer.Prodigy([_one_group(groups)], bias_correction=True, **options)


@torch.no_grad()
def own_averages(optimizer: Optimizer, parameters: Iterable[Parameter]) -> list[Tensor]:
    """The averages x that a schedule-free optimizer keeps, one for each parameter.

    It trains y = (1 - beta) z + beta x (arXiv 2405.15682, eq. 3), and keeps y and z. What has not
    been moved yet is its own average.
    """
    beta: float = optimizer.param_groups[0]["betas"][0]
    ends = [(one, optimizer.state.get(one, {}).get("z")) for one in parameters]
    return [y.detach() if z is None else torch.lerp(y, z, 1 - 1 / beta) for y, z in ends]


def _one_group(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """All parameters together: Prodigy estimates one step size for everything.

    Raises:
        UserError: the groups were to learn at different rates.
    """
    rates = sorted({group["lr"] for group in groups})
    if len(rates) > 1:
        listed = " and ".join(f"{rate:g}" for rate in rates)
        raise UserError(
            f"optimizer.name prodigy has one learning rate for everything, but {listed} would be "
            "used (optimizer.learning_rate, optimizer.text_encoder_learning_rate, each 1 where it "
            "is empty, and optimizer.lora_plus_ratio).",
            "Leave the rates empty and lora_plus_ratio at 1, or use adamw.",
        )
    members = [parameter for group in groups for parameter in group["params"]]
    return {"params": members, "lr": rates[0], "initial_lr": rates[0], "part": "all"}


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """The factor on each group's peak rate as a pure function of the step, counted from 0.

    It rises in equal parts to 1 over the warm-up, the first step's being one part: no step is taken
    in vain. What follows is one of diffusers' schedules over the steps that are left. A function
    needs no state in a checkpoint, and a run whose number of steps is changed before it is resumed
    goes on along the new curve. An optimizer that averages by itself keeps its rate.
    """
    warmup = round(config.warmup * total_steps)
    scheduler = get_scheduler(
        "constant" if config.averages else config.schedule,
        torch.optim.SGD([Parameter(torch.zeros(1))]),
        num_warmup_steps=0,
        num_training_steps=max(1, total_steps - warmup),
        num_cycles=config.schedule_cycles,
        power=config.schedule_power,
    )
    after = scheduler.lr_lambdas[0]
    return lambda step: (step + 1) / warmup if step < warmup else after(step - warmup)


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def gradient_norm(parameters: Iterable[Parameter]) -> Tensor:
    """Euclidean norm of all gradients together, a 0-d float32 tensor."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
