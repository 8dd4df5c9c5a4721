"""What the page says of runs: read once, escaped, sent only when it changes."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import jobs
from app.jobs import RunInfo
from app.tabs.runs import comparing, html, pictures, reader, tab
from app.tabs.runs.form import BUTTONS
from tests.trainer.logs_for_tests import log_events
from trainer import places
from trainer.config.file import with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.errors import Code, UserError
from trainer.events import (
    CheckpointSaved,
    Ended,
    Evaluated,
    Meters,
    Prepared,
    RunEvent,
    StepDone,
    Validated,
    Warned,
)
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.log import EventReader
from trainer.runs.status import Phase, Status, own_status, write_status
from trainer.runs.wishes import is_wished, wished_values

EVIL = "<script>alert(1)</script>"


def make_run(name: str = "ohwx", phase: str = "finished", **changes: Any) -> RunFolder:
    run = create_run(places.RUNS, name)
    values = {"images.path": "datasets/police-car", "captions.trigger": "ohwx", **changes}
    write_config(run.config, with_values(TrainingConfig(), values))
    write_status(run, Status(phase, 3, 400))  # type: ignore[arg-type]
    return run


def steps(run: RunFolder, first: int, last: int, loss: float = 0.5) -> None:
    for step in range(first, last + 1):
        log_events(run, StepDone(step, loss, seconds=0.1))


def add_preview(run: RunFolder, step: int, prompt: str = "a photo of ohwx") -> None:
    folder = run.preview(step)
    folder.mkdir(parents=True)
    (folder / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    record = {"file": "00.png", "prompt": prompt, "seed": 1, "strength": 1}
    (folder / "prompts.json").write_text(json.dumps([record]))


# ------------------------------------------------------------------------------ reading


def test_curves_follow_a_run_that_went_back_to_its_checkpoint() -> None:
    run = make_run()
    log_events(run, Prepared())
    steps(run, 1, 8, loss=0.5)
    assert len(reader.view("ohwx").curves["loss"]) == 8
    log_events(run, Prepared(step=5))
    steps(run, 6, 7, loss=0.25)
    points = reader.view("ohwx").curves["loss"]
    assert points == [*((float(s), 0.5) for s in range(1, 6)), (6.0, 0.25), (7.0, 0.25)]


def test_a_view_costs_one_reading_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    steps(run, 1, 5)
    monkeypatch.setattr(jobs, "FRESH", 3600.0)
    readings: list[int] = []
    real = EventReader.read

    def counted(self: EventReader) -> list[RunEvent]:
        readings.append(1)
        return real(self)

    monkeypatch.setattr(EventReader, "read", counted)
    with ThreadPoolExecutor(20) as pool:
        views = list(pool.map(reader.view, ["ohwx"] * 20))
    assert len(views) == 20 and len({id(view) for view in views}) == 1
    assert len(readings) == 1


def test_a_new_run_with_an_old_name_is_not_the_old_one() -> None:
    run = make_run()
    steps(run, 1, 5)
    assert reader.view("ohwx").curves
    run.path.rename(places.RUNS / ".gone")
    make_run()
    assert reader.view("ohwx").curves == {}


# ------------------------------------------------------------------------------ sending


def test_nothing_is_sent_again_that_has_not_changed() -> None:
    run = make_run()
    steps(run, 1, 5)
    add_preview(run, 0)
    seen, sent = tab.moment(None, "", {})
    assert {"names", "head", "board", "chart", "log"} <= set(sent)
    seen, sent = tab.moment("ohwx", "", seen)
    assert sent == []
    log_events(run, CheckpointSaved(5))
    seen, sent = tab.moment("ohwx", "", seen)
    assert sent == ["log"]
    add_preview(run, 5)
    _, sent = tab.moment("ohwx", "", seen)
    assert sent == ["board"]


def test_the_address_of_a_picture_changes_with_the_picture_only() -> None:
    run = make_run()
    add_preview(run, 0)
    before = html.board(reader.view("ohwx"))
    assert html.board(reader.view("ohwx")) == before
    assert "data:" not in before  # browsers keep what they have fetched
    (run.preview(0) / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n, another one")
    assert html.board(reader.view("ohwx")) != before


def test_what_trains_is_shown_first_and_a_wish_comes_before_it() -> None:
    here = psutil.Process()
    run = make_run("old")
    write_status(run, Status("training", 3, 9, None, here.pid, here.create_time()))
    make_run("new")
    for chosen, wished, shown in ((None, "", "old"), ("new", "", "new"), ("new", "old", "old")):
        now, _ = tab.moment(chosen, wished, {})
        assert now["names"][1] == shown


def test_runs_are_found_by_name_and_older_ones_on_demand() -> None:
    for number in range(8):
        make_run(f"cat-{number}" if number % 2 else f"dog-{number}")
    everything, _ = tab.moment(None, "", {}, listed=103)
    newest = tab.moment(None, "", {}, listed=3)[0]
    assert len(newest["names"][0]) == 3
    assert newest["older"] == (True, "Show older runs (5 more)", True)
    assert len(everything["names"][0]) == 8 and not everything["older"][0]
    found, _ = tab.moment("dog-0", "", {}, search=" CAT ")
    assert {name for _, name in found["names"][0]} == {"dog-0", "cat-1", "cat-3", "cat-5", "cat-7"}
    assert found["names"][1] == "dog-0"  # what is shown stays


def test_the_verdict_comes_with_pictures_and_files() -> None:
    run = make_run()
    for step in (0, 100):
        add_preview(run, step)
    assert html.verdict(reader.view("ohwx")) == ""  # nothing is known yet
    run.adapter.write_bytes(b"x")
    assert "Nothing was measured" in html.verdict(reader.view("ohwx"))
    findings = [{"says": "It works.", "good": True}, {"says": "It leaks.", "good": False}]
    findings.append({"says": "Who knows?", "good": True, "code": "few_held_out"})
    recommended = {"checkpoint": "adapter", "strength": 0.8, "why": "calmer", "findings": findings}
    run.evaluation.write_text(json.dumps({"recommended": recommended}))
    said = html.verdict(reader.view("ohwx"))
    assert "Nothing was measured" not in said
    for mark, says in (("good", "It works."), ("bad", "It leaks."), ("open", "Who knows?")):
        assert f'<li class="{mark}">{says}</li>' in said
    assert said.count("pictures/ohwx/own/") == 4 and "files/ohwx/adapter.safetensors" in said
    assert "pictures/ohwx/step-000100/00.png" in said
    assert 'data-base="pictures/ohwx/step-000000/00.png' in said  # for the slider
    log_events(run, Evaluated(1, Meters(0.5, 0.25)))
    assert "Use adapter at strength 0.8: calmer" in html.meters(reader.view("ohwx"))
    found = json.loads(run.evaluation.read_text()) | {"verdict": {"says": "Not yet."}}
    run.evaluation.write_text(json.dumps(found))
    assert '<h3 class="doubtful">Not yet.' in html.verdict(reader.view("ohwx"))
    write_status(run, own_status("training", 3, 400))  # it trains on: that was of before
    said = html.verdict(reader.view("ohwx"))
    assert "Before it went on: Not yet." in said and "It leaks." not in said


def test_a_stopped_run_gives_the_adapter_that_it_saved() -> None:
    run = make_run("ohwx", "stopped")
    add_preview(run, 0)
    assert not tab.moment(None, "", {})[0]["draw"][0] and not html.verdict(reader.view("ohwx"))
    run.adapters.mkdir()
    for step in (10, 53):
        run.adapter_at(step).write_bytes(b"%d" % step)
    assert tab.moment(None, "", {})[0]["draw"][0]
    said = html.verdict(reader.view("ohwx"))
    assert "files/ohwx/step-000053.safetensors" in said and "step-000000" not in said
    assert tab._draw_with("ohwx")[0] == "file/ohwx-step-53.safetensors"
    app = Starlette(routes=pictures.routes())
    answer = TestClient(app).get("/files/ohwx/step-000053.safetensors")
    assert (answer.content, answer.status_code) == (b"53", 200)
    assert "ohwx-step-000053.safetensors" in answer.headers["content-disposition"]
    assert TestClient(app).get("/files/ohwx/step-000010.safetensors").status_code == 404


@pytest.mark.parametrize(
    ("base", "needs"),
    [
        ("tiny-emoji", "only Rarebit has"),
        (
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "trigger word ohwx for the prompt. It needs stable-diff",
        ),
        ("/home/me/models/photon.safetensors", "It needs photon.safetensors or"),
    ],
)
def test_a_finished_run_says_what_others_need(base: str, needs: str) -> None:
    run = make_run(**{"base.name": base})
    assert needs not in html.verdict(reader.view("ohwx"))  # it has no adapter yet
    run.adapter.write_bytes(b"x")
    assert needs in (said := html.verdict(reader.view("ohwx"))) and "/home/me" not in said


def test_beside_ones_own_pictures_stands_what_the_trigger_word_drew() -> None:
    run = make_run()
    run.adapter.write_bytes(b"x")
    add_preview(run, 9)
    folder, records = run.preview(9), json.loads((run.preview(9) / "prompts.json").read_text())
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes())
    records = [{"file": "01.png", "prompt": "a photo", "seed": 1}, *records]
    (folder / "prompts.json").write_text(json.dumps(records))
    said = html.verdict(reader.view("ohwx"))
    assert "step-000009/00.png" in said and "step-000009/01.png" not in said


@pytest.mark.parametrize(
    ("phase", "step", "left", "moves"),
    [
        ("preparing", 0, "", True),
        ("training", 3, "about 7 min", False),  # 5 min of steps, and 2 min to measure
        ("previewing", 3, "", False),
        ("measuring", 3, "", False),
        ("measuring", 400, "about 1 min", True),
    ],
)
def test_the_time_left_counts_the_measuring(
    phase: Phase, step: int, left: str, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "measuring_time", lambda config: 120.0)
    run = make_run()
    log_events(run, CheckpointSaved(step, time=time.time() - 60))
    write_status(run, replace(own_status(phase, step, 400), eta_seconds=300.0))
    said = html.head(reader.view("ohwx"))
    assert ("time left" in said) == bool(left) and left in said
    assert ('class="bar moving"' in said) == moves
    now, _ = tab.moment(None, "", {})
    assert now["stop"][0] == (step < 400)  # then there is nothing left to stop
    assert not any(now[key][3] for key in BUTTONS)


def test_without_a_run_it_says_what_to_do() -> None:
    seen, _ = tab.moment(None, "", {})
    assert "Start training" in str(seen["head"]) and seen["board"] == ""


@pytest.mark.parametrize(
    ("phase", "code", "offered"),
    [
        ("failed", "images_changed", "anyway"),  # to resume would only be refused again
        ("failed", "user_error", "resume"),
        ("stopped", "", "resume"),
        ("finished", "", "longer"),
    ],
)
def test_how_a_run_that_has_ended_may_go_on(phase: Phase, code: Code, offered: str) -> None:
    write_status(make_run(), Status(phase, 400, 400, message="No.", code=code))
    now, _ = tab.moment(None, "", {})
    assert [key for key in ("anyway", "resume", "longer") if now[key][0]] == [offered]


def test_a_search_is_gone_on_with_and_never_trained_longer() -> None:
    run = make_run()
    run.search.write_text("[]", encoding="utf-8")
    for status in (Status("failed", message="No."), Status("finished")):
        write_status(run, status)
        now, _ = tab.moment(None, "", {})
        assert not now["longer"][0] and not now["anyway"][0]
        assert now["resume"][:2] == (status.phase == "failed", "Resume")
    write_status(run, own_status("searching"))
    now, _ = tab.moment(None, "", {})
    assert now["stop"][0] and not any(now[key][0] for key in ("pause", "preview", "prompts"))


def test_a_run_that_trains_is_paused_and_draws_when_asked() -> None:
    run = make_run()
    write_status(run, replace(own_status("training"), step=3, total_steps=400))
    now, _ = tab.moment(None, "", {})
    assert [now[key][:2] for key in ("pause", "preview", "prompts")] == [
        (True, "Pause"),
        (True, "Draw previews now"),
        (True, "Other previews …"),
    ]
    tab.ask("ohwx", "draw")
    tab._pause("ohwx")
    tab._change_previews("ohwx", " a house \n\n", 3)
    assert wished_values(run, "previews") == {"prompts": ["a house"], "count": 3}
    assert is_wished(run, "draw")
    write_status(run, replace(own_status("paused"), step=3, total_steps=400))
    now, _ = tab.moment(None, "", {})
    assert now["pause"] == (True, "Go on", True, True)  # the bright one
    assert "paused at step 3 of 400" in now["head"]
    tab._pause("ohwx")
    assert not is_wished(run, "pause")
    with pytest.raises(UserError, match=r"previews\.count"):
        tab._change_previews("ohwx", "", 99)
    write_status(run, Status("finished", 400, 400))
    now, _ = tab.moment(None, "", {})
    assert not any(now[key][0] for key in ("pause", "preview", "prompts"))
    with pytest.raises(UserError, match="does not train"):
        tab.ask("ohwx", "draw")


# ------------------------------------------------------------------------------ saying


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (RunInfo("a", "training", 3, 400, alive=True), "step 3 of 400"),
        (RunInfo("a", "training", 3, 400, alive=True, stopping=True), "stopping"),
        (RunInfo("a", "stopped", 57, code="killed"), "at step 57 (killed)"),
        (RunInfo("a", "stopped", 57, 400, message="stopped at step 57"), "stopped at step 57"),
        (RunInfo("a", "paused", 3, 400, alive=True), "waits while you draw"),
        (RunInfo("a", "queued", place=1), "next"),
        (RunInfo("a", "queued", place=3), "2 before it"),
    ],
)  # fmt: skip
def test_states_in_words(info: RunInfo, words: str) -> None:
    assert words in html.label(info)


@pytest.mark.parametrize(
    ("message", "code", "shown"),
    [
        ("Choose another.\nA hint.", "user_error", "Choose another.\nA hint."),
        ("It has changed.\nresume --accept-changes", "images_changed", "or resume anyway."),
        ("KeyError: 'x'", "defect", "fault of Rarebit's"),
        ("RuntimeError: CUDA error at /home/me/x.py", "defect", "fault of Rarebit's"),
    ],
)
def test_no_exception_is_shown(message: str, code: str, shown: str) -> None:
    said = html.plain_message(message, code)
    assert shown in said and "/home" not in said and "Key" not in said


def test_nothing_of_a_users_becomes_markup() -> None:
    run = make_run(
        "evil",
        "failed",
        **{"captions.trigger": EVIL, "captions.class_word": EVIL, "output.name": EVIL},
    )
    write_status(run, Status("failed", 1, 2, message=EVIL))
    add_preview(run, 0, prompt=f"{EVIL} \"' onerror=x")
    log_events(run, Warned(EVIL), Ended(1, "failed", "", EVIL), Evaluated(1, Meters(0.5, 0.25)))
    findings = [{"says": EVIL, "good": True}, {"says": EVIL}]
    recommended = {"checkpoint": EVIL, "strength": 1, "why": EVIL, "findings": findings}
    (run.path / "evaluation.json").write_text(json.dumps({"recommended": recommended}))
    make_run("other")
    shown = reader.view("evil")
    parts = [
        html.head(shown),
        html.board(shown),
        html.log(shown),
        html.verdict(shown),
        comparing.compared(["evil", "other"]),
    ]
    for part in parts:
        assert "<script" not in part and "&lt;script" in part
        assert '" onerror' not in part.replace("&quot;", "")


def test_previews_stand_in_the_order_of_steps() -> None:
    run = make_run()
    for step in (0, 100, 200):
        add_preview(run, step)
    board = html.board(reader.view("ohwx"))
    rows = [board.index(f">{name}</th>") for name in ("base model", "step 100", "step 200")]
    assert rows == sorted(rows)
    assert "<mark>ohwx</mark>" in board


def test_long_curves_are_thinned_and_bad_values_do_no_harm() -> None:
    run = make_run()
    steps(run, 1, 50)
    log_events(run, StepDone(51, math.nan))
    shown = reader.view("ohwx")
    many = [(float(step), 1.0 / step) for step in range(1, 40_001)]
    shown.curves["loss"] = many
    shown.curves["preservation"] = many
    drawn = html.chart(shown)
    assert drawn.count("L") <= html.MOST_POINTS
    assert "nan" not in drawn


def test_comparing_shows_what_differs_and_only_that() -> None:
    make_run("one", "finished", **{"adapter.rank": 8})
    make_run("two", "finished", **{"adapter.rank": 32})
    table = comparing.compared(["one", "two", "deleted"])
    assert "Rank" in table and ">8<" in table and ">32<" in table
    assert "Batch size" not in table


@pytest.mark.parametrize(
    ("likeness", "sets", "says", "marked"),
    [
        ((0.5, 0.3), ("cat", "cat"), "to the pictures: one<", 1),
        (
            (0.5, 0.49),
            ("cat", "cat"),
            "Equally good, by verdict and likeness to the pictures: one",
            1,
        ),
        ((0.5, 0.5), ("cat", "cat"), "Equally good", 0),
        ((0.5, 0.3), ("cat", "dog"), "", 1),
    ],
)
def test_of_compared_runs_the_best_is_named(
    likeness: tuple[float, float], sets: tuple[str, str], says: str, marked: int
) -> None:
    for name, value, path in zip(("one", "two"), likeness, sets, strict=True):
        run = make_run(name, **{"images.path": path})
        log_events(run, Evaluated(9, Meters(0.1, likeness=value)))
    table = comparing.compared(["one", "two"])
    assert says in table and ("<b>" in table) == bool(says)
    assert "likeness<br>more is better" in table
    assert table.count('<td class="works">') == marked


def test_comparing_fewer_than_two_asks_for_more() -> None:
    make_run("one")
    assert "two to four" in comparing.compared(["one"])


def test_comparing_begins_with_pictures_of_the_same_prompt() -> None:
    """Runs with different trigger words stand beside each other, by what differs in them."""
    for name, trigger in (("one", "ohwx"), ("two", "zkrv")):
        run = make_run(name, "finished", **{"captions.trigger": trigger})
        folder = run.preview(9)
        folder.mkdir(parents=True)
        records = []
        for at, prompt in enumerate((f"a {trigger} car", "a car")):
            Image.new("RGB", (8, 8)).save(folder / f"0{at}.png")
            records.append({"file": f"0{at}.png", "prompt": prompt, "seed": 1})
        (folder / "prompts.json").write_text(json.dumps(records))
        verdict = {"verdict": {"code": "works", "says": f"It works: {name}."}}
        run.evaluation.write_text(json.dumps(verdict))
    table = comparing.compared(["one", "two"])
    assert table.count("a <mark>…</mark> car") == 1
    assert table.count("<img") == 4
    assert table.count('class="works"') == 2
    assert 0 < table.index("<img") < table.index("It works: one.") < table.index("Trigger word")


def test_a_run_of_several_concepts_names_each_of_them() -> None:
    concepts = [
        {"path": "sets/teddy", "trigger": "ohwx", "class_word": "bear"},
        {"path": "sets/peacock", "trigger": "bnha"},
    ]
    run = create_run(places.RUNS, "two")
    write_config(run.config, TrainingConfig.model_validate({"concepts": concepts}))
    facts = dict(html._facts(reader.view(run.name)))
    assert (facts["learns"], facts["from"]) == ("ohwx bear, bnha", "teddy, peacock")


@pytest.mark.parametrize("held_out", [0, 2])
def test_a_loss_is_said_to_be_of_the_pictures_that_it_is_of(held_out: int) -> None:
    """Small sets have no validation split."""
    run = make_run()
    steps(run, 1, 3)
    log_events(run, Validated(3, 0.4, 0.3, held_out))
    shown = html.chart(reader.view(run.name)) + html._in_words(Validated(3, 0.4, 0.3, held_out))
    assert shown.count("kept out of training") == (2 if held_out else 0)
    assert shown.count("trained pictures, at fixed noise") == (0 if held_out else 2)
