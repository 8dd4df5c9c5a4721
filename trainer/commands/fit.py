"""``fit``: does a configuration fit a card, and what would."""

from typing import TYPE_CHECKING, Annotated

from trainer.commands.command import command, option
from trainer.commands.train import ConfigFile, Overrides, Presets, gathered_config
from trainer.config.fields import all_fields

if TYPE_CHECKING:
    from trainer.memory.prediction import Fit


@command(
    "fit",
    "predict the GPU memory of a configuration, and the plan that fits a card; --base takes sd15, "
    "sd2, sd2-v and sdxl as well, before anything is downloaded",
    fields=[field for field in all_fields().values() if field.flag and field.memory],
)
def fit(
    *,
    vram: Annotated[
        float | None,
        option("GIB", "The card's memory. Unless given: that of this machine's GPU, or 11."),
    ] = None,
    config: ConfigFile = None,
    presets: Presets = None,
    overrides: Overrides = None,
    **fields: object,
) -> "Fit":
    """Predict; a configuration that does not fit is no failure.

    Raises:
        UserError: a mistake in the configuration, or a base model that cannot be recognised.
    """
    from trainer.memory.prediction import predict

    return predict(gathered_config(config, presets, fields, overrides), vram)
