"""The section of the configuration about the adapter: its kind, layers and ranks."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import field_validator

from trainer.config.section import FilePath, Section, Several, field, number_by_pattern, number_for

AdapterKind = Literal["lora", "rslora", "dora", "loha", "lokr"]
PAIRS: tuple[AdapterKind, ...] = ("lora", "rslora", "dora")
"""The kinds that train pairs of matrices, A and B."""
of_new = partial(field, memory=True, needs={"adapter.start_from": None})
"""A field about layers and ranks, which an adapter file that is gone on from has already."""


class AdapterConfig(Section, title="Adapter"):
    """The LoRA (arXiv 2106.09685): W x + (alpha / rank) B A x, on attention and around it."""

    kind: AdapterKind = of_new("lora", title="Kind of adapter")
    """Kind of adapter. rslora divides alpha by the square root of the rank (arXiv 2312.03732), so
    that high ranks learn as fast; every tool reads it. dora also trains the lengths of the weights
    (arXiv 2402.09353), takes more time and memory, and has no file that tools read alike: it is
    written as a plain adapter, by SVD, and the run says how much that differs. loha (arXiv
    2108.06098) adds the product, element by element, of two low-rank matrices: a file twice as
    large holds a change of rank × rank. lokr (arXiv 2309.14859) adds the Kronecker product of two
    small matrices, W1 ⊗ W2, in a file a fraction as large. Both take more time, and are written as
    LyCORIS does."""
    factor: int = field(
        8, title="Factor of LoKr", ge=-1, le=64, memory=True, before=8,
        needs={"adapter.kind": "lokr"},
    )  # fmt: skip
    """LoKr: W1 has so many rows and columns (or the nearest lower numbers that divide the layer's)
    and is trained whole; W2 is as much smaller than the layer. W2 is a product of two matrices of
    adapter.rank, or whole where that is not larger. More makes the file smaller, and gives the
    adapter less to learn with. -1: both about as large, the smallest file."""
    start_from: FilePath | None = field(
        None, title="Go on from an adapter file", flag="--start-from FILE", private=True,
        place=True, memory=True,
    )  # fmt: skip
    """Adapter file to go on from, anyone's, in any layout that is read here. Its layers, ranks,
    alpha and weights are taken over, so that kind, targets, rank and alpha have no effect; the
    optimizer begins anew. A copy lies in the run's folder. Empty: a new adapter."""
    targets: Literal["attention", "feed-forward", "convolution"] = of_new(
        "feed-forward", title="Layers to adapt"
    )
    """Layers to adapt. feed-forward: attention, the layers behind it and the projections around it,
    as sd-scripts does; with them shapes are learned while the rest stays. attention: its four
    projections only, for less memory and a file half as large; colours and patterns come, shapes
    late. convolution: also the UNet's residual blocks (LoCon), for styles and textures; slower,
    with a file about twice as large for SD 1 and 2, and a tenth larger for SDXL."""
    rank: int = of_new(16, ge=1, le=1024, flag="--rank R")
    """Rank of each low-rank pair. 4 to 16 for one subject, 32 and more for styles or several
    subjects; the file grows with it."""
    alpha: float | None = of_new(None, gt=0, le=4096)
    """Scale of the adapter: its output is multiplied by alpha / rank (rslora: alpha over the rank's
    square root). Empty: equal to the rank, so that changing the rank does not change the strength
    of a plain adapter."""
    only: Several[str] = of_new((), title="Only these layers, one a line", max_length=100)
    """Patterns of the layers to adapt, of those that targets names: diffusers' names behind unet,
    text_encoder or text_encoder_2, with a star for anything, such as unet.up_blocks.* for all in
    there. Empty: all of them."""
    without: Several[str] = of_new((), title="Not these layers, one a line", max_length=100)
    """Patterns of layers to leave alone, as for adapter.only; they come after it."""
    ranks: Several[str] = of_new((), title="Ranks by layer, one a line", max_length=100)
    """Other ranks for some layers: PATTERN = RANK, such as unet.up_blocks.* = 32 (patterns as for
    adapter.only); of several that fit the last one counts. Alpha changes with the rank, so that
    these layers act as strongly."""
    dropout: float = field(
        0.0, title="Adapter dropout", ge=0.0, lt=1.0, needs={"adapter.kind": list(PAIRS)}
    )
    """Share of the inputs of each adapted layer that is set to zero at random, so that the adapter
    does not rely on a few of them. 0 to below 1."""
    t_lora_min_rank: int | None = field(
        None, title="T-LoRA: rank at the noisiest timestep", ge=1, le=1024, memory=True,
        needs={"adapter.kind": ["lora", "rslora"], "adapter.unet": True},
    )  # fmt: skip
    """T-LoRA (arXiv 2507.05964): of the UNet's rank only so much trains at the noisiest timestep,
    and in equal steps more up to all of it where there is no noise. Meant for very few pictures,
    whose poses and backgrounds are learned where the noise is strong. The file is a plain LoRA:
    previews, meters and all tools use the whole rank at every timestep. Drawn with so, the built-in
    model learned a set an eighth less like it and leaked twice as much. Empty: off."""
    new_tokens: int = field(
        0, title="New tokens for the trigger word", ge=0, le=32, memory=True,
        needs={"captions.trigger or concepts": True},
    )  # fmt: skip
    """Pivotal tuning: the trigger word stands for so many new tokens, whose vectors learn beside
    the adapter (textual inversion, arXiv 2208.01618). They begin as the class word, or as the
    trigger word where there is none; each concept gets its own. 0: the trigger word keeps the
    tokens that it has."""
    unet: bool = field(True, title="Train the UNet", memory=True)
    """Train the UNet's layers."""
    text_encoder: bool = field(
        True, title="Train the text encoder", flag="--train-text-encoder", memory=True
    )
    """Train the text encoder's layers too: binds the trigger word better for subjects, needs
    somewhat more memory and time."""

    @field_validator("ranks")
    @classmethod
    def _check_ranks(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if number_by_pattern(line)[1] not in range(1, 1025):
                raise ValueError(f"{line!r} given, expected a whole number from 1 to 1024")
        return lines

    @property
    def learns_text(self) -> bool:
        """Whether something learns in the text encoders, and so what they make of captions."""
        return self.text_encoder or self.new_tokens > 0

    @property
    def scale(self) -> tuple[int, float]:
        """The rank, and the alpha whose alpha / rank is what the output is multiplied by."""
        alpha = self.rank if self.alpha is None else self.alpha
        return self.rank, alpha * (self.rank**0.5 if self.kind == "rslora" else 1.0)

    def scale_of(self, layer: str) -> tuple[int, float]:
        """Rank and alpha of one layer, by its name as in `only`."""
        rank, alpha = self.scale
        own = rank if self.start_from else int(number_for(layer, self.ranks, rank))
        return own, alpha if own == rank else alpha * own / rank
