"""``fit``: does a configuration fit a card, and what would."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from trainer.commands.command import command, option
from trainer.commands.train import FLAGS, Sources

if TYPE_CHECKING:
    from trainer.memory.prediction import Fit


@command(
    "fit",
    "predict the GPU memory of a configuration, and the plan that fits a card; --base takes sd15, "
    "sd2, sd2-v and sdxl as well, before anything is downloaded",
    fields=[field for field in FLAGS if field.memory],
)
def fit(
    *,
    vram: Annotated[
        float | None,
        option("GIB", "The card's memory. Unless given: that of this machine's GPU, or 11."),
    ] = None,
    sources: Sources,
    **fields: object,
) -> "Fit":
    """Predict; a configuration that does not fit is no failure.

    Raises:
        UserError: a mistake in the configuration, or a base model that cannot be recognised.
    """
    from trainer.captioning.memory import plugs
    from trainer.memory.prediction import classifier_gib, predict

    asked = sources.gathered(fields)
    found = {"captions by the base model itself": classifier_gib(asked), **plugs(bytes_each=2)}
    rounded = {title: round(gib, 2) for title, gib in found.items()}
    return replace(predict(asked, vram), plugs=rounded)
