"""The configuration of a training run.

Every field is declared once, with its meaning, unit, range and when to change it: the command
line's help, the page's tooltips and the docs come from here. Models are frozen and refuse unknown
keys. A field that is ``None`` takes the base model's recommendation (`trainer.models.families`);
`resolve` writes the real values in before a run starts, so that a run folder's ``config.toml`` is
complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0.0, le=100.0, allow_inf_nan=False)]


class Section(BaseModel):
    """A group of fields: frozen, unknown keys refused, defaults checked as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class BaseModelConfig(Section):
    """Which model is adapted."""

    name: str = Field(
        default="tiny-emoji",
        min_length=1,
        description="Base model: a built-in name, a diffusers folder, a single .safetensors file, "
        "or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5.",
    )
    prediction: Literal["auto", "epsilon", "v_prediction"] = Field(
        default="auto",
        description="What the UNet predicts. auto reads it from the model; set it only for a "
        "single-file SD 2 checkpoint that was trained otherwise than its layout says.",
    )


class ImagesConfig(Section):
    """The pictures and how they are fitted."""

    path: Path = Field(
        default=Path(),
        description="Image set: a folder of pictures (flat, nested, or kohya's N_name folders), "
        "or a folder with metadata.jsonl, metadata.csv or a parquet table. Never written to.",
    )
    resolution: int | None = Field(
        default=None,
        ge=32,
        le=4096,
        description="Side in pixels of a square of the area that pictures are fitted to; a "
        "multiple of 64 (of 32 for the built-in model). Empty: the base model's own.",
    )
    buckets: bool = Field(
        default=True,
        description="Fit each picture to the nearest of several aspect ratios of the same area. "
        "Off: everything is cut to a square.",
    )
    upscale: bool = Field(
        default=False,
        description="Enlarge pictures that are smaller than their bucket. Off: they train in a "
        "smaller bucket, since enlarging teaches blur.",
    )
    flip: bool = Field(
        default=False,
        description="Show each picture mirrored half of the time. Not for faces, text or "
        "anything whose left and right differ.",
    )
    background: str = Field(
        default="#ffffff",
        pattern=r"^#[0-9a-fA-F]{6}$",
        description="Colour under transparent pixels, as #rrggbb.",
    )
    masks: Literal["none", "alpha", "files"] = Field(
        default="none",
        description="What of a picture counts in the loss. none: all of it. alpha: what is not "
        "transparent. files: what is white in NAME.mask.png beside the picture, or in a folder "
        "masks next to it; a picture without a mask counts whole.",
    )
    mask_outside: Probability = Field(
        default=0.1,
        description="How much the rest counts where a mask is used. 0 to 1; at 0 the adapter may "
        "draw anything there.",
    )


class CaptionsConfig(Section):
    """What the pictures are called."""

    trigger: str = Field(
        default="",
        max_length=60,
        description="Trigger word: the rare word that will stand for what the pictures show. It "
        "is put at the front of every caption that lacks it.",
    )
    class_word: str = Field(
        default="",
        max_length=60,
        description="Class word: the common word for the kind of thing, such as dog, person or "
        "painting. The right one matters a great deal for likeness.",
    )
    prefix: str = Field(default="", max_length=200, description="Text put before every caption.")
    suffix: str = Field(default="", max_length=200, description="Text put after every caption.")
    dropout: Probability = Field(
        default=0.05,
        description="Share of the time that a caption is reduced to trigger and class word, so "
        "that these two carry the subject. 0 to 1.",
    )
    shuffle_tags: bool = Field(
        default=False,
        description="Shuffle comma-separated tags, differently every time. For tag captions only.",
    )
    keep_tags: int = Field(
        default=1,
        ge=0,
        le=75,
        description="How many leading tags stay in place when tags are shuffled. The trigger "
        "always stays.",
    )


