"""How many operations one training step starts on a card: what the processor has to hand over.

    python -m benchmarks.launches

A step of a full-size model without weights is followed on the meta device, at batch 1 in bf16, and
what would start a kernel is counted; views and empty tensors are not. No time is measured: what it
comes to on a card is for a card to say. "one by one" casts each matrix for itself and scales each
product; "now" is what training does.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config.schema import AdapterConfig
from trainer.diffusion import add_noise
from trainer.lora.attach import attach
from trainer.lora.joined import joined_layers
from trainer.memory import phases
from trainer.memory.devices import DTYPES
from trainer.memory.modes import set_mode
from trainer.memory.tracking import fused_attention
from trainer.models.identify import read_facts
from trainer.training.copies import Copies
from trainer.training.step import _weights, batch_loss

NO_KERNEL = {
    *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "unsqueeze", "squeeze"),
    *("expand", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "detach"),
    *("alias", "as_strided", "lift_fresh", "_reshape_alias", "narrow", "empty", "empty_strided"),
    *("empty_like", "new_empty", "new_empty_strided", "diagonal", "unfold", "movedim"),
}
"""Views, and memory that nothing writes yet."""


FIRST = {("sd15", True): 4936, ("sd15", False): 3588, ("sdxl", True): 16474, ("sdxl", False): 11707}
"""What was counted at first, by base model and whether the text encoders train."""


class Launches(TorchDispatchMode):
    """Counts the operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Counts one, and does it."""
        name = function._schema.name.partition("::")[2]
        self.names[name] += name not in NO_KERNEL
        return function(*args, **(kwargs or {}))


def count(base: str, *, text_encoder: bool) -> Counter[str]:
    """Operations of one forward and backward pass of the default adapter, by name."""
    config = AdapterConfig(text_encoder=text_encoder)
    model = phases.build(read_facts(base), DTYPES["bf16"])
    named = attach(model, config, seed=0).parameters
    model.unet.train()
    set_mode(model, "lean", False, trains_text=text_encoder)
    work = phases.Workload(512, 512, "bf16", config, 1, "lean", False)
    matrices = [one for own in named.values() for _, one in own if one.dim() in (2, 4)]
    joined = joined_layers([model.unet, *model.text_encoders], across=True)
    copies, launches = Copies(matrices, DTYPES["bf16"], joined), Launches()
    followed, batch = phases._Model(model, work), phases._batch(model, work)
    with copies.used():  # what is made once in a run: joined weights, and tables of all timesteps
        add_noise(batch.latents, batch.noise, followed.alpha_bar, batch.timesteps)
        _weights(followed, batch.timesteps)
    with fused_attention(), launches, copies.used():
        loss, _ = batch_loss(followed, batch, None)
        loss.backward()
    return +launches.names


def main(bases: Sequence[str]) -> int:
    """Prints the table of docs/notes/speed-and-memory.md."""
    print("| a step in bf16 at batch 1 | first | now | share |\n| --- | --- | --- | --- |")
    for (base, text_encoder), before in FIRST.items():
        if base in (bases or ("sd15", "sdxl")):
            now = count(base, text_encoder=text_encoder).total()
            what = "UNet and text encoder" if text_encoder else "UNet"
            print(f"| {base}, {what} | {before:,} | {now:,} | {now / before:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
