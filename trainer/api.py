"""The main jobs as functions, for programs; docs/python.md shows them at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.commands import evaluate as evaluating
from trainer.config.concepts import check_essentials, run_name
from trainer.config.file import read_config
from trainer.config.schema import TrainingConfig
from trainer.evaluation.assessment import Assessment
from trainer.generation.stack import AdapterUse
from trainer.generation.studio import GenerateRequest, Studio
from trainer.places import RUNS
from trainer.runs.layout import create_run, open_run
from trainer.training.runner import Listener, Result, run_training
from trainer.triggers.judgement import Judgement
from trainer.triggers.lab import open_lab


def train(
    config: TrainingConfig, runs: Path | str = RUNS, listener: Listener = lambda _: None
) -> Result:
    """Train an adapter into a new run folder.

    Args:
        config: what to train on and how; images and a trigger word are needed.
        runs: where the run folder goes, named by ``output.name`` or the trigger word.
        listener: is told every event of `trainer.events` as it happens.

    Raises:
        UserError: anything that the user can put right.
    """
    check_essentials(config)
    return run_training(config, create_run(Path(runs), run_name(config)), listener)


def resume(
    run: Path | str, *, accept_changes: bool = False, listener: Listener = lambda _: None
) -> Result:
    """Go on with a run exactly where it stopped.

    Args:
        run: its folder.
        accept_changes: go on although the image set has changed since.

    Raises:
        UserError: there is no run, or its images or settings have changed.
    """
    folder = open_run(Path(run))
    config = read_config(folder.config, of_run=True)
    return run_training(config, folder, listener, resume=True, accept_changes=accept_changes)


def generate(
    prompt: str,
    out: Path | str,
    *,
    base: str = "tiny-emoji",
    adapters: Sequence[tuple[Path | str, float]] = (),
    negative: str = "",
    count: int = 4,
    seed: int = 1,
    inference_steps: int = 25,
    guidance: float = 5.0,
) -> list[Path]:
    """Draw pictures, seeds counting up, into PNG files of a folder.

    Args:
        adapters: files with their strengths; 1 is as trained.

    Raises:
        UserError: a model or an adapter can't be read, or they do not belong together.
    """
    request = GenerateRequest(
        prompt=prompt,
        negative=negative,
        adapters=tuple(AdapterUse(Path(file), by) for file, by in adapters),
        base=base,
        count=count,
        seed=seed,
        inference_steps=inference_steps,
        guidance=guidance,
        out=Path(out),
    )
    return Studio().generate(request)


def judge_trigger(
    word: str, *, base: str = "tiny-emoji", class_word: str = "", captions: Sequence[str] = ()
) -> Judgement:
    """Whether a word makes a good trigger word for a base model.

    Args:
        captions: of the pictures; a word that they use already is none.

    Raises:
        UserError: the base model can't be read.
    """
    return open_lab(base).judge([word], class_word, captions)[0]


def evaluate(
    place: Path | str,
    *,
    base: str | None = None,
    trigger: str | None = None,
    class_word: str | None = None,
    images: Path | str | None = None,
) -> Assessment:
    """Measure a run or an adapter file: does the trigger word work, does it leak, what to use.

    Args:
        place: a run's folder, or any adapter file.
        base, trigger, class_word: instead of what the run or the file says.
        images: the image set, to measure likeness by; a run knows its own.

    Raises:
        UserError: there is nothing to measure, or no trigger word is known.
    """
    return evaluating.evaluate(
        Path(place),
        base=base,
        trigger=trigger,
        class_word=class_word,
        images=Path(images) if images else None,
    )