class ConceptConfig(Section):
    """One of several subjects that one adapter learns, each under its own trigger word."""

    path: Path = Field(
        default=Path(),
        validate_default=False,  # strictly, only a text becomes a path
        description="Image set of this concept, as images.path. Never written to.",
    )
    trigger: str = Field(
        min_length=1,
        max_length=60,
        description="Trigger word of this concept. Different from the others', and none contained "
        "in another.",
    )
    class_word: str = Field(
        default="", max_length=60, description="Class word of this concept, as captions.class_word."
    )
    repeats: PositiveInt = Field(
        default=1,
        description="Share of the concept in training: at 2 it comes up twice as often as one "
        "with 1, however many pictures each has.",
    )


class AdapterConfig(Section):
    """The LoRA (arXiv 2106.09685): W x + (alpha / rank) B A x, on the attention layers or more."""

    kind: Literal["lora", "rslora", "dora"] = Field(
        default="lora",
        description="Kind of adapter. rslora divides alpha by the square root of the rank (arXiv "
        "2312.03732), so that high ranks learn as fast; every tool reads it. dora also trains "
        "the lengths of the weights (arXiv 2402.09353), takes more time and memory, and has no "
        "file that tools read alike: it is written as a plain adapter, by SVD, and the run says "
        "how much that differs.",
    )
    targets: Literal["attention", "feed-forward", "convolution"] = Field(
        default="attention",
        description="Layers to adapt. attention: its four projections. feed-forward: also the "
        "layers behind attention and the projections around it. convolution: also the UNet's "
        "residual blocks (LoCon); for styles and textures, with a file about three times as large.",
    )
    rank: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Rank of each low-rank pair. 4 to 16 for one subject, 32 and more for styles "
        "or several subjects; the file grows with it.",
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=4096,
        allow_inf_nan=False,
        description="Scale of the adapter: its output is multiplied by alpha / rank (rslora: alpha "
        "over the rank's square root). Empty: equal to the rank, so that changing the rank does "
        "not change the strength of a plain adapter.",
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0,
        description="Share of the adapter's inputs zeroed at random in training. 0 to 1.",
    )
    unet: bool = Field(default=True, description="Train the UNet's layers.")
    text_encoder: bool = Field(
        default=True,
        description="Train the text encoder's layers too: binds the trigger word better for "
        "subjects, needs somewhat more memory and time.",
    )

    @property
    def scale(self) -> tuple[int, float]:
        """The rank, and the alpha whose alpha / rank is what the output is multiplied by."""
        alpha = self.rank if self.alpha is None else self.alpha
        return self.rank, alpha * (self.rank**0.5 if self.kind == "rslora" else 1.0)


class OptimizerConfig(Section):
    """How parameters move."""

    name: Literal["adamw", "adamw8bit", "prodigy", "lion", "adafactor"] = Field(
        default="adamw",
        description="Optimizer. adamw8bit keeps its two moments in 8 bits; prodigy finds its own "
        "learning rate (set it to 1); lion wants a rate 3 to 10 times lower.",
    )
    learning_rate: Rate | None = Field(
        default=None,
        description="Learning rate of the UNet's adapter. Empty: what suits the base model "
        "(1e-4 for SD 1, SD 2 and SDXL).",
    )
    text_encoder_learning_rate: Rate | None = Field(
        default=None,
        description="Learning rate of the text encoder's adapter. Empty: what suits the base "
        "model (5e-5 for SD 1, SD 2 and SDXL).",
    )
    lora_plus_ratio: float = Field(
        default=1.0,
        ge=1.0,
        le=64.0,
        allow_inf_nan=False,
        description="LoRA+ (arXiv 2402.12354): learning rate of B over that of A. 1 is plain "
        "LoRA; the paper found 4 to 16 to converge faster.",
    )
    weight_decay: float = Field(
        default=0.01, ge=0.0, le=1.0, allow_inf_nan=False, description="Decoupled weight decay."
    )
    max_gradient_norm: float = Field(
        default=1.0,
        ge=0.0,
        le=1000.0,
        allow_inf_nan=False,
        description="Gradients longer than this are shortened to it. 0: never.",
    )
    schedule: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = Field(default="cosine", description="How the learning rate changes over the run.")
    warmup: Probability = Field(
        default=0.05, description="Share of the run over which the learning rate rises from 0."
    )


