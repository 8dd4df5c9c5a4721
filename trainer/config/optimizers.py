"""The optimizers: what is known of each, and their section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator

from trainer.config.adapting import PAIRS
from trainer.config.section import Probability, Rate, Section, Several, field, number_by_pattern


@dataclass(frozen=True)
class OptimizerFacts:
    """What is known of an optimizer. docs/notes/optimizers.md has what these rates came to."""

    # Learning rate that suits it, as a share of AdamW's; None: it finds the rate by itself, and
    # takes 1 as the multiplier of what it finds.
    rate: float | None
    state: float  # bytes of its state for each byte of parameters
    # It averages the weights itself, which takes the place of a schedule and of an EMA.
    averages: bool = False


OPTIMIZERS: Mapping[str, OptimizerFacts] = {
    "adamw": OptimizerFacts(rate=1.0, state=2.0),  # two moments
    "adamw8bit": OptimizerFacts(rate=1.0, state=0.52),  # two of a quarter, and their scales
    "prodigy": OptimizerFacts(rate=None, state=4.0),  # also where it began, and a running sum
    "lion": OptimizerFacts(rate=0.2, state=1.0),  # one moment; every step is of one length
    "adafactor": OptimizerFacts(rate=1.0, state=0.15),  # rows and columns
    # A second iterate in place of the first moment.
    "adamw_schedule_free": OptimizerFacts(rate=1.0, state=2.0, averages=True),
    # A moment, and twice rows and columns. One of its averages starts at 0 and is not corrected for
    # it, which makes the first steps far longer than the rate.
    "came": OptimizerFacts(rate=0.05, state=1.3),
}

AVERAGED_ELSEWHERE = {
    "optimizer.name": [k for k, facts in OPTIMIZERS.items() if not facts.averages]
}
"""What a field needs that an optimizer which averages by itself has no use for."""


def kind_rate(kind: str, rank: int) -> float:
    """Learning rate that suits a kind of adapter, as a share of LoRA's.

    rsLoRA multiplies by alpha / sqrt(rank) where LoRA does by alpha / rank (arXiv 2312.03732): at
    LoRA's rate it goes sqrt(rank) times as far. LoHa begins with half of its product small.
    """
    return {"loha": 2.0, "rslora": rank**-0.5}.get(kind, 1.0)


SCHEDULE_RATES: Mapping[str, float] = {"constant": 0.5}
"""Learning rate that suits a schedule, as a share of that of the others: these fall, and have half
of it in the mean."""
NEW_TOKENS_RATE = 10.0
"""Learning rate that suits new tokens' vectors, as a share of that of the text encoder: after 60
steps on the police cars one of them leaked 0.18 at the same rate, 0.10 at 3.3 times and 0.09 at ten
times as much, where two had 0.06; from 33 times on it was 0.15 again."""


class OptimizerConfig(Section, title="Learning rate and optimizer"):
    """How each step changes the adapter's weights, and how far."""

    name: Literal[
        "adamw", "adamw8bit", "prodigy", "lion", "adafactor", "adamw_schedule_free", "came"
    ] = field("adamw", title="Optimizer", memory=True)
    """Optimizer. adamw8bit keeps its two moments in 8 bits; prodigy finds the learning rate by
    itself, and is given what to multiply it by; lion learns with a fifth of AdamW's rate; adafactor
    hardly needs memory; adamw_schedule_free averages the weights instead of lowering the rate; came
    is adafactor with a momentum that trusts steady steps, and learns with a twentieth of AdamW's
    rate."""
    learning_rate: Rate | None = field(
        None, title="Learning rate (UNet)", needs={"adapter.unet": True}
    )
    """Learning rate of the UNet's adapter. Empty: what suits the base model, the optimizer and the
    kind of adapter (1e-4 for SD 1, SD 2 and SDXL with adamw; a fifth of that with lion; twice
    as much for loha; for rslora divided by the square root of the rank; half where the schedule is
    constant; 1 with prodigy)."""
    text_encoder_learning_rate: Rate | None = field(
        None, title="Learning rate (text encoder)", needs={"adapter.text_encoder": True}
    )
    """Learning rate of the text encoder's adapter. Empty: what suits the base model and the
    optimizer (5e-5 for SD 1, SD 2 and SDXL with adamw)."""
    text_encoder_2_learning_rate: Rate | None = field(
        None, title="Learning rate (second text encoder)", needs={"adapter.text_encoder": True}
    )
    """SDXL only: learning rate of its second text encoder's adapter. Empty: that of the first."""
    new_tokens_learning_rate: Rate | None = field(
        None, title="Learning rate (new tokens)", needs={"adapter.new_tokens": True}
    )
    """Learning rate of the new tokens' vectors. Empty: what suits the base model and the optimizer
    (5e-4 for SD 1, SD 2 and SDXL with adamw)."""
    layer_rates: Several[str] = field(
        (), title="Learning rates by layer, one a line", max_length=100
    )
    """What the learning rate is multiplied by in some layers: PATTERN = FACTOR, such as
    unet.mid_block.* = 0.5 (patterns as for adapter.only); of several that fit the last one
    counts."""
    lora_plus_ratio: float = field(
        1.0, title="LoRA+ ratio", ge=1.0, le=64.0, needs={"adapter.kind": list(PAIRS)}
    )
    """LoRA+ (arXiv 2402.12354): learning rate of B over that of A. 1 is plain LoRA; the paper found
    4 to 16 to converge faster."""
    weight_decay: float = field(0.01, ge=0.0, le=1.0)
    """How strongly every step draws the adapter's weights towards 0 (decoupled weight decay)."""
    max_gradient_norm: float = field(
        1.0, title="Gradient clipping (longest gradient)", ge=0.0, le=1000.0
    )
    """Gradients longer than this are shortened to it, so that one odd batch does no harm. 0:
    never."""
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = field(
        "cosine", title="Learning-rate schedule", needs=AVERAGED_ELSEWHERE
    )
    """How the learning rate changes after the warm-up. constant: not at all. linear, cosine: it
    falls to 0. cosine_with_restarts: so it does optimizer.schedule_cycles times, from the full rate
    each time. polynomial: it falls as the share of steps left to the power of
    optimizer.schedule_power. With adamw_schedule_free it stays in any case."""
    schedule_cycles: int = field(
        3, title="Cycles of the schedule", ge=1, le=1000, before=1,
        needs={"optimizer.schedule": "cosine_with_restarts", **AVERAGED_ELSEWHERE},
    )  # fmt: skip
    """How often the rate falls to 0 with cosine_with_restarts. With 1 it is cosine."""
    schedule_power: float = field(
        2.0, title="Power of the schedule", gt=0.0, le=100.0, before=1.0,
        needs={"optimizer.schedule": "polynomial", **AVERAGED_ELSEWHERE},
    )  # fmt: skip
    """Power of the polynomial schedule. With 1 it is linear; the higher, the earlier the rate
    falls."""
    warmup: Probability = field(0.05)
    """Share of the run over which the learning rate rises to its full value, in equal parts from
    the first step on. It goes before every schedule."""

    @property
    def averages(self) -> bool:
        """Whether the optimizer averages the weights by itself."""
        return OPTIMIZERS[self.name].averages

    @field_validator("layer_rates")
    @classmethod
    def _check_rates(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not 0 < number_by_pattern(line)[1] <= 100:
                raise ValueError(f"{line!r} given, expected a number above 0, at most 100")
        return lines

    @field_validator("schedule", mode="before")
    @classmethod
    def _read_warmed(cls, value: object) -> object:
        """Files of earlier versions have a name for a constant schedule that heeds the warm-up."""
        return "constant" if value == "constant_with_warmup" else value
