"""The verdict on an adapter that a person would give, and the next step.

From drawn pictures first (`trainer.evaluation.pictorial`): an adapter may predict the pictures of a
set well, noise by noise, and still draw no more of them than their colours. The meters say whether
it keeps to its trigger word. The bounds were found on adapters whose drawings were looked at, see
docs/notes/measuring.md.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from trainer.config.concepts import concepts_of, subject_of
from trainer.config.schema import TrainingConfig
from trainer.evaluation.pictorial import PictureScores
from trainer.evaluation.verdicts import Candidate, FindingCode
from trainer.events import Meters
from trainer.places import shown

VerdictCode = Literal[
    "works", "partly", "not_yet", "leaks", "overtrained", "dead", "wrong_subject", "unmeasured"
]
NextCode = Literal[
    "use", "uncouple", "train_longer", "preserve_more", "train_less", "check_words", "check_rate",
    "give_pictures",
]  # fmt: skip

WORKS = 0.735
"""Where what has changed in the drawings leads to the set so straight, a person recognises it."""
PARTLY = 0.65  # below it what is drawn is not the subject
MOVED = 0.5
"""Drawings that have gone so far, as a share of the way to the set, and elsewhere, are of something
else; those that have not are of nothing yet."""
OVERSHOT = 1.1  # farther than the set, and elsewhere: broken
FOREIGN, MOVED_SOME = 0.3, 0.3
"""Below this likeness of predictions, going so far elsewhere is enough."""
LIKE = 0.6  # from this likeness of predictions it has learned something, whatever is drawn
TAKEN, TAKEN_SOME = 0.3, 0.1
"""As far towards the set without the trigger word is a leak; the lower where the meters say so."""
LONGER: dict[VerdictCode, float] = {"not_yet": 2.0, "partly": 1.5}
"""How long to train in all, as a multiple of the steps so far."""
_WORST_FIRST: tuple[VerdictCode, ...] = (
    *("dead", "wrong_subject", "leaks", "overtrained", "not_yet", "partly", "unmeasured", "works"),
)
_SAYS: dict[VerdictCode, str] = {
    "works": "It works: what it draws with the trigger word is like the pictures, and the class "
    "word keeps its meaning.",
    "partly": "It works in part: what it draws with the trigger word is roughly like the pictures.",
    "not_yet": "Not yet: what it draws with the trigger word is not like the pictures.",
    "leaks": "It leaks: what it has learned comes without the trigger word too.",
    "overtrained": "It is overtrained: it was better before, or has learned the pictures by heart.",
    "dead": "It is dead: it changes nothing at all.",
    "wrong_subject": "It draws something else than these pictures.",
    "unmeasured": "Without the image set it can't be told whether it works.",
}


@dataclass(frozen=True)
class NextStep:
    """What to do now."""

    code: NextCode  # which, for programs
    says: str  # the same as a sentence
    # What it takes: ``checkpoint`` and ``strength`` to use, or fields of the configuration by
    # dotted name to train with.
    values: dict[str, object] = field(default_factory=dict[str, object])
    command: str = ""  # that does it, to be typed as it is; empty where none does


@dataclass(frozen=True)
class Verdict:
    """What an adapter is worth, in one word and one sentence."""

    code: VerdictCode
    says: str
    next_step: NextStep


def worst(codes: Sequence[VerdictCode]) -> VerdictCode:
    """Of several subjects' verdicts, the one that stands for the adapter."""
    return min(codes, key=_WORST_FIRST.index)


def verdict_code(
    meters: Meters,
    pictures: PictureScores | None,
    found: Collection[FindingCode],
    own: bool = False,
) -> VerdictCode:
    """The one word for one subject.

    Args:
        pictures: drawn with the adapter; None where none were drawn.
        found: codes of the findings on the same adapter (`trainer.evaluation.verdicts`).
        own: whether it is known to be trained on these pictures by this trigger word.
    """
    if "dead" in found:
        return "dead"
    if meters.likeness is None:
        return "leaks" if "leaks" in found else "unmeasured"
    if "harmful" in found:
        return "overtrained" if "moves" in found or own else "wrong_subject"
    if not pictures:
        return "leaks" if "leaks" in found else _how_far(WORKS, found)
    known = pictures.learned >= PARTLY
    taken = TAKEN_SOME if "leaks" in found and known else TAKEN
    if pictures.taken > taken and (known or meters.likeness >= LIKE):
        return "leaks"
    if not known and pictures.moved > OVERSHOT:
        return "overtrained"
    elsewhere = MOVED if meters.likeness >= FOREIGN else MOVED_SOME
    # Of a style, which has no class word, nothing tells another one from a beginning.
    is_foreign = meters.neighbour_drift is not None and not own
    if not known and is_foreign and "weak" not in found and pictures.moved > elsewhere:
        return "wrong_subject"
    return _how_far(pictures.learned, found)