class TrainingSection(Section):
    """Length, size and precision."""

    steps: int = Field(
        default=400,
        ge=1,
        le=1_000_000,
        description="Optimizer steps in all. An epoch is one pass over "
        "the images with their repeats.",
    )
    batch_size: int = Field(
        default=4, ge=1, le=512, description="Images in a step, over all processes together."
    )
    accumulation: int = Field(
        default=1,
        ge=1,
        le=512,
        description="Batches added up before the optimizer moves: the effect of a larger batch "
        "without its memory.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of everything random: order, noise, flips, init.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Arithmetic of the frozen model; the adapter stays fp32. auto: bf16 where the "
        "GPU has it, else fp16; fp32 on a CPU.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations instead of keeping them: much less memory, about a "
        "third more time, the same result.",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Decay of a running average of the adapter, which then becomes the result. "
        "0: none; 0.99 to 0.999 smooths noisy small runs.",
    )
    non_finite: Literal["stop", "halve"] = Field(
        default="stop",
        description="What to do when a loss or gradient is not a number, which never reaches the "
        "adapter. stop: the run ends, with what it has learned saved. halve: it goes back to an "
        "earlier checkpoint and on at half the learning rate; a second time ends it.",
    )


class MemoryConfig(Section):
    """Fitting a run onto a card. base_weights and vae_tiling change the result, slightly."""

    mode: Literal["auto", "plain", "lean", "feed_forward"] = Field(
        default="auto",
        description="What frozen layers keep for the backward pass. plain: all that torch keeps; "
        "lean: only what is needed, at the same speed; feed_forward: these layers are computed "
        "again, about 4 % slower. auto: lean, and less when the card's memory runs out.",
    )
    base_weights: Literal["auto", "full", "8bit", "4bit"] = Field(
        default="auto",
        description="How the frozen weights of the UNet and the text encoders are kept. full: in "
        "training.precision. 8bit, 4bit: rounded, half and a quarter of the memory of 16 bits, for "
        "more time. The adapter then learns on the rounded base model: of a weight 8bit rounds "
        "away about 0.7 %, 4bit 9 %. auto: full.",
    )
    vae_tiling: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Encode and decode pictures of more than 512 x 512 pixels in overlapping "
        "tiles: less memory while latents are cached and previews decoded, for slight differences. "
        "auto: for pictures of more than 1024 px, and beside base_weights below full.",
    )
    pictures_at_once: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Pictures in one forward pass. A larger batch takes several passes, one after "
        "another, with the same result. Empty: the whole batch at once.",
    )
    preserve_apart: bool = Field(
        default=False,
        description="Give the preserved prompts a forward pass of their own: somewhat slower, and "
        "a fifth less memory for activations.",
    )
    offload: bool = Field(
        default=True,
        description="The VAE and text encoders that are not trained wait in main memory while "
        "they are not needed, and so does the UNet while previews are decoded.",
    )

    @field_validator("base_weights", mode="before")
    @classmethod
    def _read_half(cls, value: object) -> object:
        """Files of earlier versions may say "half", which was for float32 training on a CPU."""
        return "full" if value == "half" else value


class ObjectiveConfig(Section):
    """What is minimised."""

    weighting: Literal["debiased", "min_snr"] = Field(
        default="debiased",
        description="What a timestep counts. debiased (arXiv 2310.08442): the noisier, the more; "
        "there the words decide what is drawn, so the trigger word is learned in fewer steps. "
        "min_snr: see objective.min_snr_gamma.",
    )
    min_snr_gamma: float = Field(
        default=5.0,
        ge=0.0,
        le=100.0,
        allow_inf_nan=False,
        description="Of Min-SNR weighting (arXiv 2303.09556), where objective.weighting is "
        "min_snr: caps the weight of nearly clean timesteps. 5 is the paper's value; 0: every "
        "timestep counts the same.",
    )
    noise_offset: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="Adds a constant shift to the noise of each channel, which lets the model "
        "learn very dark and very bright pictures. 0 to 0.1.",
    )


