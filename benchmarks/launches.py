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
from trainer.lora.attach import attach
from trainer.memory import phases
from trainer.memory.devices import DTYPES
from trainer.memory.modes import set_mode
from trainer.memory.tracking import fused_attention
from trainer.models.identify import read_facts
from trainer.training.copies import Copies
from trainer.training.step import batch_loss

NO_KERNEL = {
    *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "unsqueeze", "squeeze"),
    *("expand", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "detach"),
    *("alias", "as_strided", "lift_fresh", "_reshape_alias", "narrow", "empty", "empty_strided"),
    *("empty_like", "new_empty", "new_empty_strided", "diagonal", "unfold", "movedim"),
}
"""Views, and memory that nothing writes yet."""


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


def count(base: str, *, text_encoder: bool, one_by_one: bool = False) -> Counter[str]:
    """Operations of one forward and backward pass of the default adapter, by name."""
    rank = AdapterConfig().rank
    # Scaled by a half, each product of the adapter is multiplied for itself.
    config = AdapterConfig(text_encoder=text_encoder, alpha=rank / 2 if one_by_one else rank)
    model = phases.build(read_facts(base), DTYPES["bf16"])
    named = attach(model, config, seed=0).parameters
    model.unet.train()
    set_mode(model, "lean", False, trains_text=text_encoder)
    work = phases.Workload(512, 512, "bf16", config, 1, "lean", False)
    matrices = [one for own in named.values() for _, one in own if one.dim() in (2, 4)]
    copies, launches = Copies(matrices, DTYPES["bf16"]), Launches()
    with fused_attention(), launches, copies.used(not one_by_one):
        loss, _ = batch_loss(phases._Model(model, work), phases._batch(model, work), None)
        loss.backward()
    return +launches.names


def main(bases: Sequence[str]) -> int:
    """Prints the table of docs/notes/speed-and-memory.md."""
    print("| a step in bf16 at batch 1 | one by one | now | share |\n| --- | --- | --- | --- |")
    for base in bases or ("sd15", "sdxl"):
        for text_encoder in (True, False):
            before = count(base, text_encoder=text_encoder, one_by_one=True).total()
            now = count(base, text_encoder=text_encoder).total()
            what = "UNet and text encoder" if text_encoder else "UNet"
            print(f"| {base}, {what} | {before:,} | {now:,} | {now / before:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