def _how_far(learned: float, found: Collection[FindingCode]) -> VerdictCode:
    if "overtrained" in found:
        return "overtrained"
    if "weak" in found or learned < PARTLY:
        return "not_yet"
    return "works" if learned >= WORKS else "partly"


def refusal(code: VerdictCode) -> str:
    """Why nothing is recommended for use after this verdict; empty where something is."""
    return {
        "leaks": "at every strength it changes what the class word draws.",
        "wrong_subject": "it does not draw these pictures.",
        "not_yet": "its drawings are not like the pictures yet.",
    }.get(code, "")


def judge(
    code: VerdictCode,
    config: TrainingConfig,
    chosen: Candidate | None,
    last: Candidate,
    place: Path = Path(),
    swallowed: Sequence[str] = (),
) -> Verdict:
    """The verdict in words, with the next step.

    Args:
        config: that the adapter was trained with.
        chosen: which checkpoint and strength are recommended.
        last: the result at full strength.
        place: the run's folder, or the adapter file.
        swallowed: words of the captions that the trigger word draws unasked.
    """
    step = _next_step(code, config, chosen, last)
    if swallowed and code in ("works", "partly"):
        words = ", ".join(f"“{text}”" for text in swallowed)
        step = NextStep("uncouple", f"Mask {words}, or add pictures without, and train again.")
    command = _command(step, config, place)
    typed = shlex.join(["python", "launch.py", *command]) if command else ""
    return Verdict(code, _SAYS[code], replace(step, command=typed))


def _command(step: NextStep, config: TrainingConfig, place: Path) -> list[str]:
    """The arguments that take a step; none where there is no such command."""
    is_run = place.is_dir()
    if step.code == "use":
        file = place / str(step.values["checkpoint"]) if is_run else place
        prompt = ", ".join(subject_of(concept) for concept in concepts_of(config))
        return [
            *("generate", "--base", config.base.name, "--prompt", prompt, "--out", "pictures"),
            *("--adapter", f"{shown(file)}:{step.values['strength']:g}"),
        ]
    if not is_run or not step.values:
        return []
    if step.code == "train_longer":
        on = ["--set", "evaluation.early_stop=0"] if config.evaluation.early_stop else []
        return ["resume", shown(place), "--steps", str(step.values["training.steps"]), *on]
    values = [f"{name}={value}" for name, value in step.values.items()]
    overrides = [part for value in values for part in ("--set", value)]
    return ["train", "--config", shown(place / "config.toml"), *overrides]


def _next_step(
    code: VerdictCode, config: TrainingConfig, chosen: Candidate | None, last: Candidate
) -> NextStep:
    held = config.preservation
    values: dict[str, object]
    if chosen and (code == "works" or (code == "overtrained" and chosen.step != last.step)):
        values = {"checkpoint": chosen.file, "strength": chosen.strength}
        return NextStep("use", f"Use {chosen.file} at strength {chosen.strength:g}.", values)
    if code in LONGER and last.step:
        steps = math.ceil(LONGER[code] * last.step / 100) * 100
        return NextStep("train_longer", f"Train on, to {steps} steps.", {"training.steps": steps})
    if code == "leaks" and (config.captions.class_word or config.concepts):
        if held.method != "prediction":
            values = {"preservation.method": "prediction"}
            says = "Train again with preservation.method = prediction."
        else:
            values = {"preservation.every": 1, "preservation.weight": 2 * held.weight}
            says = f"Train again, preserving at every step with weight {2 * held.weight:g}."
        return NextStep("preserve_more", says, values)
    if code == "overtrained":
        steps = max(1, (last.step or config.training.steps) // 2)
        says = f"Train again for {steps} steps, or on more pictures."
        return NextStep("train_less", says, {"training.steps": steps})
    return NextStep(*_OTHERWISE.get(code, _CHECK_WORDS))


_CHECK_WORDS: tuple[NextCode, str] = (
    "check_words",
    "Check that these pictures and this trigger word are the adapter's own.",
)
_OTHERWISE: dict[VerdictCode, tuple[NextCode, str]] = {
    **dict.fromkeys(LONGER, ("train_longer", "Train it longer.")),
    "leaks": ("check_words", "Train again with the class word, so that it keeps its meaning."),
    "dead": ("check_rate", "Train again at a higher learning rate: one of nearly 0 does this."),
    "unmeasured": ("give_pictures", "Give the image set with --images."),
}
"""What to do where nothing of this adapter or its settings decides it."""
