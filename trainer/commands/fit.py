"""``fit``: does a configuration fit a card, and what would."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from trainer.commands.command import command, option
from trainer.commands.train import ConfigFile, Overrides, Preset, gathered_config
from trainer.config.fields import all_fields

if TYPE_CHECKING:
    from trainer.memory.prediction import Fit

_STEP_PARTS = {
    "base_weights": "base model's weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer's state",
    "activations": "activations",
}
_OTHER_PARTS = {
    "caching": "while latents are cached",
    "previews": "while previews are drawn",
    "measuring": "while the adapter is measured",
    "export": "while its file is written",
}


@dataclass(frozen=True)
class FitAnswer:
    """A prediction as a table and a sentence or two."""

    found: "Fit"

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return self.found.as_json()

    def lines(self) -> Iterator[str]:
        """For people."""
        from trainer.memory.prediction import FRAGMENTATION

        found, parts = self.found, self.found.parts
        yield (
            f"{found.base}, {found.resolution} px, batch size {found.batch_size}, "
            f"{found.precision}: predicted for a GPU with {found.vram_gib:g} GiB "
            f"({found.vram_source})"
        )
        yield ""
        rows = {title: parts[name] for name, title in _STEP_PARTS.items()}
        rows["a training step, all of these"] = sum(rows.values())
        rows |= {title: parts[name] for name, title in _OTHER_PARTS.items()}
        rows["CUDA itself (assumed)"] = parts["context"]
        rows[f"gaps in memory (assumed: {FRAGMENTATION:.0%})"] = parts["fragmentation"]
        rows["peak"] = found.peak_gib
        for title, gib in rows.items():
            yield f"  {title:<36}{gib:7.2f} GiB"
        yield ""
        yield self._verdict()

    def _verdict(self) -> str:
        found = self.found
        if found.fits:
            return "It fits."
        changes = ", ".join(f"{name}={_shown(value)}" for name, value in found.plan.items())
        if not found.plan_fits:
            return (
                "It does not fit. The least that is possible is "
                f"{found.plan_peak_gib:.2f} GiB, with {changes or 'the settings as they are'}; "
                "a lower images.resolution needs less."
            )
        return (
            f"It does not fit. The fastest plan that does needs {found.plan_peak_gib:.2f} GiB and "
            f"about {found.slowdown:.2f} times as long a step: {changes}"
        )


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
    preset: Preset = None,
    overrides: Overrides = None,
    **fields: object,
) -> FitAnswer:
    """Predict; a configuration that does not fit is no failure.

    Raises:
        UserError: a mistake in the configuration, or a base model that cannot be recognised.
    """
    from trainer.memory.prediction import predict

    return FitAnswer(predict(gathered_config(config, preset, fields, overrides), vram))


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
