"""The study's tables: what its rows come to."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from benchmarks import trigger_study
from benchmarks.study_report import (
    MEASURING,
    PAGE,
    bounds_table,
    interval,
    pictures_board,
    tables,
    write_docs,
)
from benchmarks.trigger_study import METHODS, configuration, read_results, study


def row(arm: str, seed: int, drift: float, likeness: float, images: str = "police-car") -> Any:
    meters = {
        "effect": 0.0 if arm == "dead" else 0.1,
        "validation_loss": 0.02,
        "training_loss": 0.02,
        "base_loss": 0.04,
        "held_out": 4,
        "class_drift": drift,
        "neighbour_drift": 2 * drift,
        "unrelated_drift": 3 * drift,
        "likeness": likeness,
        "likeness_without": 0.9 * likeness if arm == "none" else 0.0,
        "likeness_trained": likeness,
        "gap": 0.0,
        "class_leak": drift / 0.1,
        "neighbour_leak": 2 * drift / 0.1,
        "collateral": 0.3,
    }
    return {
        "arm": arm,
        "images": images,
        "seed": seed,
        "meters": [meters],
        "earlier": [[meters | {"likeness": 2 * likeness}]] if arm == "overtrained" else [],
        "bleed": [[0.5, 0.1], [0.2, 0.6]] if arm == "two concepts" else None,
        "seconds_per_step": 0.2 if arm == "none" else 0.25,
        "ordinary_dog": 0.01,
        "ordinary_photo": 0.02,
    }


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "–"),
        ([None], "–"),
        ([0.5], "0.50"),
        ([1.0, 1.0, 1.0], "1.00 ± 0.00"),
        ([1.0, 2.0, 3.0], "2.00 ± 2.48"),  # 4.30 / sqrt(3)
        ([1.0, None, 3.0], "2.00 ± 12.71"),  # 12.71 * sqrt(2) / sqrt(2)
    ],
)
def test_intervals(values: list[float | None], text: str) -> None:
    assert interval(values) == text


def test_methods_are_divided_by_plain_training_of_their_seed() -> None:
    rows = [
        row("none", 0, 0.04, 0.6),
        row("none", 1, 0.08, 0.5),
        row("prediction", 0, 0.01, 0.6),
        row("prediction", 1, 0.02, 0.5),
        row("prediction", 2, 9.0, 0.1),  # without a plain run of its seed
    ]
    text = tables(rows)
    cells = "2 | 0.25 ± 0.00 | 0.25 ± 0.00 | 0.25 ± 0.00 | 1.00 ± 0.00 | 1.00 ± 0.00 | 1.25 ± 0.00"
    assert cells in text
    assert "drift 0.060 for the class word" in text
    assert "peacock" not in text


def test_every_table_appears_when_there_is_something_to_say() -> None:
    rows = [
        *(row(arm, 0, 0.01, 0.5) for arm in ("none", "prediction", "trigger dog", "dead")),
        row("two concepts", 0, 0.01, 0.5, "teddy+peacock"),
    ]
    text = tables(rows)
    for part in ("which word as trigger", "| dog | 1 |", "| teddy | 0.50 | 0.10 |"):
        assert part in text
    assert tables([]) == ""


def test_warnings_are_counted() -> None:
    rows = [row("none", 0, 0.1, 0.5), row("none", 1, 0.1, 0.5), row("dead", 0, 0.0, 0.0)]
    text = tables([*rows, row("prediction", 0, 0.01, 0.5), row("overtrained", 0, 0.01, 0.4)])
    assert "twice as long | 1 | 1 | – | – | – | 1 | – |" in text
    assert "| leaking: nothing held | 2 | 2 | 2 | – | 2 | – | – |" in text
    assert "| dead: not trained (B = 0) | 1 | – | – | – | – | – | 1 |" in text
    assert "| good: the default, one subject or two | 1 | 1 | – | – | – | – | – |" in text


def test_bounds_are_the_least_and_the_most() -> None:
    rows = [row("none", 0, 0.09, 0.5), row("none", 1, 0.1, 0.6), row("dead", 0, 0.0, 0.0)]
    cells = "2 | 0.50 to 0.60 | 0.90 | 0.90 to 1.00 | 1.80 to 2.00 | 0.30 | 0.00"
    assert f"| leaking: nothing held | {cells} |" in bounds_table(rows)
    assert "dead" not in bounds_table(rows)
    assert bounds_table([]) == ""


def test_the_board_takes_the_pictures_that_are_there(tmp_path: Path) -> None:
    assert pictures_board(tmp_path) is None
    Image.new("RGB", (64 * 8, 64), "red").save(tmp_path / "none-police-car-0.png")
    sheet = pictures_board(tmp_path)
    assert sheet is not None
    assert sheet.getpixel((200, 60)) == (255, 0, 0) and sheet.width == 8 * 70 - 6


def test_all_runs_of_the_study_are_sound_and_differ() -> None:
    runs = study(400)
    assert len({run.key for run in runs}) == len(runs) > 20
    for run in runs:
        assert configuration(run).training.seed == run.seed
    assert {run.arm for run in runs} >= set(METHODS)


def test_the_last_row_of_a_run_counts(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    assert read_results(file) == []
    file.write_text('{"base": "a", "key": "k", "n": 1}\n{"base": "a", "key": "k", "n": 2}\n')
    assert [row["n"] for row in read_results(file)] == [2]


def test_the_pages_have_a_place_for_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, page in {"PAGE": PAGE, "MEASURING": MEASURING}.items():
        copy = Path(shutil.copy(page, tmp_path))
        monkeypatch.setattr(f"benchmarks.study_report.{name}", copy)
    rows = [row("none", 0, 0.09, 0.5), row("prediction", 0, 0.01, 0.5)]
    write_docs(rows, tmp_path / "no pictures")
    assert tables(rows) in (tmp_path / PAGE.name).read_text(encoding="utf-8")
    assert bounds_table(rows) in (tmp_path / MEASURING.name).read_text(encoding="utf-8")


def test_a_study_that_is_done_says_how_to_do_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clone has the study's results: it would train nothing, without a word."""
    rows = read_results(trigger_study.RESULTS)
    base = SimpleNamespace(fingerprint=rows[-1]["base"])
    keys = {row["key"] for row in rows if row["base"] == base.fingerprint}
    done = [one for one in study(400) if one.key in keys]
    assert done
    monkeypatch.setattr(trigger_study, "load_base", lambda name: base)
    monkeypatch.setattr(trigger_study, "study", lambda steps: done)
    monkeypatch.setattr(sys, "argv", ["trigger_study"])
    trigger_study.main()
    assert "0 trainings to do" in (said := capsys.readouterr().out) and "--runs FILE" in said
