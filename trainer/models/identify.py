"""Which base model a name stands for, without loading weights. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from trainer.errors import UserError
from trainer.models.configs import latent_factor, latent_side, read_json
from trainer.models.families import FAMILIES, Family, PredictionType
from trainer.models.locate import locate
from trainer.models.noise import Prediction, settled
from trainer.models.original_names import vae_names
from trainer.models.recognise import check_vae_folder, read_safe_header, recognise


@dataclass(frozen=True)
class BaseFacts:
    """What is known of a base model before its weights are loaded.

    Attributes:
        family: SD 1, SD 2 or SDXL.
        prediction_type: what its UNet predicts.
        config_folder: a folder in diffusers' layout with the configurations of its parts; for a
            single file that of its family.
    """

    family: Family
    prediction_type: PredictionType
    config_folder: Path

    @property
    def vae_config(self) -> Path:
        """The VAE's configuration."""
        return self.config_folder / "vae" / "config.json"

    @cached_property
    def latent_factor(self) -> int:
        """Pixels for each latent along a side: 8, and less for small models."""
        return latent_factor(self.vae_config)

    @cached_property
    def resolution(self) -> int:
        """Side in pixels of the squares that the UNet was trained on."""
        return self.latent_factor * latent_side(self.config_folder)

    @property
    def resolution_step(self) -> int:
        """Sides of training pictures are multiples of this, in pixels."""
        return 8 * self.latent_factor


@dataclass(frozen=True)
class BaseIdentity(BaseFacts):
    """A base model on this machine that was recognised by its content.

    Attributes:
        name: as the user gave it.
        path: its folder in diffusers' layout, or its single file.
        zero_terminal_snr: whether its noise schedule ends in pure noise (arXiv 2305.08891).
        detail: how the prediction type was recognised, for people.
        vae: a VAE that is given apart: its file, or its folder in diffusers' layout.
    """

    name: str
    path: Path
    zero_terminal_snr: bool
    detail: str
    vae: Path | None = None

    @property
    def vae_config(self) -> Path:
        """Of a VAE file that of the model itself, which scales its latents, or of its family."""
        if self.vae and self.vae.is_dir():
            return self.vae / "config.json"
        own = self.config_folder / "vae" / "config.json"
        usual = self.family.config_folder(self.prediction_type) / "vae" / "config.json"
        return own if own.is_file() else usual

    @property
    def is_single_file(self) -> bool:
        """Whether it is one file in the layout of the original code."""
        return self.path.is_file()

    @property
    def tokenizer_folders(self) -> list[Path]:
        """A folder with a vocabulary for each text encoder; a single file has none in it."""
        if self.is_single_file:
            return self.family.tokenizer_folders
        names = ("tokenizer", "tokenizer_2")[: len(self.family.tokenizer_names)]
        return [self.path / name for name in names]


def identify(
    name: str, *, prediction: Prediction = "auto", vae: str = "", whole: bool = True
) -> BaseIdentity:
    """Finds and recognises a base model; a hub id is downloaded if it is not there yet.

    What the UNet predicts: `prediction` unless it is "auto"; else, for a folder, what its
    scheduler's configuration says (epsilon where it says nothing); for a single file see
    `trainer.models.recognise`.

    Args:
        vae: the file or folder of a VAE in place of its own.
        whole: it is to draw or to train; False: only its text encoders and sizes are asked for,
            and it may lack a VAE, or need its prediction type set.

    Raises:
        UserError: it is not there, damaged, in a format that can run code, or of another kind.
    """
    return identify_at(name, locate(name), prediction=prediction, vae=vae, whole=whole)


def identify_at(
    name: str, path: Path, *, prediction: Prediction = "auto", vae: str = "", whole: bool = True
) -> BaseIdentity:
    """`identify` of what lies at a path.

    Raises:
        UserError: it is damaged, in a format that can run code, or of another kind.
    """
    found = recognise(path, has_vae=whole and not vae)
    noise, family = found.noise, FAMILIES[found.family]
    if whole:
        noise = settled(path, noise, prediction)
    identity = BaseIdentity(
        name=name,
        path=path,
        family=family,
        prediction_type=noise.prediction,
        config_folder=path if path.is_dir() else family.config_folder(noise.prediction),
        zero_terminal_snr=noise.zero_terminal_snr,
        detail=noise.detail,
    )
    return replace(identity, vae=_find_vae(vae, identity)) if vae else identity


def _find_vae(name: str, base: BaseIdentity) -> Path:
    """The VAE that ``base.vae`` names, checked to suit the base model.

    Raises:
        UserError: it is not there, is no VAE, or is one for other base models.
    """
    path = Path(name).expanduser()
    path = path / "vae" if (path / "vae").is_dir() else path
    if path.is_file():
        if not vae_names(read_safe_header(path).tensors):
            raise UserError(f"{path} holds no VAE.", "Give the .safetensors file of a VAE.")
        return path
    if not (path / "config.json").is_file():
        raise UserError(
            f"There is no VAE {name!r}: no file, and no folder with a config.json.",
            "Give the .safetensors file of a VAE, or its folder in diffusers' layout.",
        )
    check_vae_folder(path, base.family.name)
    for what in ("scaling_factor", "block_out_channels"):
        ours, theirs = (
            read_json(base.vae_config).get(what),
            read_json(path / "config.json").get(what),
        )
        if ours != theirs:
            raise UserError(
                f"The VAE in {path} is not one for {base.name}: its {what} is {theirs}, the base "
                f"model's {ours}.",
                f"Give a VAE for {base.family.title}.",
            )
    return path
