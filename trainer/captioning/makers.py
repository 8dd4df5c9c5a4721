"""What makes masks: the pictures alone, or a local model; and one mask for the page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from trainer import places
from trainer.captioning.masks import Maker, Prompt, Source, as_png, check_box, checked, mask_of
from trainer.captioning.memory import loading, memory_of
from trainer.data.colours import WHITE
from trainer.data.findings import ImageProblem
from trainer.data.gather import scan_again
from trainer.data.images import load_rgb
from trainer.data.sets import ImageEntry
from trainer.errors import UserError
from trainer.events import Progress, no_progress
from trainer.untyped import is_list


def without_model(source: Source, prompt: Prompt) -> Maker:
    """What makes masks from the pictures alone."""
    return lambda entry: mask_of(entry, source, prompt.box)


class MaskModel(Protocol):
    """A local model that makes masks."""

    def mask(self, picture: Image.Image, prompt: Prompt) -> Image.Image:
        """The mask of what the prompt means: mode L, of the picture's size."""
        ...


def by_model(
    path: Path, prompt: Prompt, say: Callable[[str], None], check: Callable[[], None] = lambda: None
) -> Maker:
    """What makes masks with a local model, which is loaded for the first picture.

    Args:
        say: is told what is loaded.
        check: is called before each picture; what it raises ends the work.
    """
    loaded: list[MaskModel] = []

    def make(entry: ImageEntry) -> Image.Image:
        picture = load_rgb(entry.read(), entry.background(WHITE))
        if not loaded:
            say(loading(path.name, memory_of(path, masks=True)))
            loaded.append(_load(path, check))
        return loaded[0].mask(picture, prompt)

    return make


def _load(path: Path, check: Callable[[], None]) -> MaskModel:
    if path.is_dir() and (path / "config.json").is_file():
        from trainer.captioning.segmenters import Segmenter

        return Segmenter(path, check)
    from trainer.captioning.onnx_models import BackgroundRemover

    file = path if path.is_file() else next(iter(sorted(path.glob("*.onnx"))), None)
    if file is None:
        raise UserError(
            f"{path} holds no model that makes masks.", "It has neither config.json nor ONNX file."
        )
    return BackgroundRemover(file, check)


def propose_mask(
    values: Mapping[str, object],
    progress: Progress = no_progress,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """A mask for one picture, for the page: ``{"png": base64}``; writes nothing.

    Args:
        values: ``folder``, ``picture``, ``source`` (of `Source`, or ``model NAME`` of
            `places.MASKERS`), ``text``, ``box``.
        check: is called before a model is used; what it raises ends the work.

    Raises:
        UserError: there is no such picture or model, or nothing is found.
    """
    kind, _, name = str(values["source"]).partition(" ")
    box = values.get("box")
    prompt = Prompt(str(values.get("text") or "")[:200], check_box(box) if is_list(box) else None)
    entries = scan_again(Path(str(values["folder"]))).entries
    entry = next((one for one in entries if one.name == values["picture"]), None)
    if entry is None:
        raise UserError("The picture is gone.", "Choose the image set again.")
    if kind == "model":
        check()
        if name not in places.masker_models():
            raise UserError(f"There is no model {name} in {places.MASKERS}.", "Put it there.")
        make = by_model(places.MASKERS / name, prompt, partial(progress, 0, 0), check)
    else:
        source: Source = kind if kind in ("alpha", "grabcut") else "background"
        make = without_model(source, prompt)
    try:
        made = make(entry)
        covers = checked(made)
    except ImageProblem as problem:
        raise UserError(problem.reason, problem.hint) from None
    return {"png": b64encode(as_png(made)).decode(), "covers": covers}
