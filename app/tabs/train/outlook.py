"""What a training would do: on what, how long, how we know, and whether it fits the card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from app import client
from app.allowed import check_base, is_image_set
from app.forms import Shown, form_values, label_of, mistakes_by_field, read_form
from app.render import quiet, render
from app.tabs.images.imagesets import title_at
from app.tabs.images.setview import base_facts, last_seen
from trainer import places
from trainer.config.concepts import check_essentials, concepts_of, preserved_share, subject_of
from trainer.config.effects import idle_settings
from trainer.config.fields import all_fields, get_value, shown
from trainer.config.file import ConfigError, read_config
from trainer.config.presets import answered
from trainer.config.schema import TrainingConfig
from trainer.config.sections import CHECKPOINTING_COST
from trainer.data.folders import repeats_of
from trainer.data.gather import read_sets, split_pictures
from trainer.data.order import SampleOrder, validation_count
from trainer.data.pairing import read_folder
from trainer.errors import UserError
from trainer.events import Ended, StepDone
from trainer.runs.layout import RunFolder, list_runs
from trainer.runs.log import read_events
from trainer.text import counted, duration, how_often

_MOST_PICTURES = 100_000
_MOST_RUNS = 30  # the newest ones are asked for their pace
# Seconds a step of 4 pictures on two cores of a server without a GPU, previews included: the
# README's first run.
_BUILT_IN_PACE = 0.2
_BUILT_IN_AROUND = 60.0  # seconds: 10 before the first step, 50 to measure at the end
_BUILT_IN = "tiny-emoji"


Wrong = dict[str, str]
"""What is wrong, by the field's name; "" for what is no single field's."""


def look(shown: Sequence[Shown], complete: bool) -> tuple[TrainingConfig | None, Wrong]:
    """The configuration that the form shows, or what is wrong with it; `complete`: or missing."""
    try:
        config = read_form(shown)
        if complete:
            check_essentials(config, is_image_set)
    except ConfigError as error:
        return None, mistakes_by_field(error)
    return config, {}


def summary(config: TrainingConfig | None, wrong: Wrong) -> str:
    """What a training would do, or what is wrong with the form, as HTML."""
    if config is None:
        mistakes = [(label_of(name) if name else "", text) for name, text in wrong.items()]
        return render("train.html", "wrong", mistakes)
    found = (missing(config), lessons(config), arithmetic(config))
    idle = [(label_of(one.field), one.message) for one in idle_settings(config)]
    settings = [(label_of(name), shown(get_value(config, name))) for name in answered({})]
    return render("train.html", "summary", config, *found, time_needed(config), idle, settings)


def missing(config: TrainingConfig) -> str:
    """What to do next, as long as something is needed."""
    _, wrong = look(form_values(config), complete=True)
    if "images.path" in wrong and config.images.path == Path():
        return "Choose an image set to begin, or make one of your own pictures in Images."
    if "images.path" in wrong:
        return wrong["images.path"]
    if "captions.trigger" in wrong:
        return "Give a trigger word: the rare word that will call what the pictures show."
    return " ".join(wrong.values())


class Lesson(NamedTuple):
    """One concept of a training: what is learnt, and from how many pictures (0: not known) of which
    set."""

    subject: str
    pictures: int
    image_set: str


def lessons(config: TrainingConfig) -> list[Lesson]:
    found: list[Lesson] = []
    for concept in concepts_of(config):
        count = picture_count(concept.path)
        pictures = count[0] if count else 0
        found.append(Lesson(subject_of(concept) or "…", pictures, title_at(concept.path) or "…"))
    return found


def arithmetic(config: TrainingConfig) -> list[str]:
    """Steps, batches and how often each picture is seen, a sentence each."""
    training = config.training
    size = training.batch_size * training.accumulation
    split = _split(config)
    if split is None:
        return [f"{training.steps:,} steps of {counted(size, 'picture')}"]
    shown, count = sum(split.repeats), len(split.repeats)
    order = SampleOrder(split.sizes, split.repeats, training.batch_size, training.seed)
    passes = training.steps * training.accumulation / order.batches_per_epoch
    # The last batch of a bucket may be smaller.
    is_full = order.batches_per_epoch * training.batch_size == shown
    each = counted(size, "picture")
    steps = f"{training.steps:,} steps of {each}"
    if not is_full:
        steps = f"{training.steps:,} steps of up to {each}"
    seen = f"Each of {count:,} pictures is seen about {how_often(passes * shown / count)}"
    return [steps, seen, *_kept_out(split.kept_out, config.evaluation.enabled)]


def _kept_out(number: int, is_measured: bool) -> Iterator[str]:
    if number and is_measured:
        yield f"Kept out to measure by: {number}"
    elif number:
        yield f"Kept out, though nothing is measured: {number}"


class _Split(NamedTuple):
    """The pictures that train: size and repeats of each, and how many more are kept out."""

    sizes: list[tuple[int, int]]
    repeats: list[int]
    kept_out: int


def _split(config: TrainingConfig) -> _Split | None:
    """As training will split them, where Images has looked at the sets; else as if they had one
    shape. None where not even their number is known."""
    concepts = concepts_of(config)
    roots = [places.PROJECT / concept.path for concept in concepts]
    if all(map(last_seen, roots)):
        own = [one.model_copy(update={"path": at}) for one, at in zip(concepts, roots, strict=True)]
        try:
            changed = [root.stat().st_mtime_ns for root in roots]
            about = (config.images, config.evaluation.validation, config.training.seed)
            key = repr((own, about, config.base.name, changed))
            return _read_split(_Asked(config.model_copy(update={"concepts": tuple(own)}), key))
        except (OSError, UserError):
            return None
    counts = picture_count(concepts[0].path) if len(concepts) == 1 else None
    if counts is None:
        return None
    count, shown = counts
    kept_out = validation_count(count, config.evaluation.validation)
    trained = count - kept_out
    return _Split([(1, 1)] * trained, [round(shown / count)] * trained, kept_out)


@lru_cache(maxsize=32)
def _read_split(asked: _Asked) -> _Split:
    config, facts = asked.config, base_facts(asked.config.base.name)
    resolution = next(iter(config.images.sides), facts.resolution)
    filled = config.changed(images={"resolution": resolution})
    trained, kept_out = split_pictures(filled, read_sets(filled, facts.resolution_step))
    shown = [one for picture in trained for one in picture.in_each_size]
    return _Split(
        [one.crop.size for one in shown], [one.entry.repeats for one in shown], len(kept_out)
    )


def picture_count(path: Path) -> tuple[int, int] | None:
    """How many pictures an image set has: (alone, with their repeats); None if that takes long."""
    root = places.PROJECT / path
    try:
        if path == Path():
            return None
        seen = last_seen(root)
        unusable = frozenset(one.name for one in seen.pictures if not one.crop) if seen else ()
        return _count(root, root.stat().st_mtime_ns, frozenset(unusable))
    except (OSError, UserError):
        return None


@lru_cache(maxsize=64)
def _count(root: Path, changed: int, unusable: frozenset[str]) -> tuple[int, int] | None:
    contents = read_folder(root, _MOST_PICTURES)
    names = (picture.name for picture in contents.pictures if picture.name not in unusable)
    used = [repeats for name in names if (repeats := repeats_of(name))]
    return (len(used), sum(used)) if used and not contents.tables else None


# ------------------------------------------------------------------------------ the time


class Pace(NamedTuple):
    """How long a step takes.

    Attributes:
        seconds: wall time of a step, its share of previews and checkpoints included.
        around: wall time before the first step and after the last one.
        source: the run that it was measured in; "" if on another machine.
    """

    seconds: float
    around: float
    source: str


def time_needed(config: TrainingConfig) -> str:
    """How long it will take, and how we know."""
    pace = pace_of(config)
    if pace is None:
        return "No run with this base model yet, so the time is not known."
    seconds = pace.seconds * config.training.steps + pace.around
    takes = f"Takes about {duration(seconds, rough=True)} from start to end"
    if pace.source:
        return f"{takes}, going by {pace.source}."
    return f"{takes} on two cores of a server; on this machine nothing ran yet."


def pace_of(config: TrainingConfig) -> Pace | None:
    """The pace of the newest run like this one; None if nothing is known."""
    sides = config.images.sides
    for name, known in _alike(config):
        if not sides or max(sides) == max(known.config.images.sides, default=None):
            step = known.step * _work(config) / _work(known.config)
            return Pace(step, known.before + (measuring_time(config) or 0.0), name)
    if config.base.name == _BUILT_IN:
        seconds = _BUILT_IN_PACE * _work(config) / _work(TrainingConfig())
        return Pace(seconds, _BUILT_IN_AROUND, "")
    return None


def measuring_time(config: TrainingConfig) -> float | None:
    """Seconds that the newest run like this one took after its last step, None if not known."""
    found = (one.after for _, one in _alike(config) if one.config.evaluation.enabled)
    return next(filter(None, found), None) if config.evaluation.enabled else None


def _alike(config: TrainingConfig) -> Iterator[tuple[str, _Measured]]:
    """The newest runs with the same base model: their names, and how long they took."""
    for run in list_runs(places.RUNS)[:_MOST_RUNS]:
        try:
            measured = _measured(run.path, run.events.stat().st_mtime_ns)
        except OSError:
            continue
        if measured and measured.config.base.name == config.base.name:
            yield run.name, measured


class _Measured(NamedTuple):
    """A run's settings, and its seconds before the first step, of a step, and after the last one,
    None where it did not end."""

    config: TrainingConfig
    before: float
    step: float
    after: float | None


@lru_cache(maxsize=256)
def _measured(path: Path, changed: int) -> _Measured | None:
    """The last stretch of a run: between a stop and going on lie days. None where too little was
    done to tell."""
    run = RunFolder(path)
    try:
        config = read_config(run.config, of_run=True)
    except UserError:
        return None
    events = [event for event in read_events(run) if event.time]
    ends = [at for at, event in enumerate(events[:-1], 1) if isinstance(event, Ended)]
    stretch = events[max(ends, default=0) :]
    times = [event.time for event in stretch if isinstance(event, StepDone)]
    if len(times) < 10:
        return None
    last = stretch[-1]
    is_whole = isinstance(last, Ended) and last.reason == "finished"
    return _Measured(
        config,
        times[0] - stretch[0].time,
        (times[-1] - times[0]) / (len(times) - 1),
        last.time - times[-1] if is_whole else None,
    )


def _work(config: TrainingConfig) -> float:
    """What a step costs, in pictures of the largest resolution; preserved prompts count as such."""
    size = config.training.batch_size * config.training.accumulation
    preserved = preserved_share(config) / config.preservation.every
    again = CHECKPOINTING_COST**config.training.gradient_checkpointing
    sides = config.images.sides or (1,)
    area = sum((side / max(sides)) ** 2 for side in sides) / len(sides)
    return size * (area + preserved) * again


NO_MEMORY_LINE = quiet("Memory: not predicted yet.")
_FIT_SECONDS = 120.0  # seconds; a large model takes about 20


@dataclass(frozen=True)
class _Asked:
    """A configuration, equal to all others that need the same memory, which `key` says."""

    config: TrainingConfig = field(compare=False)
    key: str


def memory_line(*values: Shown) -> str:
    """The prediction for what the form shows, as HTML; the quiet line where there is none."""
    try:
        config = read_form(values)
        check_base(config.base.name)
        fields = (one.name for one in all_fields().values() if one.memory)
        folders = [concept.path for concept in concepts_of(config)]  # their captions count
        key = repr(([get_value(config, name) for name in fields], folders))
        return _predicted(_Asked(config, key))
    except UserError:
        return NO_MEMORY_LINE


@lru_cache(maxsize=64)
def _predicted(asked: _Asked) -> str:
    config = asked.config.model_dump(mode="json")
    return describe_memory(client.call("fit", {"config": config}, _FIT_SECONDS))


def describe_memory(value: dict[str, Any]) -> str:
    """A prediction in one line.

    Args:
        value: what ``fit --json`` prints.
    """
    plan = value["plan"] if value["plan_fits"] else {}
    changes = [f"{label_of(name)} {shown(setting)}" for name, setting in plan.items()]
    return render("train.html", "memory", value, changes)
