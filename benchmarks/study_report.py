"""The tables and the board of the trigger study, from what its runs measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from trainer.evaluation.verdicts import findings
from trainer.events import Meters
from trainer.places import PROJECT
from trainer.runs.atomic import write_text

PAGE = PROJECT / "docs" / "notes" / "preservation.md"
MEASURING = PROJECT / "docs" / "notes" / "measuring.md"
BOARD = PROJECT / "docs" / "images" / "keeping-the-rest-still.png"
BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"
NAMES = {
    "none": "nothing (plain training)",
    "classic": "class pictures (DreamBooth)",
    "prediction": "the base's predictions (default)",
}
GOALS = {"class_drift": 0.15, "neighbour_drift": 0.4, "unrelated_drift": 0.3}
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
SIDE, GAP, LABEL = 64, 4, 150

Row = dict[str, Any]


def write_docs(rows: Sequence[Row], pictures: Path) -> None:
    """Put the tables between the marks of the two pages, and the board beside them."""
    for page, tables_of in ((PAGE, tables), (MEASURING, bounds_table)):
        text = page.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        write_text(page, f"{before}{BEGIN}\n\n{tables_of(rows)}\n\n{END}{after}")
    if sheet := board(pictures):
        BOARD.parent.mkdir(parents=True, exist_ok=True)
        sheet.quantize(256, Image.Quantize.MEDIANCUT).save(BOARD, optimize=True)


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


def methods_table(rows: Sequence[Row], images: str) -> str:
    """What is held, by what it costs and what it saves, against plain training of the same seed."""
    found = [row for row in rows if row["images"] == images and row["arm"] in NAMES]
    plain = {row["seed"]: row for row in found if row["arm"] == "none"}
    if not plain:
        return ""
    lines = [
        f"**{images}**, each divided by plain training with the same seed:",
        "",
        "| held in place by | seeds | class word | its neighbours | unrelated | effect | likeness "
        "| time a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, name in NAMES.items():
        own = [row for row in found if row["arm"] == arm and row["seed"] in plain]
        if not own:
            continue
        pairs = [(row, plain[row["seed"]]) for row in own]
        cells = [
            interval([ratio(one, other, of) for one, other in pairs])
            for of in (*(_meter(name) for name in (*GOALS, "effect", "likeness")), _seconds)
        ]
        if arm == "none":
            means = [statistics.mean(_meter(of)(row) for row in own) for of in (*GOALS, "likeness")]
            cells = ["1"] * len(cells)
            absolute = (
                "Plain training itself: drift {:.3f} for the class word, {:.3f} for its "
                "neighbours, {:.3f} for unrelated prompts; likeness {:.3f}.".format(*means)
            )
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", absolute])


def pictures_table(rows: Sequence[Row]) -> str:
    """How like the set the pictures are that are drawn with the trigger and without it."""
    lines = [
        "**Pictures drawn by the set's captions**, likeness to the set's own (0 to 1, see",
        "[measuring.md](../measuring.md)); without the trigger they should stay the base model's:",
        "",
        "| set | held in place by | seeds | with the trigger | without it | base model |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row_images in ("police-car", "peacock", "teddy", "teddy+peacock"):
        for arm, name in {**NAMES, "two concepts": "two subjects, default"}.items():
            own = [
                row["pictures"]
                for row in rows
                if (row["arm"], row["images"]) == (arm, row_images) and row.get("pictures")
            ]
            if own:
                cells = [
                    interval([statistics.mean(one[key] for one in run) for run in own])
                    for key in ("trigger", "class", "base")
                ]
                lines.append(f"| {row_images} | {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 5 else ""


def words_table(rows: Sequence[Row]) -> str:
    """A rare trigger against common words, all with the default preservation."""
    arms = {"ohwx": "prediction", "dog": "trigger dog", "photo": "trigger photo"}
    lines = [
        "**police-car, which word as trigger** (everything else as the default):",
        "",
        "| trigger | seeds | likeness | class word | its neighbours | unrelated "
        '| "dog" as others use it | "photo" as others use it |',
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = False
    for word, arm in arms.items():
        own = [row for row in rows if row["arm"] == arm and row["images"] == "police-car"]
        if own:
            found = found or word != "ohwx"
            getters = [_meter(name) for name in ("likeness", *GOALS)]
            getters += [_field("ordinary_dog"), _field("ordinary_photo")]
            cells = [interval([get(row) for row in own], digits=4) for get in getters]
            lines.append(f"| {word} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if found else ""


def concepts_table(rows: Sequence[Row]) -> str:
    """Two subjects in one adapter: likeness of each one's pictures under each trigger."""
    own = [row for row in rows if row["arm"] == "two concepts" and row["bleed"]]
    if not own:
        return ""
    lines = [
        f"**Two subjects in one adapter** (seeds: {len(own)}): how much better than the base model "
        "each set's pictures are predicted when their captions say each trigger (likeness):",
        "",
        "| pictures of | with `ohwx` (teddy) | with `bnha` (peacock) |",
        "| --- | --- | --- |",
    ]
    for place, name in enumerate(("teddy", "peacock")):
        cells = [interval([row["bleed"][place][other] for row in own]) for other in (0, 1)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def warning_table(rows: Sequence[Row]) -> str:
    """How often the meters warn, of adapters that are wrong on purpose and of good ones."""
    lines = [
        "**What the meters say** (`evaluate`'s findings), in how many of the subjects that were "
        "trained:",
        "",
        "| adapter | subjects | " + " | ".join(WARNINGS.values()) + " |",
        "| --- |" + " --- |" * (1 + len(WARNINGS)),
    ]
    for name, arms in ADAPTERS.items():
        found = [codes for row in rows if row["arm"] in arms for codes in warnings_of(row)]
        if found:
            counts = [sum(code in codes for codes in found) for code in WARNINGS]
            cells = [str(count) if count else "–" for count in counts]
            lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 4 else ""


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
    """The meters that a row holds, which has shares beside them."""
    return Meters(**{one.name: values[one.name] for one in fields(Meters)})


def bounds_table(rows: Sequence[Row]) -> str:
    """Between which values the shares lay that the findings judge by, least to most."""
    lines = [
        "| adapter | subjects | likeness | without the trigger, of it | class word, of the effect "
        "| neighbours | unrelated | missing on held-out, of trained |",
        "| --- |" + " --- |" * 7,
    ]
    for name, arms in ADAPTERS.items():
        found = [meters for row in rows if row["arm"] in arms for meters in row["meters"]]
        if found and "dead" not in arms:
            cells = [
                spread([one["likeness"] for one in found]),
                spread([one["likeness_without"] / one["likeness"] for one in found]),
                *(spread([one[f"{of}_leak"] for one in found]) for of in ("class", "neighbour")),
                spread([one["collateral"] for one in found]),
                spread([one["gap"] / one["likeness_trained"] for one in found]),
            ]
            lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def spread(values: Sequence[float]) -> str:
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


def _seconds(row: Row) -> float:
    return row["seconds_per_step"]


def board(folder: Path) -> Image.Image | None:
    """The pictures of seed 0: a row an adapter, two pictures a prompt; None without pictures."""
    shown = {
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
    rows = [(folder / f"{name}.png", label) for name, label in shown.items()]
    rows = [(path, label) for path, label in rows if path.exists()]
    if not rows:
        return None
    titles = ("trigger", "class word", "neighbour", "unrelated")
    scale = 1.5
    side = int(SIDE * scale)
    width = LABEL + len(titles) * (2 * side + GAP)
    sheet = Image.new("RGB", (width, 20 + len(rows) * (side + GAP)), "white")
    drawer = ImageDraw.Draw(sheet)
    for place, title in enumerate(titles):
        drawer.text((LABEL + place * (2 * side + GAP), 4), title, fill="black")
    for number, (path, label) in enumerate(rows):
        top = 20 + number * (side + GAP)
        drawer.text((4, top + side // 2 - 5), label, fill="black")
        with Image.open(path) as strip:
            for place in range(strip.width // SIDE):
                cell = strip.crop((place * SIDE, 0, (place + 1) * SIDE, SIDE))
                left = LABEL + place // 2 * (2 * side + GAP) + place % 2 * side
                sheet.paste(cell.resize((side, side), Image.Resampling.BICUBIC), (left, top))
    return sheet
