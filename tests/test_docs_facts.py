"""Numbers in the documentation that need torch to be checked."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import first_command
from trainer.config.concepts import preserved_share
from trainer.config.presets import apply_preset
from trainer.config.schema import TrainingConfig
from trainer.evaluation import drift, likeness, listening, meters, overall, prompts, verdicts
from trainer.memory.prediction import CONTEXT_GIB, FRAGMENTATION
from trainer.models.families import FAMILIES, FamilyName
from trainer.places import PROJECT
from trainer.preservation.rows import RowSchedule


def text_of(name: str) -> str:
    """A page's text, without line breaks."""
    return " ".join((PROJECT / name).read_text(encoding="utf-8").split())


def test_what_measuring_costs() -> None:
    drawn = 2 * prompts.WORDINGS + prompts.NEIGHBOURS + prompts.UNRELATED + 1  # and the empty one
    of_drift = drawn * drift.ProbeSettings().timesteps
    of_pictures = 3 * meters.PICTURES * likeness.TIMESTEPS
    assert f"{of_drift + of_pictures} predictions" in text_of("docs/measuring.md")
    assert f"({of_drift} for drift" in text_of("docs/measuring.md")
    assert f"{of_drift + of_pictures} with pictures" in (meters.MeterBench.__doc__ or "")


def test_the_bounds_of_the_verdict() -> None:
    text = text_of("docs/measuring.md")
    for said in (
        f"*learned* from {overall.WORKS}",
        f"**Partly**: from {overall.PARTLY}",
        f"(*learned* {overall.PARTLY}, or likeness {overall.LIKE})",
        f"*taken* is above {overall.TAKEN}",
        f"or above {overall.TAKEN_SOME} where a finding says",
        f"farther than the set is (*moved* {overall.OVERSHOT})",
        f"*moved* is above {overall.MOVED}, or above {overall.MOVED_SOME} with a likeness below "
        f"{overall.FOREIGN}",
        f"*listens* below {listening.DEAF}",
        f"more than {verdicts.CLASS_LEAK} times as far",
        f"collateral above {verdicts.COLLATERAL}",
        f"more than {verdicts.GAP_SHARE} of the trained pictures",
        f"at least {verdicts.AS_GOOD} of the best likeness",
        f"likeness below {verdicts.WEAK_LIKENESS}",
    ):
        assert said in text, said


@pytest.mark.parametrize("name", ["README.md", "docs/measuring.md"])
def test_every_verdict_is_named(name: str) -> None:
    text = text_of(name)
    codes = set(get_args(overall.VerdictCode)) - {"unmeasured"}
    assert all(code.replace("_", " ") in text for code in codes)


@pytest.mark.parametrize(
    ("family", "size", "forward", "step"), [("sd1", 64, 0.80, 1.6), ("sdxl", 128, 6.76, 20)]
)
def test_how_much_a_picture_takes(
    family: FamilyName, size: int, forward: float, step: float
) -> None:
    """What docs/first-adapter.md reckons with: forward and backward, and forward once more where
    SDXL's activations are computed again. The backward pass has no gradients of weights."""
    config = json.loads(
        (FAMILIES[family].config_folder("epsilon") / "unet/config.json").read_text()
    )
    more: dict[str, Any] = {}
    with torch.device("meta"):
        unet = cast("UNet2DConditionModel", UNet2DConditionModel.from_config(config))
        text = torch.randn(1, 77, config["cross_attention_dim"])
        if family == "sdxl":
            more = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
        with FlopCounterMode(display=False) as counter:
            unet(torch.randn(1, 4, size, size), torch.tensor([1]), text, added_cond_kwargs=more)
    found = counter.get_total_flops() / 1e12
    assert found == pytest.approx(forward, abs=0.01)
    assert (3 if family == "sdxl" else 2) * found == pytest.approx(step, rel=0.02)
    assert f"{step:g} TFLOP" in text_of("docs/first-adapter.md")


