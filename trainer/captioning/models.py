"""Captions by local models in transformers' layout: BLIP, Florence-2, and chat models that see.

A model is what its ``config.json`` says; transformers' Auto classes build it. No code of a model is
run, and only weights as safetensors are read.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from trainer.captioning.sets import Captioner
from trainer.captioning.wording import Wording
from trainer.data.findings import ImageProblem
from trainer.errors import UserError
from trainer.memory.devices import choose_device
from trainer.models.configs import read_json
from trainer.text import first_line

Kind = Literal["chat", "task", "plain"]

TASK = "<MORE_DETAILED_CAPTION>"
"""What Florence-2 is asked (arXiv 2311.06242); it takes no instructions."""
MOST_TOKENS = 200


@contextmanager
def loading(folder: Path) -> Generator[None]:
    """Says of a model's folder, in one sentence, why it could not be loaded.

    Raises:
        UserError: it could not; too little memory is raised as it is.
    """
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{folder.name} cannot be loaded: {first_line(error)}",
            "Give the folder of a complete model with safetensors weights.",
        ) from None


class LocalCaptioner(Captioner):
    """A model in a folder.

    Args:
        check: is called at each token; what it raises ends the work.
    """

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        self.check = check
        self.title = folder.name
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
        with loading(folder):
            self.processor = _processor(folder, kind, safe)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=device.dtype, use_safetensors=True, **safe
            )
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


def _processor(folder: Path, kind: str, safe: dict[str, Any]) -> Any:
    """What prepares pictures and texts for a model.

    That of a model that sees videos as well wants torchvision for these, which is not needed here:
    it is put together without them.
    """
    whole: Any = AutoProcessor
    try:
        return whole.from_pretrained(folder, **safe)
    except ImportError:
        if kind not in PROCESSOR_MAPPING_NAMES:
            raise
    made: Any = getattr(transformers, cast(str, PROCESSOR_MAPPING_NAMES[kind]))

    def check(self: Any, name: str, argument: object) -> object:
        """The class that a part has to be of; no videos are none."""
        return (
            type(None)
            if argument is None
            else made.check_argument_for_proper_class(self, name, argument)
        )

    words: Any = cast(Any, AutoTokenizer).from_pretrained(folder, **safe)
    said = folder / "processor_config.json"
    given = read_json(said) if said.is_file() else {}
    more = {
        name: given[name]
        for name in inspect.signature(made.__init__).parameters
        if isinstance(given.get(name), int)
    }
    without_videos: Any = type(made.__name__, (made,), {"check_argument_for_proper_class": check})
    return without_videos(
        image_processor=AutoImageProcessor.from_pretrained(folder, **safe),
        tokenizer=words,
        video_processor=None,
        chat_template=words.chat_template,
        **more,
    )
