"""Local models for captions and masks: which are known, and where they are.

Nothing is downloaded unless that is asked for, and then no code and no pickles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import HfApi

from trainer.captioning.memory import weights_of
from trainer.errors import UserError
from trainer.models.hub import TIMEOUT_SECONDS, cached_snapshot
from trainer.text import first_line

FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""What is downloaded of a repository in transformers' layout."""
TAGGER_FILES = ("model.onnx", "selected_tags.csv")


@dataclass(frozen=True)
class KnownModel:
    """A model that is known to be good."""

    repository: str  # hub id; of an ONNX file for masks, its name
    gigabytes: float  # of its download, about
    licence: str
    card: float  # GiB of a card's memory, about
    files: tuple[str, ...] = FILES  # what of it is downloaded; nothing where it is no hub id


KNOWN_MODELS: dict[Literal["captions", "tags", "masks"], tuple[KnownModel, ...]] = {
    "captions": (
        KnownModel("Salesforce/blip-image-captioning-base", 1.0, "BSD-3-Clause", 1.5),
        KnownModel("florence-community/Florence-2-base", 0.5, "MIT", 1.5),
        KnownModel("florence-community/Florence-2-large", 1.6, "MIT", 2.5),
        KnownModel("Qwen/Qwen2-VL-2B-Instruct", 4.4, "Apache-2.0", 6.0),
        KnownModel("fancyfeast/llama-joycaption-beta-one-hf-llava", 17.0, "Llama 3.1", 20.0),
    ),
    "tags": (
        KnownModel("SmilingWolf/wd-vit-tagger-v3", 0.4, "Apache-2.0", 1.0, TAGGER_FILES),
        KnownModel("SmilingWolf/wd-swinv2-tagger-v3", 0.5, "Apache-2.0", 1.0, TAGGER_FILES),
    ),
    "masks": (
        KnownModel("CIDAS/clipseg-rd64-refined", 0.6, "Apache-2.0", 1.0),
        KnownModel("facebook/sam-vit-base", 0.4, "Apache-2.0", 2.0),
        KnownModel("facebook/sam2.1-hiera-small", 0.2, "Apache-2.0", 1.5),
        KnownModel("u2net.onnx", 0.2, "Apache-2.0", 1.0, ()),
        KnownModel("isnet-general-use.onnx", 0.2, "Apache-2.0", 1.5, ()),
        KnownModel("BiRefNet-general-epoch_244.onnx", 1.0, "MIT", 4.0, ()),
    ),
}


def find_model(name: str, download: bool = False) -> Path:
    """The folder or ONNX file of a model: a local one, or an earlier download of a hub id.

    Args:
        download: whether it may be fetched.

    Raises:
        UserError: it is not here; what fetching it means is said.
    """
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.casefold() == ".onnx"):
        return path
    if path.is_absolute() or name.count("/") != 1 or path.is_file():
        raise UserError(
            f"There is no model {name}.", "Give a model's folder, an ONNX file, or a hub id."
        )
    found = cached_snapshot(name)
    if found is not None and weights_of(found):
        return found
    if not download:
        raise UserError(
            f"{name} is not on this machine: {_size(name)}.",
            "Add --download to fetch it, or give the folder of a model that is here.",
            "model_missing",
        )
    known = _known(name)
    try:
        files = list(known.files if known else FILES)
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # its HTTP client's are not ours to name
        raise UserError(
            f"{name} cannot be downloaded ({first_line(error)}).", "Check the name and the network."
        ) from None


def _known(name: str) -> KnownModel | None:
    models = (one for group in KNOWN_MODELS.values() for one in group)
    return next((one for one in models if one.repository == name), None)


def _size(name: str) -> str:
    if known := _known(name):
        return f"about {known.gigabytes} GB to download, licence {known.licence}"
    try:
        info = HfApi().model_info(name, timeout=TIMEOUT_SECONDS, files_metadata=True)
    except Exception:  # no network, no such model: then its size is not known
        return "its size is not known, since the hub does not answer"
    wanted = [file for file in info.siblings or [] if Path(file.rfilename).match("*.safetensors")]
    return f"{sum(file.size or 0 for file in wanted) / 1e9:.1f} GB to download"
