"""The configurations in a diffusers folder, before a library makes layers of them.

The libraries build what a configuration asks for and look at the weights afterwards: a width of a
billion takes all memory, a million layers take hours, and NaN in a noise schedule draws black.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from trainer.errors import UserError
from trainer.plain_files import open_file
from trainer.untyped import is_list, is_table

SUPPORTED = "Rarebit trains adapters for Stable Diffusion 1.x, 2.x and XL."


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
        UserError: says how many it takes.
    """
    if channels != 4:
        raise UserError(
            f"{path} is no text-to-image model: its UNet has {channels} input channels, not 4, as "
            "for inpainting, pix2pix, upscaling or depth.",
            "Train on the text-to-image model; the adapter usually works on the other as well.",
        )


MAX_JSON_BYTES = 8 * 2**20
MAX_LAYERS = 100  # of one kind, and entries of a list; SDXL's second text encoder has 32 layers
WHOLE = "Give the whole folder, as it was downloaded or saved by diffusers."

_LEAST_LIMIT = 1024

Model = TypeVar("Model", bound=BaseModel)
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


class _Vae(BaseModel):
    """How a VAE's latents become those of the UNet: ``scaling_factor * (z - mean) / std``."""

    latent_channels: Annotated[int, Field(strict=True)] = 4
    scaling_factor: Positive = 1.0
    shift_factor: Finite = 0.0
    latents_mean: Annotated[list[Finite], Field(min_length=4, max_length=4)] | None = None
    latents_std: Annotated[list[Positive], Field(min_length=4, max_length=4)] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file is absent, too large, or holds something else.
    """
    try:
        with open_file(path) as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise UserError(f"{path} is too large to be a model's configuration.", WHOLE)
        content = json.loads(text)
    except FileNotFoundError:
        raise UserError(f"{path} is missing.", WHOLE) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", WHOLE) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not valid JSON.", "Download the folder again.") from None
    if not is_table(content):
        raise UserError(f"{path} is not a JSON object.", "Download the folder again.")
    return content


def check_sizes(path: Path, config: Mapping[str, Any], dimensions: Iterable[int]) -> None:
    """No number of a part's configuration is beyond what its weights are like.

    Args:
        dimensions: of the part's tensors; no width may be greater than the greatest of them.

    Raises:
        UserError: names the field.
    """
    widest = max(_LEAST_LIMIT, *dimensions, 0)
    rest: list[tuple[str, object]] = list(config.items())
    while rest:
        name, value = rest.pop()
        limit = MAX_LAYERS if "layers" in name else widest
        if is_table(value):
            rest += value.items()
        elif is_list(value):
            if len(value) > MAX_LAYERS:
                raise unfit(path, name, f"a list of {len(value)} values")
            rest += [(name, item) for item in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise unfit(path, name, str(value))
        elif isinstance(value, int) and abs(value) > limit and not name.endswith("_token_id"):
            raise unfit(path, name, f"beyond {limit:,}")


def check_vae(path: Path, config: Mapping[str, Any], *, applies_statistics: bool) -> None:
    """A VAE's latents can be computed as the tools that draw with the model compute them.

    Args:
        applies_statistics: diffusers' pipelines of its family use ``latents_mean`` and
            ``latents_std``.

    Raises:
        UserError: names the field.
    """
    vae = checked(_Vae, path, config)
    if vae.latent_channels != 4:
        raise wrong_kind(path, f"a VAE with {vae.latent_channels} latent channels, not 4")
    if vae.shift_factor:
        raise wrong_kind(path, "a VAE with a shift_factor (Stable Diffusion 3, Flux)")
    given = [vae.latents_mean is not None, vae.latents_std is not None]
    if any(given) and not (all(given) and applies_statistics):
        raise unfit(path, "latents_mean or latents_std", "given where no tool would apply it")


def checked(kind: type[Model], path: Path, config: Mapping[str, Any]) -> Model:
    """The fields of a configuration that `kind` has; null counts as left out.

    Raises:
        UserError: names the first that is unfit.
    """
    stated = {name: config[name] for name in kind.model_fields if config.get(name) is not None}
    try:
        return kind.model_validate(stated)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise unfit(path, str(first["loc"][0]), f"unfit ({first['msg']})") from None


def latent_side(folder: Path) -> int:
    """The UNet's ``sample_size``; configurations from before diffusers 0.9 say 32 for 64.

    Raises:
        UserError: it is no number above 0.
    """
    path = folder / "unet" / "config.json"
    config = read_json(path)
    size = config.get("sample_size") or 64
    size = size[0] if is_list(size) else size
    if not isinstance(size, int) or size < 1:
        raise unfit(path, "sample_size", "no number of latents")
    is_old = re.match(r"0\.[0-8]\.", str(config.get("_diffusers_version")))
    return 64 if size < 64 and is_old else size


def latent_factor(path: Path) -> int:
    """Pixels for each latent along a side, by a VAE's configuration: 8, less for small models.

    Raises:
        UserError: the VAE's configuration does not say.
    """
    widths = read_json(path).get("block_out_channels")
    if not is_list(widths) or not 0 < len(widths) < 8:
        raise unfit(path, "block_out_channels", "no list of channels")
    return int(2 ** (len(widths) - 1))  # the encoder halves the side between its blocks


def unfit(path: Path, name: str, what: str) -> UserError:
    """What to say of a field that nothing can be computed with."""
    return UserError(
        f"{path} can't be right: {name[:80]!a} is {what}.",
        "Download the folder again: it is damaged, or was made by hand.",
    )
