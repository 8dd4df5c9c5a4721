"""What a training is, on disk: one safetensors file, replaced as a whole.

Weights, their moving average, Adam's two moments and the step number. Data order and noise are
functions of (seed, step), so nothing else is needed to go on as if never stopped. What the result
depends on besides is the recipe, and a checkpoint of another one is refused.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Recipe = Mapping[str, str | int | float]
"""What the steps of a training depend on, by name; not how many there are."""
AVERAGE_EVERY = 4
"""Steps between updates of the moving average, which cost a pass over all weights."""


def generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """A random source that depends on nothing but its arguments."""
    # SplitMix64's odd constants spread neighbouring triples over the whole seed space.
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + purpose * 0x94D049BB133111EB
    return torch.Generator().manual_seed(mixed % (1 << 63))


def digest(path: Path) -> str:
    """SHA-256 of a file, for a recipe to name what it builds on."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class RecipeError(ValueError):
    """A checkpoint was made in another way than the one asked for."""


class Training:
    """Named parameters with AdamW, a moving average and an exact checkpoint."""

    def __init__(
        self, modules: dict[str, nn.Module], path: Path, average_decay: float, recipe: Recipe
    ) -> None:
        self.path = path
        self.recipe = recipe
        self.average_decay = average_decay
        self.step = 0
        self.parameters = dict(_named(modules))
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=0.0,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )

    def update(self, learning_rate: float, clip: float = 1.0) -> float:
        """One optimizer step from the gradients; returns their norm. Stops on a non-finite one."""
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), clip).item()
        if norm != norm or norm == float("inf"):
            raise FloatingPointError(f"gradient norm {norm} at step {self.step}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            decay = min(self.average_decay, (1 + self.step) / (10 + self.step)) ** AVERAGE_EVERY
            values = [value.detach() for value in self.parameters.values()]
            torch._foreach_lerp_(list(self.average.values()), values, 1 - decay)
        return norm

    def save(self) -> None:
        """Replaces the checkpoint; a crash leaves the old one or the new one, never half."""
        tensors = {f"weight/{name}": value.detach() for name, value in self.parameters.items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        for name, value in self.parameters.items():
            moments = self.optimizer.state.get(value, {})
            for kind in ("exp_avg", "exp_avg_sq"):
                if kind in moments:
                    tensors[f"{kind}/{name}"] = moments[kind]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        about = {"step": self.step, "recipe": self.recipe}
        save_file(tensors, part, {"about": json.dumps(about)})  # one entry: several have no order
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(self.path)

    def load(self) -> bool:
        """Goes back to the checkpoint, if there is one.

        Raises:
            RecipeError: it was begun with another recipe.
            KeyError: its names are not those of the modules.
        """
        if not self.path.exists():
            return False
        with safe_open(self.path, "pt") as file:
            about = json.loads(file.metadata().get("about", '{"step": 0, "recipe": {}}'))
        self._check(about["recipe"])
        self.step = about["step"]
        tensors = load_file(self.path)
        saved = {name.partition("/")[2] for name in tensors if name.startswith("weight/")}
        if saved != self.parameters.keys():
            raise KeyError(f"checkpoint and model differ in {saved ^ self.parameters.keys()}")
        for name, value in self.parameters.items():
            value.data.copy_(tensors[f"weight/{name}"])
            self.average[name].copy_(tensors[f"average/{name}"])
            if f"exp_avg/{name}" in tensors:
                self.optimizer.state[value] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"exp_avg/{name}"],
                    "exp_avg_sq": tensors[f"exp_avg_sq/{name}"],
                }
        return True

    def _check(self, saved: Recipe) -> None:
        names = sorted(saved.keys() | self.recipe.keys())
        wrong = [name for name in names if saved.get(name) != self.recipe.get(name)]
        if wrong:
            both = [f"{name} {saved.get(name)}, now {self.recipe.get(name)}" for name in wrong]
            raise RecipeError(
                f"{self.path} was begun otherwise: {'; '.join(both)}. "
                "Move it away to begin anew, or give another --work folder."
            )


def _named(modules: dict[str, nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    for prefix, module in modules.items():
        for name, value in module.named_parameters():
            if value.requires_grad:
                yield f"{prefix}.{name}", value


def averaged(path: Path, prefix: str) -> dict[str, Tensor]:
    """The moving average of one module's weights, without the prefix."""
    with safe_open(path, "pt") as file:
        start = f"average/{prefix}."
        return {
            name[len(start) :]: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 (a safetensors handle is no dictionary)
            if name.startswith(start)
        }


class Progress:
    """Prints the mean loss and the speed every 50 steps."""

    def __init__(self, name: str, step: int, total: int, batch: int) -> None:
        self.name, self.total, self.batch = name, total, batch
        self.first, self.began = step, time.time()
        self.losses: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        if step % 50:
            return
        mean = sum(self.losses) / len(self.losses)
        speed = (step - self.first) * self.batch / (time.time() - self.began)
        clock = time.strftime("%H:%M:%S")
        print(f"{clock} {self.name} {step}/{self.total} loss {mean:.4f} {speed:.1f}/s", flush=True)
        self.losses.clear()


def learning_rate(step: int, total: int, peak: float, warmup: int, decay: float = 0.3) -> float:
    """Warm up, hold, then fall linearly to 2 % over the last `decay` share of `total` steps.

    Warmup-stable-decay (arXiv 2404.06395): training can be extended by raising `total`, which no
    cosine over a fixed length allows.
    """
    rise = min(1.0, (step + 1) / warmup)
    fall = min(1.0, max(0.02, (total - step) / (decay * total)))
    return peak * rise * fall
