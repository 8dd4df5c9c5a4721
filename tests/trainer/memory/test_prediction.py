"""What `fit` says, for families without weights and for models on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images
from trainer.commands.cli import main
from trainer.config.file import with_values
from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.errors import UserError
from trainer.memory.modes import Mode, memory_mode_of, smaller_modes
from trainer.memory.phases import StepMemory, Workload, build, step_memory
from trainer.memory.prediction import PHASES, STEP, Fit, predict
from trainer.models.identify import read_facts


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def asked(base: Path | str, vram: float | None = None, **changes: Any) -> Fit:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    values = {"base.name": str(base), **values}
    return predict(with_values(TrainingConfig(), values), vram)


@pytest.mark.parametrize(
    ("name", "millions"), [("sd15", 860 + 123), ("sd2", 866 + 340), ("sdxl", 2567 + 123 + 695)]
)
def test_full_sizes_are_known_without_weights(name: str, millions: int) -> None:
    """The parameters of the UNet and the text encoders, as the models' papers give them."""
    base = build(read_facts(name), torch.bfloat16)
    modules = [base.unet, *base.text_encoders]
    count = sum(p.numel() for module in modules for p in module.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_long_captions_of_the_set_need_more(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    (images / "1.txt").write_text("red " * 100)
    short, long = (
        asked(
            tiny_base("sd1"),
            images__resolution=64,
            images__path=str(images),
            captions__max_tokens=most,
            adapter__targets="attention",
        )
        for most in (75, 225)
    )
    assert (short.caption_tokens, long.caption_tokens) == (75, 150)
    assert long.parts["activations"] > short.parts["activations"]


def test_the_largest_of_several_resolutions_counts(tiny_base: TinyBase) -> None:
    several = asked(tiny_base("sd1"), images__resolutions=[32, 64])
    assert several.parts == asked(tiny_base("sd1"), images__resolution=64).parts
    with pytest.raises(UserError, match="33 is not a multiple"):
        asked(tiny_base("sd1"), images__resolutions=[33, 64])


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_parts_make_up_the_peak(tiny_base: TinyBase, name: str) -> None:
    found = asked(tiny_base(name), 8.0, images__resolution=64)
    step = sum(found.parts[part] for part in STEP)
    largest = max(step, *(found.parts[phase] for phase in PHASES))
    assumed = found.parts["context"] + found.parts["fragmentation"]
    assert found.peak_gib == pytest.approx(largest + assumed, abs=0.01)
    assert found.fits and found.plan == {} and found.plan_fits
    # Moments of Adam: two for each parameter of the adapter.
    assert found.parts["optimizer"] == pytest.approx(2 * found.parts["adapter"], abs=0.002)


def test_more_of_anything_needs_more(tiny_base: TinyBase) -> None:
    def activations(**changes: Any) -> float:
        values = {"images__resolution": 256, "preservation__weight": 0.0, **changes}
        return asked(tiny_base("sd1"), 8.0, **values).parts["activations"]

    plain = activations()
    assert activations(training__batch_size=8) > 1.5 * plain
    assert activations(images__resolution=512) > 2 * plain
    assert activations(preservation__weight=1.0) > 1.15 * plain
    assert activations(training__precision="fp32") > 1.5 * plain


def test_each_kind_of_adapter_is_followed(tiny_base: TinyBase) -> None:
    facts = read_facts(str(tiny_base("sd1")))

    def step(mode: Mode = "lean", **adapter: Any) -> StepMemory:
        config = AdapterConfig.model_validate(adapter)
        return step_memory(facts, Workload(64, 64, "bf16", config, 1, mode, False))

    lora, loha, lokr = (step(kind=kind) for kind in ("lora", "loha", "lokr"))
    assert lokr.adapter < lora.adapter < loha.adapter
    assert step("plain", kind="loha").activations > 1.1 * loha.activations
    assert step(t_lora_min_rank=1).activations > lora.activations


def test_each_mode_needs_less(tiny_base: TinyBase) -> None:
    def activations(**changes: Any) -> float:
        values = {"images__resolution": 256, "training__batch_size": 4, **changes}
        return asked(tiny_base("sdxl"), 8.0, **values).parts["activations"]

    ladder = [
        activations(memory__mode="plain"),
        activations(memory__mode="lean"),
        activations(memory__mode="feed_forward"),
        activations(memory__mode="lean", training__gradient_checkpointing=True),
    ]
    assert ladder == sorted(ladder, reverse=True) and len(set(ladder)) == 4
    lean = activations()
    assert activations(memory__preserve_apart=True) < 0.9 * lean
    assert activations(memory__pictures_at_once=2) < 0.65 * lean


def test_the_plan_fits_and_asking_again_agrees(tiny_base: TinyBase) -> None:
    base, size = tiny_base("sd1"), 512
    roomy = asked(base, 8.0, images__resolution=size)
    card = roomy.peak_gib - 0.6 * roomy.parts["activations"]
    found = asked(base, card, images__resolution=size)
    assert not found.fits and found.plan_fits and found.plan_peak_gib <= card
    assert found.plan and found.slowdown >= 1
    values = {"base.name": str(base), "images.resolution": size, **found.plan}
    again = predict(with_values(TrainingConfig(), values), card)
    assert again.fits and again.peak_gib == pytest.approx(found.plan_peak_gib, abs=0.02)


def test_settings_without_effect_are_named(tiny_base: TinyBase) -> None:
    found = asked(tiny_base("sd1"), 8.0, images__resolution=64, objective__min_snr_gamma=3.0)
    (idle,) = found.as_dict()["idle"]
    assert idle["field"] == "objective.min_snr_gamma" and "debiased" in idle["message"]


def test_weights_in_fewer_bits_are_the_last_resort(tiny_base: TinyBase) -> None:
    """On a card that is too small for every mode with the weights as they are."""
    base, size = tiny_base("sdxl"), {"images__resolution": 64}
    nothing = asked(base, 0.1, **size)
    assert not nothing.fits and not nothing.plan_fits
    assert nothing.plan_peak_gib <= nothing.peak_gib
    assert nothing.plan["memory.base_weights"] == "4bit"
    most = asked(base, 8.0, training__gradient_checkpointing=True, **size)
    assert "memory.base_weights" not in asked(base, most.peak_gib, **size).plan


def test_the_ladder_goes_down_once() -> None:
    first = memory_mode_of(TrainingConfig())
    below = list(smaller_modes(first))
    assert first not in below and len(set(below)) == len(below)
    costs = [mode.cost for mode in below]
    assert costs == sorted(costs)
    assert min(mode.rows for mode in below) == 1


def test_command_prints_json(tiny_base: TinyBase, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--base", str(tiny_base("sd1")), "--resolution", "64", "--vram", "6", "--json"]
    assert main(["fit", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"peak_gib", "parts", "fits", "plan"} <= set(found)
    assert found["vram_gib"] == 6 and found["fits"] is True
    assert main(["fit", *arguments[:-1]]) == 0
    assert "It fits." in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["--resolution", "500"], ["--vram", "0"], ["--base", "no-such-model"], ["--preset", "x"]],
)
def test_mistakes_are_one_sentence(
    tiny_base: TinyBase, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["fit", "--base", str(tiny_base("sd1")), *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_page_asks_the_same(tiny_base: TinyBase) -> None:
    from trainer.commands.worker import verb_table
    from trainer.generation.studio import Studio

    values = {"base.name": str(tiny_base("sd1")), "images.resolution": 64}
    config = with_values(TrainingConfig(), values)
    verb = verb_table(Studio())["fit"]
    found = verb({"config": config.model_dump(mode="json"), "vram": 6}, lambda *_: None)
    assert found == predict(config, 6.0).as_dict()
