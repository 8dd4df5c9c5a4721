"""Rules about image sets of other trainers, and about how long is trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config.moving.moved import Moving, SetFacts, Taken, files_named
from trainer.config.moving.theirs import AI_TOOLKIT, KOHYA, ONETRAINER, TheirSet, is_on, number

_SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant", "linear": "linear",
    "cosine": "cosine", "cosine_with_restarts": "cosine_with_restarts",
    "cosine_with_hard_restarts": "cosine_with_restarts", "polynomial": "polynomial",
}  # fmt: skip
_OTHERS = {
    (ONETRAINER, "cosine_with_restarts"): (
        "cosine", "There the rate rises again, too, as smoothly as it falls.",
    ),
    (ONETRAINER, "rex"): ("polynomial", "With a power of 0.2 it falls nearly as REX does."),
    (AI_TOOLKIT, "linear"): ("constant", "There the rate rises from a third to the whole."),
}  # fmt: skip
"""What a schedule of some trainer is here, where its name would tell otherwise."""
_SAVED = "A file for each is in the run's folder adapters, and each is measured."
_EVERY = {
    "save": "evaluation.every",
    "sample": "previews.every",
    "backup": "checkpoints.every",
}
_HOW_TO_COUNT = (
    "Training counts steps here. Set training.steps to pictures x repeats x epochs / (batch size x "
    "accumulation); the pictures could not be counted, so it has its default."
)


def sets(moving: Moving) -> None:
    """Folders of pictures: one image set, or several concepts."""
    for one in moving.theirs.sets:
        if one.role == "validation":
            reason = "Put these pictures into the image set, in a folder called validation."
            moving.lose("validation", one.path, reason)
    trained = [one for one in moving.theirs.sets if one.role == "train" and one.path]
    for one in trained:
        if (known := moving.known(one)) and (others := known.left_out):
            names = ", ".join(others[:3]) + f" and {len(others) - 3} more" * (len(others) > 3)
            reason = (
                f"All below {one.path} are trained here, {names} too. Move these elsewhere: the "
                "steps are counted without them."
            )
            moving.lose("pictures that are not trained there", len(others), reason)
    if len(trained) == 1:
        _single(moving, trained[0])
    elif trained:
        _several(moving, trained)


def _words(moving: Moving, one: TheirSet) -> tuple[str, str]:
    """Trigger and class word, from the settings or from the one folder ``N_trigger class``."""
    words = one.words
    if not words and moving.theirs.trainer == KOHYA and (known := moving.known(one)):
        named = [folder.partition("_")[2] for folder in known.folders if folder[:1].isdigit()]
        words = named[0] if len(named) == 1 else ""
    trigger, _, class_word = words.strip().partition(" ")
    return trigger, class_word.strip()


def _single(moving: Moving, one: TheirSet) -> None:
    note = "" if moving.known(one) else "There is no such image set on this machine yet."
    moving.take("image folder", one.path, "images.path", one.path, note)
    trigger, class_word = _words(moving, one)
    if trigger and not moving.values.get("captions.trigger"):
        note = "Here it is put at the front of every caption that lacks it."
        moving.take(
            "class tokens", f"{trigger} {class_word}".strip(), "captions.trigger", trigger, note
        )
        moving.values.setdefault("captions.class_word", class_word)
    if not moving.values.get("captions.trigger"):
        moving.lose(
            "trigger word", None, "The file has none, and training needs one: set captions.trigger."
        )


def _several(moving: Moving, sets: Sequence[TheirSet]) -> None:
    """Several folders: concepts, where each has words of its own."""
    named = files_named(one.path for one in sets)
    words = [_words(moving, one) for one in sets]
    triggers = [trigger.casefold() for trigger, _ in words]
    if not all(triggers) or len(set(triggers)) < len(triggers):
        reason = (
            "Here an image set is one folder. Put these into one folder, as N_name (N: the "
            "repeats), or give each a trigger word of its own (concepts)."
        )
        moving.lose("image folders", named, reason)
        return
    sizes = [
        one.samples or one.repeats * (known.pictures if (known := moving.known(one)) else 1)
        for one in sets
    ]
    shares = [max(1, round(size / min(sizes))) for size in sizes]
    moving.values["concepts"] = [
        {"path": one.path, "trigger": trigger, "class_word": class_word, "repeats": share}
        for one, (trigger, class_word), share in zip(sets, words, shares, strict=True)
    ]
    moving.drop("captions.trigger", "captions.class_word")
    note = "Each is a concept with its trigger word; repeats are shares of the whole here."
    moving.taken.append(Taken("image folders", named, "concepts", [w for w, _ in words], note))


def length(moving: Moving) -> None:
    """Steps and epochs, and what comes up every so many of them."""
    epochs = number(moving.fact("epochs"))
    accumulated, note = _accumulated(moving), ""
    if accumulated != 1:
        note = f"Steps are batches there, and each has {accumulated} here."
        moving.settle("accumulated", "training.accumulation", accumulated, note)
    # There class pictures are half of the batches, here they come besides.
    share = _share(moving)
    if moving.values.get("preservation.method") == "pictures":
        note = "Half as many, since class pictures come besides your own here."
    if (steps := int(number(moving.fact("steps")) or 0)) and not epochs:
        moving.settle("steps", "training.steps", max(1, steps // share), note)
    batches = _batches(moving)
    if epochs and batches:
        note = " ".join(filter(None, (f"An epoch is {batches:g} steps with these pictures.", note)))
        moving.settle("epochs", "training.steps", max(1, int(epochs * batches)), note)
        moving.facts["epochs"] = (*moving.facts["epochs"][:2], True)
    elif epochs:
        key, theirs, _ = moving.facts["epochs"]
        moving.lose(key, theirs, _HOW_TO_COUNT)
    for what, field in _EVERY.items():
        note = _SAVED * (what == "save")
        if (every := number(moving.fact(f"{what}_epochs"))) and batches:
            moving.settle(f"{what}_epochs", field, max(1, round(every * batches)), note)
        elif every:
            reason = f"{field} counts steps, and how many an epoch has is not known."
            moving.miss(f"{what}_epochs", reason)
        if every := number(moving.fact(f"{what}_steps")):
            moving.settle(f"{what}_steps", field, max(1, int(every) // share), note)
    if is_on(moving.fact("save_state")):
        every = moving.values.get("evaluation.every", 100)
        moving.settle("save_state", "checkpoints.every", every)
    if is_on(moving.fact("no_samples")):
        moving.settle("no_samples", "previews.every", 0, "Some are still drawn at the end.")


def _accumulated(moving: Moving) -> int:
    """Batches of a step here that are as many steps there; 1 where theirs are steps as here."""
    return int(number(moving.fact("accumulated")) or 1)


def _share(moving: Moving) -> int:
    """How many steps there are one here."""
    pictures = moving.values.get("preservation.method") == "pictures"
    return max(1, _accumulated(moving)) * (2 if pictures else 1)


def _batches(moving: Moving) -> float | None:
    """Steps of an epoch; None where a folder is not here.

    Where steps are batches there, what an epoch leaves goes into the next one's first step.
    """
    size, over = moving.values.get("training.batch_size", 1), max(1, _accumulated(moving))
    if over == 1:
        size *= moving.values.get("training.accumulation", 1)
    trained = [one for one in moving.theirs.sets if one.role == "train"]
    known = [moving.known(one) for one in trained]
    if not known or None in known:
        return None
    facts: list[SetFacts] = [one for one in known if one is not None]
    counted = zip(facts, trained, strict=True)
    total = round(sum(one.samples or own.repeated * one.repeats for own, one in counted))
    resolutions = len(moving.values.get("images.resolutions", ())) or 1
    return -(-total * resolutions // max(1, size)) / over


def schedule(moving: Moving) -> None:
    """Warm-up is a share of the run here."""
    given = str(moving.fact("schedule"))
    name = given.rpartition(".")[2].casefold()
    trainer, nearest = moving.theirs.trainer, "cosine" if name.startswith("cosine") else "constant"
    nearest = (nearest, "It is the nearest schedule here.")
    known = (_SCHEDULES[name], "") if name in _SCHEDULES else nearest
    ours, note = _OTHERS.get((trainer, name), known)
    moving.settle("schedule", "optimizer.schedule", ours, note)
    if ours == "cosine_with_restarts":
        cycles = int(number(moving.fact("cycles")) or 1)
        moving.settle("cycles", "optimizer.schedule_cycles", cycles)
    if ours == "polynomial":
        if name == "rex":
            moving.take("power", 0.2, "optimizer.schedule_power", 0.2, given=False)
        else:
            power = number(moving.fact("power")) or 1.0
            moving.settle("power", "optimizer.schedule_power", power)
    steps = moving.values.get("training.steps")
    warmup = number(moving.fact("warmup")) or 0.0
    if trainer == AI_TOOLKIT and name == "constant_with_warmup" and not warmup:
        moving.facts["warmup"] = ("num_warmup_steps", warmup := 1000.0, False)
    if warmup >= 1:
        warmup = max(1, warmup / _share(moving))  # as `length` divides the steps
    if name == "constant" and trainer in (KOHYA, AI_TOOLKIT):
        if warmup:
            moving.miss("warmup", "constant has no warm-up there, so there is none here.")
        moving.facts.pop("warmup", None)
        warmup = 0.0
    if warmup >= 1 and steps is None:
        key, theirs, _ = moving.facts["warmup"]
        moving.lose(key, theirs, f"Set optimizer.warmup to {warmup:g} / training.steps.")
        return
    share = warmup if 0 < warmup < 1 else warmup / (steps or 1)
    note = "" if 0 <= warmup < 1 else f"It is a share of the {steps:,} steps here."
    if "warmup" in moving.facts:
        moving.settle("warmup", "optimizer.warmup", round(min(1.0, share), 4), note)
    else:
        moving.take("warm-up", 0, "optimizer.warmup", 0.0, given=False)