@pytest.mark.parametrize(("place", "preset", "each"), [(0, "normal", 1.6), (1, "sdxl-11gb", 20)])
def test_how_long_a_card_is_reckoned_to_take(place: int, preset: str, each: float) -> None:
    """docs/first-adapter.md: steps, pictures of a step, TFLOP of each, half of what is rated."""
    text = (PROJECT / "docs/first-adapter.md").read_text(encoding="utf-8")
    config = apply_preset(TrainingConfig(), preset)
    batch = config.training.batch_size * config.training.accumulation
    every = config.preservation.every
    pictures = batch + RowSchedule(preserved_share(config), every, batch).count(batch)
    assert (pictures, every) == (5, 1) and "five pictures a step" in text
    assert f"`{preset}`, {config.training.steps:,} steps |" in text
    rows = re.findall(r"^\| [\w ]+, (\d+) TFLOPS \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) > 3 and "half of the card's rated speed" in text
    for rated, *told in rows:
        seconds = config.training.steps * max(0.2, pictures * each / (0.5 * int(rated)))
        hours = seconds > 2 * 3600
        said = f"{seconds / 3600:.1f} hours" if hours else f"{seconds / 60:.0f} minutes"
        assert told[place] == said, rated
    assert "no step under 0.2 seconds" in text


def test_what_the_guide_says_of_memory() -> None:
    """Predicted and measured figures are those of the lab report; what is assumed is the code's."""
    report = (PROJECT / "docs/notes/speed-and-memory.md").read_text(encoding="utf-8")
    on_a_gpu = report.split("## On a GPU")[1].split("- **With")[0]
    off = [abs(float(one)) for one in re.findall(r"\| ([-+][\d.]+) % \|", on_a_gpu)]
    guide = text_of("docs/speed-and-memory.md")
    assert len(off) > 10 and f"{min(off)} to {max(off)} % more tensors than predicted" in guide
    assert f"up to {max(off)} % more than predicted" in text_of("docs/first-adapter.md")
    for row, said in (
        ("SD 1.5, 512 px, batch 1, text encoder trained", "text encoder is predicted to take {}"),
        ("SDXL, 1024 px, batch 1, UNet only", "SDXL at 1024 px {}"),
    ):
        found = re.search(rf"^\| {row} \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|", report, re.MULTILINE)
        assert found is not None and said.format(f"{found[1]} GiB") in guide
    assert f"{CONTEXT_GIB} GiB for CUDA itself, and {FRAGMENTATION:.0%}" in guide.replace(" %", "%")


def test_how_long_the_first_command_takes() -> None:
    """The README's minutes are those that `benchmarks.first_command` measured of this command."""
    found = json.loads(first_command.RESULT.read_text(encoding="utf-8"))
    assert found["command"] == first_command.first_command()
    minutes = math.ceil(found["cpu_seconds"] / 60)
    said = f"{TrainingConfig().training.steps} steps, at most {minutes} minutes of one core"
    assert f"{said} of an {found['machine']}" in text_of("README.md")


def test_what_good_numbers_are() -> None:
    """Those of the first adapter are those of the study's good adapters, and of the verdict."""
    study = text_of("docs/notes/measuring.md").split("| good: ")[1].split(" | ")
    _, _, likely, _, class_word, neighbours, *_ = study
    first = text_of("docs/first-adapter.md")
    assert f"*likeness* of {likely}" in first
    highest = max(float(share.split(" to ")[1]) for share in (class_word, neighbours))
    assert f"*leak* up to {highest:.2f}; above {verdicts.CLASS_LEAK} it leaks" in first


def test_defaults_that_pages_name() -> None:
    config = TrainingConfig()
    assert "400 steps" in text_of("README.md") and config.training.steps == 400
    assert "the last two exact training states" in text_of("docs/command-line.md")
    assert config.checkpoints.keep == 2
    assert Path("runs/ohwx/adapters/step-000300.safetensors").name in text_of("docs/generating.md")
    assert 300 % config.evaluation.every == 0


def test_what_preservation_costs_and_does() -> None:
    """The round numbers that the guide gives are those of the lab report."""
    report = (PROJECT / "docs/notes/subjects.md").read_text(encoding="utf-8")
    (time,) = re.findall(r"^\| default \| \d+ \| ([\d.]+) \|$", report, re.MULTILINE)
    halves = r"^\| default \| 12 (?:\| [^|]+ ){3}\| [\d.]+ \(([\d.]+) to ([\d.]+)\) \|"
    moved = [share for interval in re.findall(halves, report, re.MULTILINE) for share in interval]
    guide = text_of("docs/keeping-the-rest-still.md")
    assert f"about {float(time):.1f} times as long" in guide
    assert f"the class word moves {min(moved)} to {max(moved)} times as far" in guide
