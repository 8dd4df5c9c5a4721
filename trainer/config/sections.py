"""The sections of the configuration. `trainer.config.section.field` says what stands where."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, field_validator

from trainer.config.adapting import PAIRS
from trainer.config.optimizers import AVERAGED_ELSEWHERE
from trainer.config.preserving import PRESERVED
from trainer.config.section import FilePath, PositiveInt, Probability, Section, Several, field

aside = partial(field, resume=True, private=True)
"""A field that changes nothing about the adapter: what is drawn, measured or saved on the way."""


class BaseModelConfig(Section, title="Base model"):
    """Which model learns."""

    name: str = field(
        "tiny-emoji", title="Base model", min_length=1, flag="--base NAME", resume=True,
        place=True, memory=True,
    )  # fmt: skip
    """Base model: a built-in name, a diffusers folder, a single .safetensors file, or a hub id such
    as stable-diffusion-v1-5/stable-diffusion-v1-5."""
    prediction: Literal["auto", "epsilon", "v_prediction", "v_prediction_zero_snr"] = field(
        "auto", title="Prediction type"
    )
    """What the UNet predicts, and whether its noise schedule ends in pure noise. auto reads it from
    the model. Set it where auto is wrong, so that previews before the first step are noise:
    v_prediction_zero_snr for merges of SDXL v-prediction models (such as NoobAI's) that lost their
    marks; v_prediction or epsilon for an SD 2 file that was taken for the other. epsilon also takes
    the usual noise schedule."""
    clip_skip: int = field(1, title="Clip skip", ge=1, le=12, before=1)
    """SD 1 only: which layer of the text encoder is read, counted from the last one. 2 for anime
    models that were trained that way; then set the same in the tool that you draw with. 1 for all
    others. Training, previews and measuring all use it."""
    vae: str = field("", title="Other VAE", max_length=4000, resume=True, private=True, place=True)
    """File (.safetensors) or folder of a VAE to use instead of the base model's own, or for a file
    that has none. It must be one for the same family: SD 1 and 2 share theirs, SDXL has another.
    Empty: the base model's own."""


def without_article(words: str) -> str:
    """ "a cat" as "cat": prompts give a class word an article of their own."""
    return re.sub(r"(?i)^(?:an?|the) +(?=\S)", "", words)


ClassWord = Annotated[str, AfterValidator(without_article)]


class CaptionsConfig(Section, title="Words and captions"):
    """What is said of the pictures in training."""

    trigger: str = field("", title="Trigger word", max_length=60, flag="--trigger WORD")
    """Trigger word: the rare word that will stand for what the pictures show. It is put at the
    front of every caption that lacks it."""
    class_word: ClassWord = field("", title="Class word", max_length=60, flag="--class-word WORD")
    """Class word: the common word for the kind of thing, such as dog, person or painting. The right
    one matters a great deal for likeness."""
    prefix: str = field("", title="Before every caption", max_length=200)
    """Text put before every caption. A trigger word that has to be added still comes ahead of it;
    write the trigger word into the prefix to have it elsewhere."""
    suffix: str = field("", title="After every caption", max_length=200)
    """Text put after every caption."""
    dropout: Probability = field(0.05, title="Caption dropout")
    """Share of the time that a caption is reduced to trigger word and class word, so that these two
    stand for the subject. 0 to 1."""
    shuffle_tags: bool = field(False)
    """Shuffle comma-separated tags, differently every time. For tag captions only."""
    keep_tags: int = field(
        1, title="Leading tags that always stay", ge=0, le=75,
        needs={"captions.shuffle_tags or captions.tag_dropout": True},
    )  # fmt: skip
    """How many leading tags stay in place when tags are shuffled or left out. The trigger word
    always stays."""
    tag_dropout: Probability = field(0.0, title="Dropout of single tags")
    """Share of the time that each comma-separated tag is left out of a caption, so that each is
    learned for itself and not only together with the others. The leading captions.keep_tags,
    captions.protected_tags and those with the trigger word or class word stay. For tag captions
    only. 0 to 1."""
    protected_tags: Several[str] = field(
        (), title="Tags never left out, one a line", needs={"captions.tag_dropout": True}
    )
    """Tags that captions.tag_dropout leaves where they are, such as the name of a style or an
    outfit."""
    max_tokens: int = field(
        225, title="Longest caption, in tokens", ge=75, le=750, multiple_of=75, memory=True,
        before=75,
    )  # fmt: skip
    """How much of a caption is read, in chunks of 75 tokens (some 50 words), as drawing tools read
    long prompts. What is beyond is cut off. Shorter captions train alike with every value."""
    wildcards: bool = field(False, title="Choices such as {red|blue}")
    """Of each {red|blue} in a caption take one option, another every time. Off: braces are trained
    as they stand."""


class ConceptConfig(Section):
    """One of several subjects that one adapter learns, each under its own trigger word."""

    path: FilePath = field(Path(), resume=True, private=True, place=True)
    """Image set of this concept, as images.path. Never written to."""
    trigger: str = field(min_length=1, max_length=60)
    """Trigger word of this concept. Different from the others', and none contained in another."""
    class_word: ClassWord = field("", max_length=60)
    """Class word of this concept, as captions.class_word."""
    repeats: PositiveInt = field(1)
    """Share of the concept in training: at 2 it comes up twice as often as one with 1, however many
    pictures each has."""
    loss_weight: float = field(1.0, gt=0.0, le=100.0)
    """How much an error on this concept's pictures counts, compared with the others'."""


CHECKPOINTING_COST = 1.32
"""Time of a step with gradient checkpointing beside one without; measured on a CPU."""


class TrainingSection(Section, title="Length, batches and precision"):
    """How many steps, of how many pictures, and how exactly they are computed."""

    steps: int = field(400, ge=1, le=1_000_000, flag="--steps N", resume=True)
    """Optimizer steps in all. The run says how often that shows each picture."""
    batch_size: int = field(4, ge=1, le=512, flag="--batch-size B", memory=True)
    """Images in a step, over all processes together."""
    accumulation: int = field(1, title="Batches per step", ge=1, le=512, memory=True)
    """Batches added up before the optimizer moves: the effect of a larger batch without its
    memory."""
    seed: int = field(0, ge=0, le=2**31 - 1, flag="--seed S")
    """Seed of everything random: the order of pictures, noise, flips, the adapter's first
    weights. The same seed gives the same file."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field("auto", memory=True)
    """Arithmetic of the frozen model; the adapter stays fp32. auto: bf16 where the GPU has it, else
    fp16; fp32 on a CPU."""
    exact: Literal["auto", "on", "off"] = field("auto", title="Exact to the last bit", resume=True)
    """Whether a step gives the same bits every time, so that a resumed run is byte for byte one
    that never stopped. On an NVIDIA GPU a step then takes a fifth more time (measured on an
    H200 with SD 1.5); other kinds of GPU cannot, and a processor does so anyway. auto: where the
    GPU can. on: or the run does not start. off: a resumed run comes close."""
    compile: bool = field(
        False, title="Compile the UNet's blocks", resume=True,
        needs={"adapter.kind": list(PAIRS), "adapter.t_lora_min_rank": None},
    )  # fmt: skip
    """Have torch.compile put the operations of the UNet's transformer blocks together. The first
    step of each picture size may then take minutes, once on a machine; later steps may be faster,
    which was not measured: try it. The memory it takes is not predicted. A resumed run comes close,
    but not to the last bit. Where it fails the run goes on without, and says so."""
    cuda_graphs: bool = field(
        False, title="CUDA graphs of the compiled blocks", resume=True, before=False,
        needs={"training.compile": True},
    )  # fmt: skip
    """Have the card start all that a compiled block does at once (torch.compile's mode
    reduce-overhead), where a fast card waits for the processor. Takes memory for each picture size
    and needs an NVIDIA card; not measured: try it. Where it fails the run goes on without
    compiling, and says so."""
    stop_text_encoder_after: float = field(
        1.0, title="Share of the run that trains the text encoder", gt=0.0, le=1.0, before=1.0,
        needs={"adapter.text_encoder or adapter.new_tokens": True},
    )  # fmt: skip
    """After this share of the run the text encoder's adapter and new tokens stay as they are, and
    steps take less time. They learn the trigger word early, and later only fit the training
    pictures more closely. 1: they learn to the end."""
    gradient_checkpointing: bool = field(False, memory=True)
    """Recompute activations instead of keeping them: much less memory, about a third more time, the
    same result."""
    ema_decay: float = field(
        0.0, title="Running average (EMA decay)", ge=0.0, lt=1.0, memory=True,
        needs=AVERAGED_ELSEWHERE,
    )  # fmt: skip
    """Decay of a running average of the adapter, which then becomes the result. 0: none; 0.99 to
    0.999 smooths noisy small runs."""
    non_finite: Literal["stop", "halve"] = field(
        "stop", title="When numbers stop being finite", resume=True
    )
    """What to do when a loss or gradient is not a number, which never reaches the adapter. stop:
    the run ends, with what it has learned saved. halve: it goes back to an earlier checkpoint and
    on at half the learning rate; a second time ends it."""


class MemoryConfig(Section, title="Memory"):
    """How a run is made to fit the card. Of these fields base_weights and vae_tiling change the
    result, slightly."""

    mode: Literal["auto", "plain", "lean", "feed_forward"] = field(
        "auto", title="Memory mode", memory=True
    )
    """What frozen layers keep for the backward pass. plain: all that torch keeps; lean: only what
    is needed, at the same speed; feed_forward: these layers are computed again, about 4 % slower.
    auto: lean, and less when the card's memory runs out."""
    base_weights: Literal["auto", "full", "8bit", "4bit"] = field(
        "auto", title="Base model's weights", memory=True
    )
    """How the frozen weights of the UNet and the text encoders are stored. full: in
    training.precision. 8bit, 4bit: rounded, half and a quarter of the memory of 16 bits, for more
    time. The adapter then learns on the rounded base model: of a weight 8bit rounds away about
    0.7 %, 4bit 9 %. auto: full."""
    vae_tiling: Literal["auto", "on", "off"] = field("auto", title="VAE in tiles", memory=True)
    """Encode and decode pictures of more than 512 x 512 pixels in overlapping tiles: less memory
    while latents are cached and previews decoded, for slight differences. auto: for pictures of
    more than 1024 px, and where base_weights is below full."""
    pictures_at_once: int | None = field(
        None, title="Pictures in one pass", ge=1, le=512, memory=True
    )
    """Pictures in one forward pass. A larger batch takes several passes, one after another, with
    the same result. Empty: the whole batch at once."""
    preserve_apart: bool = field(
        False, title="Separate pass for preservation", memory=True, needs=PRESERVED
    )
    """Give the preserved prompts a forward pass of their own: somewhat slower, and a fifth less
    memory for activations."""
    offload: bool = field(True, title="Move idle parts to main memory", memory=True)
    """The VAE and text encoders that are not trained wait in main memory while they are not needed,
    and so does the UNet while previews are decoded."""

    @field_validator("base_weights", mode="before")
    @classmethod
    def _read_half(cls, value: object) -> object:
        """Files of earlier versions may say "half", which was for float32 training on a CPU."""
        return "full" if value == "half" else value


class ObjectiveConfig(Section, title="Loss"):
    """What training makes smaller."""

    weighting: Literal["debiased", "min_snr"] = field("debiased", title="Weight of each timestep")
    """What a timestep counts. debiased (arXiv 2310.08442): the noisier, the more; there the words
    decide what is drawn, so the trigger word is learned in fewer steps. It counts by what an error
    of the prediction does to the picture: 1 / sqrt(SNR) for epsilon, sqrt(1 - alpha_bar) for
    v-prediction. min_snr: see objective.min_snr_gamma; with v-prediction it hardly trains the
    noisiest timesteps."""
    min_snr_gamma: float = field(
        5.0, title="Min-SNR gamma", ge=0.0, le=100.0, needs={"objective.weighting": "min_snr"}
    )
    """Of Min-SNR weighting (arXiv 2303.09556), where objective.weighting is min_snr: caps the
    weight of nearly clean timesteps. 5 is the paper's value; 0: every timestep counts the same."""
    loss: Literal["mse", "huber", "smooth_l1"] = field(
        "mse", title="Shape of the loss", before="mse"
    )
    """How an error counts. mse: by its square. huber, smooth_l1 (arXiv 2403.16728): large errors by
    their size only, so that a few pictures that fit badly decide less; smooth_l1 also divides by
    objective.huber_c. What is preserved counts by its square in any case."""
    huber_c: float = field(
        0.1, title="Huber threshold", gt=0.0, le=10.0, before=0.1,
        needs={"objective.loss": ["huber", "smooth_l1"]},
    )  # fmt: skip
    """Errors much below it count by their square, those above by their size."""
    huber_schedule: Literal["snr", "exponential", "constant"] = field(
        "snr", title="Huber threshold over the noise", before="snr",
        needs={"objective.loss": ["huber", "smooth_l1"]},
    )  # fmt: skip
    """How objective.huber_c falls from 1 at the least noise to its value at the most. snr: by the
    signal-to-noise ratio; exponential: by the timestep; constant: it is the same everywhere."""
    noise_offset: float = field(0.0, ge=0.0, le=1.0)
    """Adds a constant shift to the noise of each channel, which lets the model learn very dark and
    very bright pictures. 0 to 0.1."""
    multires_noise: float = field(0.0, title="Multi-resolution noise", ge=0.0, lt=1.0)
    """Mixes in noise of half, a quarter and so on of the resolution, each times this factor more;
    the sum keeps its size. Like objective.noise_offset, for very dark and bright pictures and large
    shapes. 0: none; 0.1 to 0.3 are usual."""
    input_perturbation: float = field(0.0, title="Input perturbation", ge=0.0, le=1.0)
    """Adds so much further noise to what the UNet is shown but not to what it has to predict (arXiv
    2301.11706), which drawing step after step asks for. The paper found 0.1."""


class PreviewsConfig(Section, title="Previews"):
    """Pictures made while training goes on; they never change the result."""

    every: int = aside(100, title="Steps between previews", ge=0)
    """Steps between previews. 0: only at the end."""
    prompts: Several[str] = aside((), title="Preview prompts, one a line")
    """Prompts to draw; {trigger} and {class} are replaced. Other tools' options in a prompt, such
    as --n or --w, are drawn as words. Empty: one with the trigger word, the same one without it,
    and a scene that no caption names."""
    negative: str = aside("", title="Negative prompt of previews")
    """Negative prompt of all previews."""
    count: int = aside(2, title="Pictures for each prompt", ge=1, le=16)
    """Pictures for each prompt, seeds counting up."""
    seed: int = aside(1, title="Seed of previews", ge=0, le=2**31 - 1)
    """Seed of the first preview picture."""
    inference_steps: int = aside(25, title="Inference steps of previews", ge=1, le=200)
    """Denoising steps of a preview."""
    guidance: float = aside(5.0, title="Guidance of previews", ge=0.0, le=50.0)
    """Guidance scale of a preview."""


class CheckpointsConfig(Section, title="Checkpoints"):
    """Exact training state, to go on from."""

    every: int = aside(100, title="Steps between checkpoints", ge=0)
    """Steps between checkpoints, from which a run goes on. Adapter files to use come with
    evaluation.every. 0: only when stopped or finished."""
    keep: PositiveInt = aside(2, title="Checkpoints kept")
    """How many of the newest checkpoints stay."""


class EvaluationConfig(Section, title="Measuring the adapter"):
    """What is measured. Nothing here changes the result but the share that is kept out."""

    enabled: bool = aside(True, title="Measure effect, leak and collateral")
    """Measure effect, leak, collateral and validation loss while training and at its end. Off:
    nothing is measured."""
    every: int = aside(
        100, title="Steps between measurements", ge=0, needs={"evaluation.enabled": True}
    )
    """Steps between measurements. Each also keeps its adapter as a file in the run's adapters/
    folder. 0: only at the end."""
    validation: float = field(
        0.125, title="Share of pictures kept out for validation", ge=0.0, le=0.5
    )
    """Share of the pictures that is kept out of training, to see whether the adapter learns the
    subject or learns the pictures by heart; at most 8. A set of fewer than 8 pictures is trained on
    whole. 0: none."""
    early_stop: int = aside(
        0, title="Stop early after so many measurements", ge=0, le=1000,
        needs={"evaluation.enabled": True, "evaluation.every": True},
    )  # fmt: skip
    """End training after so many measurements in a row without improvement. 0: never."""
    board: int = aside(
        1, title="Pictures in a cell of the board", ge=0, le=8, needs={"evaluation.enabled": True}
    )
    """Pictures in each cell of the board that is drawn at the end: trigger word, class word, a
    thing like it and an unrelated one, at several strengths. 0: no board."""
    scorers: FilePath | None = field(
        None, title="Folder of scoring models", resume=True, private=True, place=True,
        needs={"evaluation.enabled": True},
    )  # fmt: skip
    """Folder of CLIP or DINO models in transformers' layout, for scores of likeness beside the
    built-in ones. Nothing is ever downloaded. Empty: none."""


class OutputConfig(Section, title="Adapter file"):
    """What the file is called, and what it says of itself."""

    name: str = field("", title="Title", max_length=100, resume=True)
    """Title of the adapter in its metadata, and name of the run's folder where none is given. The
    file itself is always called adapter.safetensors. Empty: trigger word and class word."""
    precision: Literal["fp32", "fp16", "bf16"] = field(
        "fp16", title="Number format of the file", resume=True
    )
    """Number format of the file: fp16 halves it at no visible cost."""
    dora_rank: int | None = field(
        None, title="Rank of a DoRA as a plain adapter", ge=1, le=4096, resume=True,
        needs={"adapter.kind": "dora"},
    )  # fmt: skip
    """Rank of the plain adapter that dora is written as; without meaning for other kinds. Empty:
    four times the rank. More comes nearer to what was trained."""
    author: str = field("", max_length=200, resume=True)
    """Author named in the file's metadata."""
    license: str = field("", max_length=200, resume=True)
    """Licence named in the file's metadata."""
    description: str = field("", max_length=2000, resume=True)
    """Description in the metadata."""


class TrackingConfig(Section, title="Reporting to other programs"):
    """What a run tells other programs. Nothing here changes the result."""

    tracker: Literal["none", "tensorboard", "wandb"] = aside("none", title="Send curves to")
    """Another program that shows the curves, besides the page and report.html. tensorboard: files
    in the run's folder tensorboard. wandb: Weights & Biases, where you are logged in. Each has to
    be installed beside Rarebit. none: neither."""
    project: str = aside(
        "rarebit", title="Project of Weights & Biases", max_length=100,
        needs={"tracking.tracker": "wandb"},
    )  # fmt: skip
    """Name of the project that the run appears in there. Empty: rarebit."""
    webhook: str = aside("", title="Webhook", max_length=2000)
    """Address (https) that gets a message when a run finishes or fails: a topic of ntfy, such as
    https://ntfy.sh/my-topic, or a webhook of a Discord channel. It stands in the run's config.toml:
    whoever has it can write there. Empty: none."""
