"""The tables and the board of the trigger study, from what its runs measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.shared import markdown, sheet, write_between_marks
from trainer.evaluation.verdicts import findings
from trainer.events import Meters
from trainer.places import PROJECT

PAGE = PROJECT / "docs" / "notes" / "preservation.md"
MEASURING = PROJECT / "docs" / "notes" / "measuring.md"
BOARD = PROJECT / "docs" / "images" / "keeping-the-rest-still.png"
NAMES = {
    "none": "nothing (plain training)",
    "classic": "class pictures (DreamBooth)",
    "prediction": "the base's predictions (default)",
}
GOALS = ("class_drift", "neighbour_drift", "unrelated_drift")
# Two-sided 95 % points of Student's t for 1 to 8 degrees of freedom.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31)
ADAPTERS = {
    "good: the default, one subject or two": ("prediction", "two concepts"),
    "leaking: nothing held": ("none",),
    "leaking: class pictures": ("classic",),
    "overtrained: nothing held, half of the pictures, twice as long": ("overtrained",),
    "dead: not trained (B = 0)": ("dead",),
}
WARNINGS = {
    "works": "works",
    "leaks": "leaks",
    "neighbours": "neighbours move",
    "moves": "much else changed",
    "overtrained": "overtrained",
    "dead": "dead",
}
SHOWN = {
    "dead-police-car-0": "base model",
    "none-police-car-0": "nothing held",
    "classic-police-car-0": "class pictures",
    "prediction-police-car-0": "predictions (default)",
    "trigger-dog-police-car-0": "trigger: dog",
    "trigger-photo-police-car-0": "trigger: photo",
    "overtrained-peacock-0": "overtrained (bird)",
    "two-concepts-teddy+peacock-0": "two: ohwx, bear",
    "two-concepts-teddy+peacock-1": "two: bnha, bird",
}
SIDE = 64

Row = dict[str, Any]


def write_docs(rows: Sequence[Row], pictures: Path) -> None:
    """Put the tables between the marks of the two pages, and the board beside them."""
    write_between_marks(PAGE, "study", tables(rows))
    write_between_marks(MEASURING, "study", bounds_table(rows))
    if board := pictures_board(pictures):
        board.quantize(256, Image.Quantize.MEDIANCUT).save(BOARD, optimize=True)


def tables(rows: Sequence[Row]) -> str:
    """All tables, in Markdown."""
    parts = [
        *(methods_table(rows, images) for images in ("police-car", "peacock", "teddy")),
        pictures_table(rows),
        words_table(rows),
        concepts_table(rows),
        warning_table(rows),
    ]
    return "\n\n".join(part for part in parts if part)


def _titled(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table below its title; nothing for no rows."""
    return f"{title}\n\n{markdown(header, rows)}" if rows else ""


def methods_table(rows: Sequence[Row], images: str) -> str:
    """What is held, by what it costs and what it saves, against plain training of the same seed."""
    found = [row for row in rows if row["images"] == images and row["arm"] in NAMES]
    plain = {row["seed"]: row for row in found if row["arm"] == "none"}
    if not plain:
        return ""
    columns = (*map(_meter, (*GOALS, "effect", "likeness")), _seconds)
    cells: list[Sequence[object]] = []
    for arm, name in NAMES.items():
        pairs = [
            (row, plain[row["seed"]]) for row in found if row["arm"] == arm and row["seed"] in plain
        ]
        values = [interval([ratio(*pair, of) for pair in pairs]) for of in columns]
        if pairs:
            cells.append((name, len(pairs), *(["1"] * len(columns) if arm == "none" else values)))
    table = _titled(
        f"**{images}**, each divided by plain training with the same seed:",
        ("held in place by", "seeds", "class word", "its neighbours", "unrelated", "effect",
         "likeness", "time a step"),
        cells,
    )  # fmt: skip
    means = [statistics.mean(map(_meter(name), plain.values())) for name in (*GOALS, "likeness")]
    absolute = (
        "Plain training itself: drift {:.3f} for the class word, {:.3f} for its "
        "neighbours, {:.3f} for unrelated prompts; likeness {:.3f}.".format(*means)
    )
    return f"{table}\n\n{absolute}"


def pictures_table(rows: Sequence[Row]) -> str:
    """How like the set the pictures are that are drawn with the trigger and without it."""
    cells = []
    for images in ("police-car", "peacock", "teddy", "teddy+peacock"):
        for arm, name in {**NAMES, "two concepts": "two subjects, default"}.items():
            same = [row for row in rows if (row["arm"], row["images"]) == (arm, images)]
            own = [row["pictures"] for row in same if row.get("pictures")]
            if own:
                means = [
                    interval([statistics.mean(one[key] for one in run) for run in own])
                    for key in ("trigger", "class", "base")
                ]
                cells.append((images, name, len(own), *means))
    return _titled(
        "**Pictures drawn by the set's captions**, likeness to the set's own (0 to 1, see\n"
        "[measuring.md](../measuring.md)); without the trigger they should stay the base model's:",
        ("set", "held in place by", "seeds", "with the trigger", "without it", "base model"),
        cells,
    )