class PreservationConfig(Section):
    """Keeping everything else as it was (DreamBooth, arXiv 2208.12242, section 3.3).

    On every k-th step a few more rows go through the model beside the pictures. What they are to
    come out as is either what the base model predicted for them (prediction), or pictures of the
    class (pictures). See docs/keeping-the-rest-still.md.
    """

    method: Literal["prediction", "pictures", "none"] = Field(
        default="prediction",
        description="prediction: the base model's own predictions for the class word, for things "
        "like it, for all kinds of others and for the empty prompt; no pictures are needed. "
        "pictures: DreamBooth's class pictures, drawn by the base model or taken from "
        "preservation.folder; they hold the class word only. none: nothing is held.",
    )
    weight: float = Field(
        default=4.0,
        ge=0.0,
        le=100.0,
        allow_inf_nan=False,
        description="Weight of the preservation loss (the lambda of DreamBooth, which has 1 there "
        "with as many class pictures as pictures in every step). 0: none, and the class word will "
        "come to mean the trained subject too.",
    )
    every: PositiveInt = Field(
        default=2, description="Preserve on every k-th step: 1 holds best and costs most time."
    )
    share: float = Field(
        default=0.25,
        gt=0.0,
        le=4.0,
        allow_inf_nan=False,
        description="On such a step, rows to preserve for each picture; at least one row. With "
        "several concepts as many for each of them (method prediction).",
    )
    pictures: int = Field(
        default=16,
        ge=1,
        le=2000,
        description="How many pictures the base model draws for it before training, once (they "
        "are kept in the cache). prediction: each of their denoising steps is remembered with "
        "what was predicted there. pictures: these are the class pictures.",
    )
    folder: str = Field(
        default="",
        max_length=4000,
        description="Class pictures of your own, for the method pictures: the folder of an image "
        "set. Never written to. Empty: the base model draws them.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of what the base model draws for it. Runs with the same seed, words and "
        "captions share them.",
    )
    prompts: tuple[str, ...] = Field(
        default=(),
        description="More prompts whose pictures should stay as they are. The class word, "
        "paraphrases of it, common other subjects and the empty prompt are always among them.",
    )


class PreviewsConfig(Section):
    """Pictures made while training goes on; they never change the result."""

    every: int = Field(default=100, ge=0, description="Steps between previews. 0: only at the end.")
    prompts: tuple[str, ...] = Field(
        default=(),
        description="Prompts to draw; {trigger} and {class} are replaced. Empty: one with the "
        "trigger, and the same one without it.",
    )
    negative: str = Field(default="", description="Negative prompt of all previews.")
    count: int = Field(
        default=2, ge=1, le=16, description="Pictures for each prompt, seeds counting up."
    )
    seed: int = Field(
        default=1, ge=0, le=2**31 - 1, description="Seed of the first preview picture."
    )
    inference_steps: int = Field(
        default=25, ge=1, le=200, description="Denoising steps of a preview."
    )
    guidance: float = Field(
        default=5.0,
        ge=0.0,
        le=50.0,
        allow_inf_nan=False,
        description="Guidance scale of a preview.",
    )


class CheckpointsConfig(Section):
    """Exact training state, to go on from."""

    every: int = Field(
        default=100,
        ge=0,
        description="Steps between checkpoints. 0: only when stopped or finished.",
    )
    keep: PositiveInt = Field(default=2, description="How many of the newest checkpoints stay.")


