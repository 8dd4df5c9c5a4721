"""Sections of the configuration: what a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trainer.config.section import PositiveInt, Probability, Section, field


class BaseModelConfig(Section, title="Base model"):
    """Which model is adapted."""

    name: str = field(
        "tiny-emoji",
        title="Base model",
        min_length=1,
        flag="--base NAME",
        resume=True,
        place=True,
        memory=True,
    )
    """Base model: a built-in name, a diffusers folder, a single .safetensors file, or a hub id such
    as stable-diffusion-v1-5/stable-diffusion-v1-5."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = field("auto", title="Prediction type")
    """What the UNet predicts. auto reads it from the model; set it only for a single-file SD 2
    checkpoint that was trained otherwise than its layout says."""


class ImagesConfig(Section, title="Pictures"):
    """The pictures and how they are fitted."""

    path: Path = field(
        Path(), title="Image set", flag="--images DIR", resume=True, private=True, place=True
    )
    """Image set: a folder of pictures (flat, nested, or kohya's N_name folders), or a folder with
    metadata.jsonl, metadata.csv or a parquet table. Never written to."""
    resolution: int | None = field(None, ge=32, le=4096, flag="--resolution PX", memory=True)
    """Side in pixels of a square of the area that pictures are fitted to; a multiple of 64 (of 32
    for the built-in model). Empty: the base model's own."""
    buckets: bool = field(True, title="Keep the pictures' shapes (buckets)", memory=True)
    """Fit each picture to the nearest of several aspect ratios of the same area. Off: everything is
    cut to a square."""
    upscale: bool = field(False, title="Enlarge small pictures")
    """Enlarge pictures that are smaller than their bucket. Off: they train in a smaller bucket,
    since enlarging teaches blur."""
    flip: bool = field(False, title="Mirror half of the time")
    """Show each picture mirrored half of the time. Not for faces, text or anything whose left and
    right differ."""
    background: str = field("#ffffff", title="Background colour", pattern=r"^#[0-9a-fA-F]{6}$")
    """Colour under transparent pixels, as #rrggbb."""
    masks: Literal["none", "alpha", "files"] = field("none")
    """What of a picture counts in the loss. none: all of it. alpha: what is not transparent. files:
    what is white in NAME.mask.png beside the picture, or in a folder masks next to it; a picture
    without a mask counts whole."""
    mask_outside: Probability = field(0.1)
    """How much the rest counts where a mask is used. 0 to 1; at 0 the adapter may draw anything
    there."""


class CaptionsConfig(Section, title="Words and captions"):
    """What the pictures are called."""

    trigger: str = field("", title="Trigger word", max_length=60, flag="--trigger WORD")
    """Trigger word: the rare word that will stand for what the pictures show. It is put at the
    front of every caption that lacks it."""
    class_word: str = field("", title="Class word", max_length=60, flag="--class-word WORD")
    """Class word: the common word for the kind of thing, such as dog, person or painting. The right
    one matters a great deal for likeness."""
    prefix: str = field("", title="Before every caption", max_length=200)
    """Text put before every caption."""
    suffix: str = field("", title="After every caption", max_length=200)
    """Text put after every caption."""
    dropout: Probability = field(0.05, title="Caption dropout")
    """Share of the time that a caption is reduced to trigger and class word, so that these two
    carry the subject. 0 to 1."""
    shuffle_tags: bool = field(False)
    """Shuffle comma-separated tags, differently every time. For tag captions only."""
    keep_tags: int = field(1, title="Leading tags that stay", ge=0, le=75)
    """How many leading tags stay in place when tags are shuffled. The trigger always stays."""


class ConceptConfig(Section):
    """One of several subjects that one adapter learns, each under its own trigger word."""

    path: Path = field(Path(), validate_default=False, resume=True, private=True, place=True)
    """Image set of this concept, as images.path. Never written to."""
    trigger: str = field(min_length=1, max_length=60)
    """Trigger word of this concept. Different from the others', and none contained in another."""
    class_word: str = field("", max_length=60)
    """Class word of this concept, as captions.class_word."""
    repeats: PositiveInt = field(1)
    """Share of the concept in training: at 2 it comes up twice as often as one with 1, however many
    pictures each has."""