def words_table(rows: Sequence[Row]) -> str:
    """A rare trigger against common words, all with the default preservation."""
    arms = {"ohwx": "prediction", "dog": "trigger dog", "photo": "trigger photo"}
    columns = [
        *map(_meter, ("likeness", *GOALS)),
        *map(_field, ("ordinary_dog", "ordinary_photo")),
    ]
    cells = []
    for word, arm in arms.items():
        own = [row for row in rows if (row["arm"], row["images"]) == (arm, "police-car")]
        if own:
            means = [interval([get(row) for row in own], digits=4) for get in columns]
            cells.append((word, len(own), *means))
    header = ("trigger", "seeds", "likeness", "class word", "its neighbours", "unrelated",
              '"dog" as others use it', '"photo" as others use it')  # fmt: skip
    title = "**police-car, which word as trigger** (everything else as the default):"
    return _titled(title, header, cells) if {"dog", "photo"} & {row[0] for row in cells} else ""


def concepts_table(rows: Sequence[Row]) -> str:
    """Two subjects in one adapter: likeness of each one's pictures under each trigger."""
    own = [row for row in rows if row["arm"] == "two concepts" and row["bleed"]]
    cells = [
        (name, *(interval([row["bleed"][place][other] for row in own]) for other in (0, 1)))
        for place, name in enumerate(("teddy", "peacock") if own else ())
    ]
    return _titled(
        f"**Two subjects in one adapter** (seeds: {len(own)}): how much better than the base model "
        "each set's pictures are predicted when their captions say each trigger (likeness):",
        ("pictures of", "with `ohwx` (teddy)", "with `bnha` (peacock)"),
        cells,
    )


def warning_table(rows: Sequence[Row]) -> str:
    """How often the meters warn, of adapters that are wrong on purpose and of good ones."""
    cells = []
    for name, arms in ADAPTERS.items():
        found = [codes for row in rows if row["arm"] in arms for codes in warnings_of(row)]
        if found:
            counts = [sum(code in codes for codes in found) for code in WARNINGS]
            cells.append((name, len(found), *(count or "–" for count in counts)))
    return _titled(
        "**What the meters say** (`evaluate`'s findings), in how many of the subjects that were "
        "trained:",
        ("adapter", "subjects", *WARNINGS.values()),
        cells,
    )


def warnings_of(row: Row) -> list[set[str]]:
    """The codes of the findings on each subject of a run."""
    return [
        {
            finding.code
            for finding in findings(
                as_meters(meters), earlier=[as_meters(each[place]) for each in row["earlier"]]
            )
        }
        for place, meters in enumerate(row["meters"])
    ]


def as_meters(values: dict[str, Any]) -> Meters:
    """The meters that a row holds, which has shares beside them; earlier rows have fewer."""
    names = {one.name for one in fields(Meters)}
    return Meters(**{name: value for name, value in values.items() if name in names})


def bounds_table(rows: Sequence[Row]) -> str:
    """Between which values the shares lay that the findings judge by, least to most."""
    cells = []
    for name, arms in ADAPTERS.items():
        found = [meters for row in rows if row["arm"] in arms for meters in row["meters"]]
        if found and "dead" not in arms:
            shares = (
                [one["likeness"] for one in found],
                [one["likeness_without"] / one["likeness"] for one in found],
                *([one[key] for one in found] for key in
                  ("class_leak", "neighbour_leak", "collateral")),
                [one["gap"] / one["likeness_trained"] for one in found],
            )  # fmt: skip
            cells.append((name, len(found), *map(least_to_most, shares)))
    header = ("adapter", "subjects", "likeness", "without the trigger, of it",
              "class word, of the effect", "neighbours", "unrelated",
              "missing on held-out, of trained")  # fmt: skip
    return markdown(header, cells) if cells else ""


def least_to_most(values: Sequence[float]) -> str:
    """The least and the most of some values; one where they are the same."""
    least, most = f"{min(values):.2f}", f"{max(values):.2f}"
    return least if least == most else f"{least} to {most}"


def interval(values: Sequence[float | None], digits: int = 2) -> str:
    """The mean with its 95 % interval over seeds (Student's t); the mean alone of one."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = statistics.mean(known)
    if len(known) == 1:
        return f"{mean:.{digits}f}"
    freedom = min(len(known) - 1, len(STUDENT))
    half = STUDENT[freedom - 1] * statistics.stdev(known) / math.sqrt(len(known))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def ratio(one: Row, other: Row, of: Callable[[Row], float]) -> float | None:
    """A value of a run as a multiple of another's."""
    return of(one) / of(other) if of(other) else None


def _meter(name: str) -> Callable[[Row], float]:
    """The mean of a meter over a run's concepts."""
    return lambda row: statistics.mean(meters[name] for meters in row["meters"])


def _field(name: str) -> Callable[[Row], float]:
    return lambda row: row[name]


_seconds = _field("seconds_per_step")


def pictures_board(folder: Path) -> Image.Image | None:
    """The pictures of seed 0: a row an adapter, two pictures a prompt; None without pictures."""
    rows = []
    for name, label in SHOWN.items():
        if (path := folder / f"{name}.png").exists():
            strip = Image.open(path)
            lefts = range(0, strip.width, SIDE)
            rows.append((label, [strip.crop((at, 0, at + SIDE, SIDE)) for at in lefts]))
    return sheet(("trigger", "class word", "neighbour", "unrelated"), rows, SIDE) if rows else None
