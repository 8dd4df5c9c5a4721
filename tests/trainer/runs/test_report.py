"""The report: everything in one page, nothing from elsewhere, every text only text."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.logs_for_tests import log_events
from trainer.config.fields import all_fields
from trainer.config.file import read_config, with_values, write_config
from trainer.config.schema import TrainingConfig
from trainer.events import Ended, Evaluated, Meters, Prepared, StepDone, Warned
from trainer.runs.board import read_board, spread
from trainer.runs.layout import RunFolder, create_run
from trainer.runs.log import read_events
from trainer.runs.report import base_kind, step_points, write_report

HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\u202e'
VOID = {"meta", "img", "input", "br", "line", "circle", "path"}


class Page(HTMLParser):
    """What a browser would find: tags, attributes and visible text; refuses what is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [values[name] for found, values in self.tags if found == tag and name in values]


def png(side: int, shade: int) -> bytes:
    """A grey picture."""
    Image.new("L", (side, side), shade).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def add_previews(run: RunFolder, step: int, prompts: list[str], side: int = 64) -> None:
    folder = run.preview(step)
    folder.mkdir(parents=True)
    records = [
        {"file": f"{number:02d}.png", "prompt": prompt, "seed": 1, "strength": 1}
        for number, prompt in enumerate(prompts)
    ]
    for number, record in enumerate(records):
        (folder / str(record["file"])).write_bytes(png(side, (step + number) % 256))
    (folder / "prompts.json").write_text(json.dumps(records))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run with curves and previews."""
    run = create_run(tmp_path, "rabbit")
    values = {
        "captions.trigger": "ohwx",
        "captions.class_word": "rabbit",
        "images.path": "/home/somebody/secret/pictures",
        "adapter.rank": 7,
        "training.steps": 50,
    }
    write_config(run.config, with_values(TrainingConfig(), values))
    log_events(
        run,
        Prepared(total_steps=50),
        *(StepDone(step, 1 / step, None, 1e-4, 1.0, 2.0) for step in range(1, 51)),
        Warned("two captions are empty"),
        Ended(50, "finished", "", "all layers verified"),
    )
    for step in (0, 25, 50):
        add_previews(run, step, ["ohwx rabbit", "rabbit"])
    run.adapter.write_bytes(b"x" * 2_500_000)
    return run


def test_page_says_what_there_is_to_say(run: RunFolder) -> None:
    page = Page(write_report(run))
    for text in (
        *("rabbit", "ohwx rabbit", "Finished.", "all layers verified", "50 of 50", "1 min 40 s"),
        *("2.5 MB", "two captions are empty", "Previews", "Curves", "base model", "step 25"),
        *("diffusers", "python launch.py generate", "InvokeAI need an adapter that was"),
    ):
        assert text in page.text, text
    assert [tag for tag, _ in page.tags].count("svg") == 2
    assert "Generate panel" not in page.text  # of tools that cannot read it


def test_the_verdict_comes_first_and_then_the_tools_that_read_it(run: RunFolder) -> None:
    config = with_values(read_config(run.config), {"base.name": "someone/model"})
    write_config(run.config, config)
    for code, state in (("works", "finished"), ("partly", "stopped"), ("not_yet", "failed")):
        run.evaluation.write_text(json.dumps({"verdict": {"code": code, "says": "So it is."}}))
        page = Page(write_report(run))
        said = run.report.read_text(encoding="utf-8")
        assert f'<p class="state {state}"><bdi>So it is.</bdi>' in said
        assert page.text.index("So it is.") < page.text.index("Previews")
    for text in ("AUTOMATIC1111 and Forge", "Load LoRA", "Generate panel", "<lora:rabbit:1>"):
        assert text in page.text, text


def test_every_setting_is_there_and_changed_ones_stand_out(run: RunFolder) -> None:
    path = write_report(run)
    page = Page(path)
    for field in all_fields().values():
        assert field.description in page.text
    html = path.read_text(encoding="utf-8")
    changed = re.findall(r'<td class="changed"><bdi>(.*?)</bdi>', html)
    assert "secret" not in html  # private folders are not told
    assert sorted(changed) == ["50", "7", "ohwx", "pictures", "rabbit"]


def test_page_asks_nothing_of_the_network_and_runs_nothing(run: RunFolder) -> None:
    page = Page(write_report(run))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    assert all(uri.startswith("data:image/png;base64,") for uri in page.attributes("img", "src"))
    style = "".join(re.findall(r"<style>.*?</style>", run.report.read_text(), re.DOTALL))
    assert "url(" not in style and "@import" not in style
    assert any("default-src 'none'" in policy for policy in page.attributes("meta", "content"))


def test_pictures_are_the_files_byte_for_byte(run: RunFolder) -> None:
    page = Page(write_report(run))
    shown = sorted(base64.b64decode(uri.split(",")[1]) for uri in page.attributes("img", "src"))
    assert shown == sorted(path.read_bytes() for path in run.previews.rglob("*.png"))
    assert set(page.attributes("img", "class")) == {"small-picture"}
    assert set(page.attributes("img", "width")) == {"64"}


def test_large_pictures_are_not_pixelated(tmp_path: Path) -> None:
    run = create_run(tmp_path, "large")
    add_previews(run, 10, ["a"], side=512)
    assert Page(write_report(run)).attributes("img", "class") == []


def test_hostile_texts_are_shown_as_texts(run: RunFolder) -> None:
    """FAULTS 21."""
    texts = ("captions.trigger", "captions.class_word", "output.name", "base.name")
    values: dict[str, object] = dict.fromkeys(texts, HOSTILE[:60])
    values["output.description"] = "x" * 2000
    write_config(run.config, with_values(TrainingConfig(), values))
    log_events(run, Warned(HOSTILE), Ended(50, "failed", "", HOSTILE))
    add_previews(run, 75, [HOSTILE, "ohwx " + "y" * 5000])
    page = Page(write_report(run))
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(uri.startswith("data:") for uri in page.attributes("img", "src"))
    assert not any(name.startswith("on") for _, values in page.tags for name in values)
    assert HOSTILE in page.text
    assert "x" * 500 not in page.text and "y" * 500 not in page.text


def test_commands_on_the_page_survive_quotes(run: RunFolder) -> None:
    """What is pasted into a shell or into Python stays one word."""
    values = {"captions.trigger": "$(touch x)'\"", "base.name": "/models/my model.safetensors"}
    write_config(run.config, with_values(TrainingConfig(), values))
    page = Page(write_report(run))
    assert "--prompt 'a picture of $(touch x)'\"'\"'\"'" in page.text
    assert "--base 'my model.safetensors'" in page.text
    assert '("cuda")("a picture of $(touch x)\'\\"")' in page.text
    assert "from_single_file(base" in page.text


@pytest.mark.parametrize(
    "events",
    [
        [],
        [{"event": "start", "step": 0}],
        [{"event": "step", "step": 1, "loss": "nan", "learning_rate": "inf", "seconds": 1}],
        [{"event": "step", "step": "x"}, {"event": "step"}, {"event": "end"}],
        [{"event": "preview"}, {"event": "evaluation"}, {"event": "evaluation", "leak": 0.5}],
    ],
)
def test_page_of_a_run_in_any_state(events: list[dict[str, object]], tmp_path: Path) -> None:
    run = create_run(tmp_path, "young")
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    page = Page(write_report(run))
    assert "cannot read" in page.text  # there is no config.toml


def test_meters_of_the_last_evaluation(run: RunFolder) -> None:
    log_events(run, Evaluated(10, Meters(0.1, 0.0375)), Evaluated(20, Meters(0.72, 0.09)))
    page = Page(write_report(run))
    assert "0.72" in page.text and "0.125" in page.text and "0.375" not in page.text


def test_where_it_overfits_is_drawn_over_the_run(run: RunFolder) -> None:
    title = "Trained pictures ahead of the others"
    assert title not in Page(write_report(run)).text
    gaps = Meters(0.1, held_out=3, gap_low_noise=0.3, gap_middle_noise=0.2, gap_high_noise=0.1)
    log_events(run, Evaluated(10, gaps), Evaluated(20, gaps))
    page = Page(write_report(run))
    assert title in page.text
    assert all(label in page.text for label in ("little noise", "some", "much"))


def test_steps_done_again_after_a_resume_count_once(run: RunFolder) -> None:
    log_events(run, Prepared(step=40), StepDone(41, 9.0))
    points = step_points(read_events(run), StepDone, "loss")
    assert [step for step, _ in points] == list(range(1, 42))
    assert points[-1] == (41, 9.0)
    page = Page(write_report(run))
    assert "41 of 50" in page.text and "Not finished yet." in page.text


def test_board_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run(tmp_path, "long")
    for step in range(0, 2000, 100):
        add_previews(run, step, ["a"])
    board = read_board(run)
    assert (board.steps[0], board.steps[-1], len(board.steps)) == (0, 1900, 8)
    assert board.skipped == 12
    monkeypatch.setattr("trainer.runs.board._MOST_BYTES", 400)
    assert len(read_board(run).steps) < 8


def test_board_leaves_out_what_is_not_a_preview(run: RunFolder) -> None:
    (run.preview(25) / "00.png").write_bytes(b"<html>")
    (run.preview(50) / "01.png").unlink()
    (run.preview(0) / "prompts.json").write_text("{")
    secret = run.path / "secret.png"
    secret.write_bytes(png(1, 0))
    records = json.loads((run.preview(50) / "prompts.json").read_text())
    records.append({"file": "../../secret.png", "prompt": "outside", "seed": 1})
    records.append({"prompt": "no file"})
    (run.preview(50) / "prompts.json").write_text(json.dumps(records))
    board = read_board(run)
    assert board.steps == (25, 50)
    shown = {row.prompt: [len(cell) for cell in row.cells] for row in board.rows}
    assert shown == {"rabbit": [1, 0], "ohwx rabbit": [0, 1]}


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(3, 8, [0, 1, 2]), (9, 3, [0, 4, 8]), (100, 2, [0, 99]), (0, 8, [])],
)
def test_spread(count: int, most: int, expected: list[int]) -> None:
    assert spread(range(count), most) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tiny-emoji", "built-in"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "hub"),
        ("/somewhere/model", "folder"),
        ("./model", "folder"),
        ("somewhere/model.safetensors", "file"),
    ],
)
def test_base_kind(name: str, kind: str) -> None:
    assert base_kind(name) == kind