class EvaluationConfig(Section):
    """Measuring what the adapter does. Apart from `validation`, nothing here changes the result."""

    enabled: bool = Field(
        default=True,
        description="Measure effect, leak, collateral and validation loss while training and at "
        "its end. Off: nothing is measured.",
    )
    every: int = Field(
        default=100,
        ge=0,
        description="Steps between measurements. Each also keeps its adapter as a file in the "
        "run's adapters/ folder. 0: only at the end.",
    )
    validation: float = Field(
        default=0.125,
        ge=0.0,
        le=0.5,
        allow_inf_nan=False,
        description="Share of the pictures that is kept out of training, to see whether the "
        "adapter learns the subject or learns the pictures by heart; at most 8. A set of fewer "
        "than 8 pictures is trained on whole. 0: none.",
    )
    early_stop: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="End training after so many measurements in a row without improvement. "
        "0: never.",
    )
    board: int = Field(
        default=1,
        ge=0,
        le=8,
        description="Pictures in each cell of the board that is drawn at the end: trigger, class "
        "word, neighbour and unrelated thing at several strengths. 0: no board.",
    )
    scorers: Path | None = Field(
        default=None,
        description="Folder of CLIP or DINO models in transformers' layout, for scores of "
        "likeness beside the built-in ones. Nothing is ever downloaded. Empty: none.",
    )


class OutputConfig(Section):
    """The adapter file."""

    name: str = Field(
        default="",
        max_length=100,
        description="Title of the adapter in its metadata. Empty: trigger and class word.",
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp16", description="Number format of the file: fp16 halves it at no visible cost."
    )
    dora_rank: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Rank of the plain adapter that dora is written as; without meaning for other "
        "kinds. Empty: four times the rank. More comes nearer to what was trained.",
    )
    author: str = Field(
        default="", max_length=200, description="Author named in the file's metadata."
    )
    license: str = Field(
        default="", max_length=200, description="Licence named in the file's metadata."
    )
    description: str = Field(
        default="", max_length=2000, description="Description in the metadata."
    )


class TrainingConfig(Section):
    """Everything that a run is made from."""

    base: BaseModelConfig = BaseModelConfig()
    images: ImagesConfig = ImagesConfig()
    captions: CaptionsConfig = CaptionsConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingSection = TrainingSection()
    memory: MemoryConfig = MemoryConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    preservation: PreservationConfig = PreservationConfig()
    previews: PreviewsConfig = PreviewsConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: OutputConfig = OutputConfig()
    concepts: tuple[ConceptConfig, ...] = Field(
        default=(),
        max_length=32,
        description="Several concepts in one adapter, each a [[concepts]] table. Where there are "
        "any, images.path, captions.trigger and captions.class_word stay empty.",
    )

    @model_validator(mode="after")
    def _concepts_stand_alone(self) -> TrainingConfig:
        if not self.concepts:
            return self
        single = {
            "images.path": self.images.path != Path(),
            "captions.trigger": bool(self.captions.trigger),
            "captions.class_word": bool(self.captions.class_word),
        }
        if given := [name for name, is_given in single.items() if is_given]:
            raise ValueError(
                f"concepts and {' and '.join(given)} are both given: make the single image set one "
                "of the concepts, or leave the concepts out"
            )
        _refuse_alike([concept.trigger for concept in self.concepts])
        return self

    @model_validator(mode="after")
    def _something_trains(self) -> TrainingConfig:
        if not self.adapter.unet and not self.adapter.text_encoder:
            raise ValueError(
                "adapter.unet and adapter.text_encoder are both off, so nothing would train: "
                "switch one on"
            )
        return self


def _refuse_alike(triggers: Sequence[str]) -> None:
    """Raises ValueError where two trigger words are equal, or one is contained in another.

    The tokenizer reads lower case, and a word within a word shares its pieces.
    """
    for place, first in enumerate(triggers):
        for second in triggers[place + 1 :]:
            one, other = sorted((first.casefold().strip(), second.casefold().strip()), key=len)
            if one == other:
                raise ValueError(f"two concepts have the trigger word {first!r}: choose another")
            if one in other:
                raise ValueError(
                    f"the trigger words {first!r} and {second!r} contain each other, so one would "
                    "call both: choose another"
                )
