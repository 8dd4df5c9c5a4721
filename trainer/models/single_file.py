"""Loading single files in the layout of the original code (ldm, sgm), and VAEs given apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm  # pyright: ignore[reportUnknownVariableType]
from safetensors import safe_open
from torch import Tensor

from trainer.errors import UserError
from trainer.models.base import ENCODERS
from trainer.models.configs import read_json
from trainer.models.identify import BaseIdentity
from trainer.models.original_layout import unet_name
from trainer.models.original_names import UNET, VAE, averaged_name, standard_names, vae_names
from trainer.models.safetensors_header import read_header

_KINDS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
_TEXT = ("cond_stage_model.", "conditioner.embedders.")


def load_single_file(
    identity: BaseIdentity, dtypes: Mapping[str, torch.dtype]
) -> dict[str, torch.nn.Module]:
    """Some parts of a single file, in their number formats; what has no weight stays on meta.

    Raises:
        UserError: it has fewer weights of a part than the standard model, or more.
    """
    names = _names_in_file(identity)
    options: dict[str, Any] = {"config": str(identity.config_folder), "local_files_only": True}
    modules: dict[str, Any] = {}
    for part, dtype in dtypes.items():
        options |= {"subfolder": part, "torch_dtype": dtype}
        if part in ENCODERS:
            tensors = _read(identity.path, names, _TEXT)
            make = cast("Any", create_diffusers_clip_model_from_ldm)
            modules[part] = make(ENCODERS[part], tensors, **options)
        else:
            prefix = UNET if part == "unet" else VAE
            tensors = _read(identity.path, names, (prefix,))
            _check_count(identity.path, part, sum(".loss." not in n for n in tensors), options)
            modules[part] = _KINDS[part].from_single_file(tensors, **options)
    return modules


def load_vae_file(path: Path, config_folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """A VAE from a file of its own, or out of a whole checkpoint.

    Args:
        config_folder: has the VAE's configuration in its folder ``vae``.

    Raises:
        UserError: its weights are not those of the standard VAE.
    """
    tensors = _read(path, vae_names(read_header(path).tensors))
    options: dict[str, Any] = {"config": str(config_folder), "local_files_only": True}
    options |= {"subfolder": "vae", "torch_dtype": dtype}
    _check_count(path, "vae", len(tensors), options)
    return cast("Any", AutoencoderKL).from_single_file(tensors, **options)


def _names_in_file(identity: BaseIdentity) -> dict[str, str]:
    """Where each tensor lies in the file, by its standard name."""
    found = read_header(identity.path).tensors
    names = standard_names(found)
    if any(name.startswith(UNET) for name in names):
        return names
    config = read_json(identity.config_folder / "unet" / "config.json")
    with torch.device("meta"):
        keys = list(_KINDS["unet"].from_config(config).state_dict())
    wanted = [UNET + unet_name(key, keys, int(config["layers_per_block"])) for key in keys]
    return names | {name: averaged_name(name) for name in wanted if averaged_name(name) in found}


def _read(
    path: Path, names: Mapping[str, str], prefixes: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    with cast("Any", safe_open(path, framework="pt")) as file:
        return {
            standard: file.get_tensor(name)
            for standard, name in names.items()
            if not prefixes or standard.startswith(prefixes)
        }


def _check_count(path: Path, part: str, found: int, options: Mapping[str, Any]) -> None:
    """The file has as many tensors for a part as the standard model."""
    config = read_json(Path(options["config"]) / part / "config.json")
    with torch.device("meta"):
        expected = len(_KINDS[part].from_config(config).state_dict())
    if found != expected:
        raise UserError(
            f"{path} has {found} tensors for the {part}, the standard model {expected}.",
            "Only whole models of the standard architecture can be trained here.",
        )
