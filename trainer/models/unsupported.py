"""What is said of models that are sound, but cannot be trained here."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import UserError

SUPPORTED = "Rarebit trains adapters for Stable Diffusion 1.x, 2.x and XL."

_INPUT_CHANNELS = {
    9: "an inpainting model",
    8: "an instruct-pix2pix model",
    7: "an upscaler",
    5: "a depth-to-image model",
}


def wrong_kind(path: Path, kind: str) -> UserError:
    """`kind` with its article, as in "a Flux model"."""
    return UserError(f"{path} is {kind}, which cannot be trained here.", SUPPORTED)


def distilled(path: Path, otherwise: str = "") -> UserError:
    """Turbo, lightning, LCM; `otherwise` says what to do if it was taken for one wrongly."""
    return UserError(
        f"{path} is a distilled model for few steps (turbo, lightning or LCM).",
        "Training with the usual noise undoes the distillation: train on the model that it was "
        f"distilled from; the adapter usually works on both. {otherwise}".rstrip(),
    )


def refiner(path: Path) -> UserError:
    """SDXL's second model."""
    return UserError(
        f"{path} is the SDXL refiner, which only improves pictures of the base model.",
        "Train on the SDXL base model.",
    )


def check_input_channels(path: Path, channels: int | None) -> None:
    """Refuses UNets that take more than the 4 channels of latents.

    Raises:
        UserError: names the kind of model.
    """
    if channels != 4:
        kind = _INPUT_CHANNELS.get(channels or 0, "no text-to-image model")
        raise UserError(
            f"{path} is {kind} (its UNet has {channels} input channels, not 4), which cannot be "
            "trained here.",
            "Train on the text-to-image model; the adapter usually works on the other as well.",
        )
