"""Which base model a name stands for: found, recognised, and its facts. Loads no weights, no torch.

A model that is not on this machine can be judged by its name, before anything is downloaded.
"""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from trainer.errors import UserError
from trainer.models import families, hub
from trainer.models.configs import latent_factor, latent_side, read_json
from trainer.models.diffusers_folder import missing_parts
from trainer.models.families import FAMILIES, Family, FamilyName, PredictionType
from trainer.models.noise import Prediction, settled
from trainer.models.original_names import vae_names
from trainer.models.recognise import check_vae_folder, read_safe_header, recognise

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)(?<!\.SAFETENSORS)")


def built_in_models() -> dict[str, Path]:
    """Names and places of the models in the repository's ``models/``, the user's own included."""
    found: dict[str, Path] = {}
    for folder in (families.MODELS_FOLDER / "user", families.MODELS_FOLDER):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (path / "model_index.json").is_file():
                found[path.name] = path
            elif path.suffix.lower() == ".safetensors" and path.is_file():
                found[path.stem] = path
    return found


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a model's on the Hugging Face hub."""
    return bool(_HUB_ID.fullmatch(name))


def find(name: str) -> Path | None:
    """A base model on this machine; None where it is not, or not whole, or may be on the hub.

    Looked for in this order: a name in ``models/``, a folder or file, the name of a file in
    ``models/``, the hub's cache.
    """
    if built_in := built_in_models().get(name):
        return built_in
    with suppress(OSError, RuntimeError, ValueError):  # names that no path can have, such as "~x"
        path = Path(name).expanduser()
        if path.exists():
            return path
    if file := next((path for path in built_in_models().values() if path.name == name), None):
        return file
    cached = hub.cached_snapshot(name) if is_hub_id(name) else None
    return cached if cached and not missing_parts(cached) else None


def no_such_base(name: str) -> UserError:
    """What to say where nothing has this name."""
    built_in = sorted(built_in_models())
    close = difflib.get_close_matches(name, built_in, n=1)
    return UserError(
        f"{name} is a kind of base model, which only `fit` takes."
        if name in NAMES
        else f"There is no base model {name!r}: no such built-in name, folder or file.",
        f"Did you mean {close[0]}?"
        if close
        else f"Built-in: {', '.join(built_in) or 'none'}. Or give a diffusers folder, a "
        ".safetensors file, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5 (SD 1) "
        "or stabilityai/stable-diffusion-xl-base-1.0 (SDXL).",
    )


@dataclass(frozen=True)
class BaseFacts:
    """What is known of a base model before its weights are loaded."""

    family: Family  # SD 1, SD 2 or SDXL
    prediction_type: PredictionType  # what its UNet predicts
    # A folder in diffusers' layout with the configurations of its parts; for a single file that of
    # its family.
    config_folder: Path

    @property
    def vae_config(self) -> Path:
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
    """A base model on this machine that was recognised by its content."""

    name: str  # as the user gave it
    path: Path  # its folder in diffusers' layout, or its single file
    zero_terminal_snr: bool  # whether its noise schedule ends in pure noise (arXiv 2305.08891)
    detail: str  # how the prediction type was recognised, for people
    # A VAE that is given apart: its file, or its folder in diffusers' layout.
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
    path = find(name) or (hub.download(name) if is_hub_id(name) else None)
    if path is None:
        raise no_such_base(name)
    return identify_at(name, path, prediction=prediction, vae=vae, whole=whole)


def identify_at(
    name: str, path: Path, *, prediction: Prediction = "auto", vae: str = "", whole: bool = True
) -> BaseIdentity:
    """`identify` of what lies at a path.

    Raises:
        UserError: it is damaged, in a format that can run code, or of another kind.
    """
    family_name, noise = recognise(path, whole and not vae)
    family = FAMILIES[family_name]
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
        files = (base.vae_config, path / "config.json")
        ours, theirs = (read_json(file).get(what) for file in files)
        if ours != theirs:
            raise UserError(
                f"The VAE in {path} is not one for {base.name}: its {what} is {theirs}, the base "
                f"model's {ours}.",
                f"Give a VAE for {base.family.title}.",
            )
    return path


NAMES: dict[str, tuple[FamilyName, PredictionType]] = {
    "sd15": ("sd1", "epsilon"),
    "sd2": ("sd2", "epsilon"),
    "sd2-v": ("sd2", "v_prediction"),
    "sdxl": ("sdxl", "epsilon"),
}
"""What stands for a whole family, so that one can ask before downloading anything."""

# Tried in this order. The hub's stable-diffusion-2 and stable-diffusion-2-1 are those of 768 px.
_PATTERNS = (
    (re.compile(r"xl|pony|illustrious", re.I), "sdxl"),
    (re.compile(r"stable-diffusion-2(-1)?$|768|sd-?2-?1?-v", re.I), "sd2-v"),
    (re.compile(r"stable-diffusion-2|sd-?2", re.I), "sd2"),
    (re.compile(r"stable-diffusion-v?1|sd-?v?1|dreamshaper|v1-5", re.I), "sd15"),
)


def read_facts(name: str, *, prediction: Prediction = "auto", vae: str = "") -> BaseFacts:
    """A base model given as for ``--base``, or by one of `NAMES`.

    Args:
        prediction, vae: as for `trainer.models.identify.identify`.

    Returns:
        A `BaseIdentity` where it is on this machine.

    Raises:
        UserError: it is damaged or of another kind; or it is not here, and its name does not say.
    """
    path = find(name)
    if path is not None:
        return identify_at(name, path, prediction=prediction, vae=vae)
    if name in NAMES:
        return facts_of(name)
    if not is_hub_id(name):
        raise no_such_base(name)
    short = short_name_of(name)
    if short is None:
        raise UserError(
            f"{name} has not been downloaded, and its name does not say of which kind it is.",
            f"Ask for its family: --base {', '.join(NAMES)}.",
        )
    return facts_of(short)


def facts_of(short: str) -> BaseFacts:
    """The facts of one of `NAMES`."""
    family, prediction = FAMILIES[NAMES[short][0]], NAMES[short][1]
    return BaseFacts(family, prediction, family.config_folder(prediction))


def short_name_of(name: str) -> str | None:
    """Which of `NAMES` a hub id or the name of a file or folder speaks of, if any."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    last = re.sub(r"\.safetensors$", "", last, flags=re.I)
    return next((short for pattern, short in _PATTERNS if pattern.search(last)), None)
