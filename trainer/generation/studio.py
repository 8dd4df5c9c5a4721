"""Generation with a base model that stays loaded, and adapters that are switched on it.

The command line makes one `Studio` and throws it away; the service worker of the page keeps it, so
that the second picture needs no loading.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field, ValidationError

from trainer.config.file import read_config
from trainer.config.mistakes import shown_value
from trainer.config.schema import BaseModelConfig, Section
from trainer.config.section import FilePath, Several
from trainer.errors import UserError
from trainer.events import Progress, no_progress
from trainer.generation.sampling import BATCH, Drawing, Painter, save_picture
from trainer.generation.stack import AdapterStack, AdapterUse
from trainer.memory.devices import Device, choose_device, empty_cache
from trainer.models.base import BaseModel
from trainer.models.identify import identify
from trainer.models.load import load_base
from trainer.models.noise import Prediction
from trainer.models.safetensors_header import read_header
from trainer.text import numbered

LIMIT = 1000


class GenerateRequest(Section):
    """What to draw. Sizes are in pixels; without them it is the base model's own."""

    prompt: str = Field(max_length=5000)
    negative: str = Field(default="", max_length=5000)
    adapters: Several[AdapterUse] = ()
    base: str = Field(default="tiny-emoji", min_length=1)
    prediction: Prediction = "auto"
    vae: str = Field(default="", max_length=4000)
    clip_skip: int | None = Field(default=None, ge=1, le=12)
    count: int = Field(default=4, ge=1, le=LIMIT)
    seed: int = Field(default=1, ge=0, le=2**31 - 1)
    inference_steps: int = Field(default=25, ge=1, le=LIMIT)
    guidance: float = Field(default=5.0, ge=0, le=100, allow_inf_nan=False)
    width: int | None = Field(default=None, ge=16, le=4096)
    height: int | None = Field(default=None, ge=16, le=4096)
    out: FilePath

    @classmethod
    def of(cls, values: object) -> GenerateRequest:
        """From plain values.

        Raises:
            UserError: all that is wrong with them, at once.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = [
                f"{'.'.join(map(str, problem['loc']))} {shown_value(problem['input'])}: "
                f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
                for problem in error.errors()
            ]
            raise UserError("; ".join(wrong) + ".") from None


class Studio:
    """A base model that stays loaded, and the adapters that the last request named on it."""

    def __init__(self) -> None:
        self._device: Device | None = None
        self._chosen = BaseModelConfig()
        self._loaded: tuple[BaseModel, AdapterStack, Painter] | None = None

    @property
    def loaded(self) -> bool:
        """Whether a base model takes memory."""
        return self._loaded is not None

    def forget(self) -> None:
        """Give the memory back."""
        if self._loaded is not None:
            self._loaded = None
            gc.collect()  # the modules of a model refer to each other
            empty_cache()

    def generate(
        self,
        request: GenerateRequest,
        progress: Progress = no_progress,
        saved: Callable[[Path], None] = lambda _: None,
    ) -> list[Path]:
        """Draw the pictures, seeds counting up, into PNG files named by seed.

        Args:
            progress: gets (denoising steps done, of how many, what is being drawn); what it
                raises ends the drawing between two steps.
            saved: gets each file as soon as it is written.

        Raises:
            UserError: the base or an adapter can't be read, they don't belong together, the size
                does not suit the base, or the GPU's memory is not enough.
        """
        total = request.count * request.inference_steps
        base, stack, painter = self._load(
            _base_of(request), lambda: progress(0, total, "Loading the model")
        )
        drawings = _drawings(base, request)
        if request.out.exists() and not request.out.is_dir():
            raise UserError(f"{request.out} is a file.", "Give the folder for the pictures.")
        stack.set(request.adapters)
        request.out.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        for start in range(0, request.count, BATCH):
            part = drawings[start : start + BATCH]

            def on_step(step: int, start: int = start, size: int = len(part)) -> None:
                done = start * request.inference_steps + step * size
                progress(done, total, f"Drawing {start + size} of {request.count}")

            for drawing, picture in zip(part, painter.draw(part, on_step), strict=True):
                path = free_name(request.out, f"{drawing.seed:06d}")
                save_picture(picture, path, drawing, self._chosen, request.adapters)
                files.append(path)
                saved(path)
        return files

    def _load(
        self, chosen: BaseModelConfig, say: Callable[[], None]
    ) -> tuple[BaseModel, AdapterStack, Painter]:
        if self._loaded is None or self._chosen != chosen:
            self.forget()  # two at once may not fit
            say()
            device = self._device = self._device or choose_device("auto")
            base = load_base(**chosen.model_dump(), dtype=device.dtype)
            self._chosen = chosen
            device.put(base.unet, *base.text_encoders)
            self._loaded = base, AdapterStack(base), Painter(base, device)
        return self._loaded


def _base_of(request: GenerateRequest) -> BaseModelConfig:
    """The base model as asked for, and in what is not asked as its adapters were trained.

    Of several adapters the first one counts that acts and tells.
    """
    files = [use.file for use in request.adapters if any(use.by_part)]
    runs = [run for file in files if (run := _base_of_run(file, request.base))]
    first = runs[0] if runs else BaseModelConfig()
    prediction = first.prediction if request.prediction == "auto" else request.prediction
    trained = first.clip_skip if runs else _clip_skip_of(files, request.base)
    skip = request.clip_skip or trained
    return BaseModelConfig(
        name=request.base, prediction=prediction, vae=request.vae or first.vae, clip_skip=skip
    )


def _base_of_run(file: Path, name: str) -> BaseModelConfig | None:
    """What the run that left an adapter set for its base model, if that is the one named."""
    for folder in file.resolve().parents[:2]:  # of a run's result, or of an earlier step
        with suppress(UserError):
            base = read_config(folder / "config.toml", of_run=True).base
            if base.name == name or Path(base.name).resolve() == Path(name).resolve():
                return base
    return None


def _clip_skip_of(files: Sequence[Path], base: str) -> int:
    """What the metadata of adapter files say of SD 1's text encoder, as sd-scripts writes it."""
    for file in filter(Path.is_file, files):
        skip = read_header(file).metadata.get("ss_clip_skip", "")
        if skip in map(str, range(2, 13)) and identify(base, whole=False).family.name == "sd1":
            return int(skip)
    return 1


def free_name(folder: Path, stem: str) -> Path:
    """A PNG path in the folder that no file has yet: what lies there is never overwritten."""
    return next(p for name in numbered(stem) if not (p := folder / f"{name}.png").exists())


def _drawings(base: BaseModel, request: GenerateRequest) -> list[Drawing]:
    """One for each seed, of a size that the UNet can halve."""
    step = base.resolution_step
    width = request.width or base.default_resolution
    height = request.height or base.default_resolution
    wrong = [side for side in (width, height) if side % step]
    if wrong:
        low = max(step, wrong[0] // step * step)
        raise UserError(
            f"{width} × {height} pixels do not suit {base.name}: {wrong[0]} is not a multiple of "
            f"{step}.",
            f"Use {low} or {low + step}.",
        )
    steps, guidance = request.inference_steps, request.guidance
    return [
        Drawing(request.prompt, request.negative, seed, width, height, steps, guidance)
        for seed in range(request.seed, request.seed + request.count)
    ]
