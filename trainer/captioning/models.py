"""Captions by local models in transformers' layout: BLIP, Florence-2, and chat models that see.

A model is what its ``config.json`` says; transformers' Auto classes build it. No code of a model is
run, and only weights as safetensors are read. Nothing is downloaded unless that is asked for.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import huggingface_hub
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from trainer.captioning.wording import Wording
from trainer.data.findings import ImageProblem
from trainer.errors import UserError
from trainer.memory.devices import choose_device
from trainer.models.configs import read_json
from trainer.models.hub import TIMEOUT_SECONDS, cached_snapshot

Kind = Literal["chat", "task", "plain"]

FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""What is downloaded of a repository: no code and no pickles."""
TASK = "<MORE_DETAILED_CAPTION>"
"""What Florence-2 is asked (arXiv 2311.06242); it takes no instructions."""
MOST_TOKENS = 200
WORKING_SHARE = 0.25
"""Assumed: memory beside the weights while a caption is written, as a share of them."""


@dataclass(frozen=True)
class KnownModel:
    """A model that is known to be good.

    Attributes:
        gigabytes: of its download, about.
        card: GiB of a card's memory, about.
    """

    repository: str
    gigabytes: float
    licence: str
    card: float


KNOWN_MODELS = (
    KnownModel("Salesforce/blip-image-captioning-base", 1.0, "BSD-3-Clause", 1.5),
    KnownModel("florence-community/Florence-2-base", 0.5, "MIT", 1.5),
    KnownModel("florence-community/Florence-2-large", 1.6, "MIT", 2.5),
    KnownModel("HuggingFaceTB/SmolVLM-500M-Instruct", 1.0, "Apache-2.0", 2.0),
    KnownModel("Qwen/Qwen2-VL-2B-Instruct", 4.4, "Apache-2.0", 6.0),
    KnownModel("fancyfeast/llama-joycaption-beta-one-hf-llava", 17.0, "Llama 3.1", 20.0),
)


def find_model(name: str, download: bool = False) -> Path:
    """The folder of a model: a local one, or an earlier download of a hub id.

    Args:
        download: whether it may be fetched.

    Raises:
        UserError: it is not here; what fetching it means is said.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.count("/") != 1:
        raise UserError(f"There is no folder {name}.", "Give a model's folder, or a hub id.")
    found = cached_snapshot(name)
    if found is not None and any(found.glob("*.safetensors")):
        return found
    if not download:
        raise UserError(
            f"{name} is not on this machine: {_size(name)}.",
            "Add --download to fetch it, or give the folder of a model that is here.",
            "model_missing",
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # its HTTP client's are not ours to name
        first = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
        raise UserError(
            f"{name} cannot be downloaded ({first}).", "Check the name and the network."
        ) from None


def _size(name: str) -> str:
    for known in KNOWN_MODELS:
        if known.repository == name:
            return f"about {known.gigabytes} GB to download, licence {known.licence}"
    try:
        info = HfApi().model_info(name, timeout=TIMEOUT_SECONDS, files_metadata=True)
    except Exception:  # no network, no such model: then its size is not known
        return "its size is not known, since the hub does not answer"
    wanted = [file for file in info.siblings or [] if Path(file.rfilename).match("*.safetensors")]
    return f"{sum(file.size or 0 for file in wanted) / 1e9:.1f} GB to download"


class LocalCaptioner:
    """A model in a folder.

    Args:
        check: is called at each token; what it raises ends the work.
    """

    parallel = 1

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        self.check = check
        gib = weights_of(folder) * (1 + WORKING_SHARE) / 2**30
        self.title = f"{folder.name} (about {gib:.1f} GiB of memory)"
        config = read_json(folder / "config.json")
        kind = str(config.get("model_type") or "")
        if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise UserError(
                f"{folder.name} is not a model that captions pictures (model_type {kind!r}).",
                "Take BLIP, Florence-2 or a chat model that sees pictures. Code in a model's "
                "folder is never run: for Florence-2 take one of florence-community.",
            )
        device = choose_device("auto")
        self.device = device.torch_device
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor: Any = AutoProcessor.from_pretrained(folder, **safe)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=device.dtype, use_safetensors=True, **safe
            )
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            first = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
            raise UserError(
                f"{folder.name} cannot be loaded: {first}",
                "Give the folder of a complete model with safetensors weights.",
            ) from None
        self.model = model.eval().requires_grad_(False).to(self.device)
        template = getattr(cast(object, self.processor), "chat_template", None)
        self.kind: Kind = "task" if kind == "florence2" else "chat" if template else "plain"

    @torch.inference_mode()
    def caption(self, name: str, picture: Image.Image, wording: Wording) -> str:
        """What the model says."""
        inputs = self._inputs(picture, wording).to(self.device, self.model.dtype)
        try:
            ids = self.model.generate(
                **inputs,
                max_new_tokens=MOST_TOKENS,
                do_sample=False,
                stopping_criteria=[self._going_on],
            )
        except (ValueError, IndexError) as error:
            raise ImageProblem(f"{self.title} cannot read it ({error}).") from None
        if self.kind == "chat":
            ids = ids[:, inputs["input_ids"].shape[1] :]
        return str(self.processor.batch_decode(ids, skip_special_tokens=True)[0])

    def settle(self, captions: dict[str, str], wording: Wording) -> dict[str, str]:
        """Each stays as it is; the model's memory is given back."""
        self.model = cast(Any, None)
        gc.collect()
        return captions

    def _inputs(self, picture: Image.Image, wording: Wording) -> Any:
        if self.kind == "plain":
            return self.processor(images=picture, return_tensors="pt")
        if self.kind == "task":
            return self.processor(text=TASK, images=picture, return_tensors="pt")
        content = [
            {"type": "image", "image": picture},
            {"type": "text", "text": wording.instruction},
        ]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _going_on(self, ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Whether each row is at its end: none is."""
        self.check()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


def weights_of(folder: Path) -> int:
    """Bytes of a model's weights as they lie on the disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
