"""The verdict's next step: what the button says, and what a press does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import jobs
from app.tabs.generate.tab import _use_adapter
from app.tabs.runs import html, next_step, reader, tab
from app.tabs.runs.form import BUTTONS
from trainer import places
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.status import Status, write_status

EARLIER = "adapters/step-000200.safetensors"


def measured_run(code: str, **values: object) -> RunFolder:
    run = create_run(places.RUNS, "ohwx")
    words = {"images.path": "datasets/police-car", "captions.trigger": "ohwx"}
    write_config(run.config, with_values(TrainingConfig(), words))
    write_status(run, Status("finished", 400, 400))
    run.adapter.write_bytes(b"the result")
    run.adapters.mkdir()
    (run.path / EARLIER).write_bytes(b"an earlier one")
    step = {"code": code, "says": "Do it.", "values": values, "command": "python launch.py <b>"}
    verdict = {"code": "partly", "says": "In part.", "next_step": step}
    run.evaluation.write_text(json.dumps({"verdict": verdict}))
    return run


@pytest.mark.parametrize(
    ("code", "values", "label"),
    [
        ("train_longer", {"training.steps": 1600}, "Train on to 1,600 steps"),
        ("train_longer", {"training.steps": 400}, ""),  # it has done them
        ("train_longer", {}, ""),
        ("use", {"checkpoint": EARLIER, "strength": 0.8}, "Generate with it at strength 0.8"),
        ("use", {}, ""),
        ("check_words", {}, "Look at its words and pictures"),
        ("uncouple", {}, "Look at its words and pictures"),
        ("preserve_more", {"preservation.weight": 6.0}, "Fill the Train form with this change"),
        ("give_pictures", {}, ""),
        ("of a later version", {}, ""),
    ],
)
def test_the_button(code: str, values: dict[str, object], label: str) -> None:
    measured_run(code, **values)
    now, _ = tab.moment(None, "", {})
    assert now["next"] == (bool(label), label, True, bool(label))  # the bright one
    assert [key for key in BUTTONS if now[key][3]] == ["next" if label else "draw"]
    assert now["draw"][0] != label.startswith("Generate")
    said = html.meters(reader.view("ohwx"))
    assert "<code>python launch.py &lt;b&gt;</code>" in said


def test_an_earlier_checkpoint_is_kept_once_and_fills_generate() -> None:
    measured_run("use", checkpoint=EARLIER, strength=0.8)
    taken = [next_step.take("ohwx") for _ in range(2)]
    assert [one["adapter"] for one in taken] == ["file/ohwx-step-200.safetensors:0.8"] * 2
    (kept,) = places.ADAPTERS.iterdir()
    assert kept.read_bytes() == b"an earlier one"
    shown = _use_adapter(taken[0]["adapter"])
    assert (shown[0].value, shown[-1]) == ("file/ohwx-step-200.safetensors", 0.8)


def test_the_result_itself_is_used_as_the_run() -> None:
    measured_run("use", checkpoint="adapter.safetensors", strength=1.0)
    assert next_step.take("ohwx")["adapter"] == "ohwx:1.0"
    assert not places.ADAPTERS.exists()


def test_the_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(jobs, "resume", lambda name, **options: asked.append((name, options)))
    run = measured_run("train_longer", **{"training.steps": 600})
    assert next_step.take("ohwx") == {"run": "ohwx"}
    assert asked == [("ohwx", {"steps": 600})]
    for code, values in (("preserve_more", {"preservation.weight": 6.0}), ("uncouple", {})):
        step = {"code": code, "values": values}
        run.evaluation.write_text(json.dumps({"verdict": {"next_step": step}}))
        taken = next_step.take("ohwx")
        if values:
            assert "\nweight = 6.0\n" in taken["settings"][0]
        else:
            words = (taken["image_set"], taken["trigger"], taken["class_word"])
            assert words == ("police-car", "ohwx", "")
