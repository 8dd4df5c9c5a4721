"""What is proposed is what is measured; strengths, merges and ranks keep what is good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.evaluation.test_drift import DEVICE, on_device
from tests.trainer.lora.helpers import adapter_for, change_of, random_adapter
from tests.trainer.runs_for_tests import make_images
from trainer.config.file import with_values
from trainer.config.resolve import resolve
from trainer.config.schema import TrainingConfig
from trainer.data.cache import TensorCache
from trainer.diffusion import predict
from trainer.errors import UserError
from trainer.evaluation import pictorial, repair
from trainer.evaluation.drift import ProbeSettings, on_model
from trainer.evaluation.meters import MeterBench, Reference
from trainer.evaluation.repair import likenesses, only, put_together, smallest, spill, tune
from trainer.evaluation.surface import Surface, block_of, knobs_of, turn
from trainer.evaluation.target import Target, bench_of
from trainer.lora.adapter import Adapter
from trainer.lora.editing import merge, resize, scaled, without_shared
from trainer.lora.layers import find_targets
from trainer.lora.names import ModuleKey
from trainer.models.base import BaseModel

QUICK = ProbeSettings(timesteps=1, inference_steps=1)
MakeBench = Callable[..., MeterBench]


@pytest.fixture(scope="module")
def sd1(tiny_base: TinyBase) -> BaseModel:
    """A base model that adapters are made for."""
    return on_device(tiny_base("sd1"))


@pytest.fixture(scope="module")
def make_bench(
    tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeBench]:
    """Gives a bench of two pictures whose perfect predictions are those of an adapter."""
    folder = tmp_path_factory.mktemp("repair")
    images = make_images(folder / "images", count=2)
    patch = pytest.MonkeyPatch()
    patch.setattr(pictorial, "_DRAWN", 2)

    def make(name: str, *perfect: Adapter) -> MeterBench:
        base = on_device(tiny_base(name))
        targets: list[Target] = []
        for trigger in ("ohwx", "bnha")[: len(perfect)]:
            values = {"images.path": str(images), "images.resolution": 32}
            values |= {"captions.trigger": trigger, "captions.class_word": "car"}
            config = with_values(TrainingConfig(), values)
            targets.append(Target(resolve(config, base), (), None, has_split=False))
        cache = TensorCache(folder / "cache", lambda _: None)
        bench = bench_of(base, targets, DEVICE, cache, [], QUICK)
        for number, adapter in enumerate(perfect):
            bench.references[number] = _perfect(base, bench, number, adapter)
        return bench

    yield make
    patch.undo()


def _perfect(
    base: BaseModel, bench: MeterBench, number: int, adapter: Adapter
) -> tuple[Reference | None, ...]:
    checked = bench.references[number][0]
    assert checked is not None
    off = [predict(base, one.points, DEVICE) for one in checked.examples]
    with on_model(base, {"perfect": adapter}):
        examples = [
            replace(one, wanted=predict(base, one.points, DEVICE)) for one in checked.examples
        ]
    errors = torch.cat([
        (was - one.wanted).pow(2).mean(dim=(1, 2, 3))
        for was, one in zip(off, examples, strict=True)
    ])  # fmt: skip
    steps = torch.cat([one.points.timesteps for one in examples])
    means = torch.stack([errors[steps == step].mean() for step in steps.unique()])
    losses = replace(checked.base, by_timestep=means)
    return replace(checked, examples=examples, base=losses), None, None


def part_of(base: BaseModel, of_text: bool, seed: int = 0) -> Adapter:
    """A random adapter of the text encoder, or of the UNet."""
    keys = [key for key in find_targets(base) if (key.part != "unet") == of_text]
    return random_adapter(base, dict.fromkeys(keys, (2, 0.5)), seed)


def joined(one: Adapter, other: Adapter) -> Adapter:
    """One with the layers of another as well."""
    return replace(one, layers={**one.layers, **other.layers})


def test_blocks() -> None:
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    names = {
        ModuleKey("unet", path): "unet.down_blocks.1.attentions.0.attn2",
        ModuleKey("unet", "mid_block.resnets.0.conv1"): "unet.mid_block",
        ModuleKey("unet", "conv_in"): "unet",
        ModuleKey("text_encoder_2", "text_projection"): "text_encoder_2",
    }
    assert {key: block_of(key) for key in names} == names


def test_a_surface_is_exact_where_it_was_measured(sd1: BaseModel, make_bench: MakeBench) -> None:
    perfect = part_of(sd1, of_text=False)
    bench = make_bench("sd1", perfect)
    adapter = adapter_for(bench.base, 2, 0.5, seed=5)
    with on_model(bench.base, {"it": adapter}):
        knobs = knobs_of(adapter.layers, "it")
        assert len(knobs) == len({knob.name for knob in knobs}) > 3
        ones = torch.ones(len(knobs), dtype=torch.float64)
        surface = Surface(bench, knobs, ones)
        for number in (None, 0, len(knobs) - 1):
            strengths = ones.clone()
            if number is not None:
                strengths[number] = 0.5
            turn(bench.base, knobs, strengths)
            assert surface.likeness(strengths).tolist() == pytest.approx(
                likenesses(bench), rel=1e-3
            )
            bench.measure()
            foretold = {prompt: float(one) for prompt, one in surface.drift(strengths).items()}
            assert foretold == pytest.approx(bench.last_drifts, rel=1e-3)


def test_tuning_takes_back_what_only_leaks(sd1: BaseModel, make_bench: MakeBench) -> None:
    """The pictures want the UNet's half; the text encoder's moves other prompts."""
    good, bad = part_of(sd1, of_text=False), part_of(sd1, of_text=True, seed=70)
    bench = make_bench("sd1", good)
    both = joined(good, bad)
    found = tune(bench, both, 0.97)
    assert spill(found.after) < spill(found.before)
    assert found.after.likeness is not None and found.before.likeness is not None
    assert found.after.likeness >= 0.97 * found.before.likeness > 0
    assert found.strengths["text_encoder"] < 0.5
    # The file does what the strengths did on the live model.
    with on_model(bench.base, {"it": found.adapter}):
        assert bench.measure()[0].likeness == pytest.approx(found.after.likeness, rel=1e-2)


def test_what_is_drawn_is_kept_as_well(
    sd1: BaseModel, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions get better where an adapter that is overtrained draws worse."""
    good, bad = part_of(sd1, of_text=False), part_of(sd1, of_text=True, seed=70)
    bench = make_bench("sd1", good)
    both = joined(good, bad)
    monkeypatch.setattr(repair, "share_kept", lambda *_: 0.9)
    with pytest.raises(UserError, match="keep the likeness of what it draws"):
        tune(bench, both, 0.97)
    assert smallest(bench, both, 0.97)[0] is both
    monkeypatch.setattr(repair, "share_kept", lambda *_: 0.98)
    assert tune(bench, both, 0.97).drawn == 0.98


@pytest.mark.parametrize(
    ("gained", "now", "kept"),
    [
        ([{"simple": 0.2, "unet": 0.1}], [{"simple": 0.1, "unet": 0.1}], 0.5),
        ([{"simple": 0.2}, {"simple": 0.4}], [{"simple": 0.3}, {"simple": 0.3}], 0.75),
        ([{"simple": 0.01, "unet": -0.1}], [{"simple": 0.0, "unet": 0.0}], 1.0),
        ([{"simple": 0.1}], [{"simple": -0.1}], -1.0),
    ],
)
def test_a_share_of_what_drawings_gained(gained: Any, now: Any, kept: float) -> None:
    assert pictorial.share_kept(gained, now) == pytest.approx(kept)


def test_drawings_gain_by_what_is_on_the_model(sd1: BaseModel, make_bench: MakeBench) -> None:
    adapter = adapter_for(sd1, 2, 4.0, seed=5)
    bench = make_bench("sd1", adapter)
    drawings = pictorial.DrawnLikeness(bench)
    assert drawings.gains() == [{"simple": 0.0, "unet": 0.0}]
    with on_model(bench.base, {"it": adapter}):
        (gained,) = drawings.gains()
    assert any(gained.values()) and drawings.gains() == [{"simple": 0.0, "unet": 0.0}]


def test_ranks_by_likeness_leave_what_brings_nothing(sd1: BaseModel, make_bench: MakeBench) -> None:
    good, idle = part_of(sd1, of_text=False), part_of(sd1, of_text=True, seed=70)
    quiet = scaled(idle, dict.fromkeys(idle.layers, 1e-4))
    bench = make_bench("sd1", good)
    whole = joined(good, quiet)
    found, before, after = smallest(bench, whole, 0.99)
    assert after >= 0.99 * before > 0
    assert {layer.rank for key, layer in found.layers.items() if key in idle.layers} == {1}
    sizes = [sum(layer.rank for layer in one.layers.values()) for one in (whole, found)]
    assert sizes[1] < sizes[0]


def test_together_keeps_no_less_than_addition(sd1: BaseModel, make_bench: MakeBench) -> None:
    pair = [part_of(sd1, of_text=False, seed=seed) for seed in (0, 300)]
    bench = make_bench("sd1", *pair)
    found = put_together(bench, pair, ["one", "two"])
    assert found.alone == pytest.approx([1.0, 1.0], abs=1e-3)
    assert found.cross[0][0] == found.alone[0]
    assert found.merges["addition"] == pytest.approx(found.both, rel=1e-2)
    kept = {way: found.share(each) for way, each in found.merges.items()}
    assert max(kept.values()) == kept[found.best] >= kept["addition"]
    with on_model(bench.base, {"it": found.merged}):
        assert likenesses(bench) == pytest.approx(found.merges[found.best], rel=1e-3)


def test_strengths_that_leave_nothing_of_an_adapter_are_no_way(
    sd1: BaseModel, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [part_of(sd1, of_text=False, seed=seed) for seed in (0, 300)]

    def first_alone(bench: Any, knobs: Any, *_: Any) -> torch.Tensor:
        return torch.tensor([float(knob.adapter == knobs[0].adapter) for knob in knobs])

    monkeypatch.setattr(repair, "_most_kept", first_alone)
    found = put_together(make_bench("sd1", *pair), pair, ["one", "two"])
    assert set(found.merges) == {"addition", "one gives way", "two gives way"}


def test_what_cannot_be_mended(sd1: BaseModel, make_bench: MakeBench) -> None:
    good = part_of(sd1, of_text=False)
    bench = make_bench("sd1", good)
    worse = scaled(good, dict.fromkeys(good.layers, -3.0))
    for mend in (lambda: tune(bench, worse, 0.97), lambda: smallest(bench, worse, 0.99)):
        with pytest.raises(UserError, match="no better than the base model"):
            mend()
    with pytest.raises(UserError, match="known of Stable Diffusion XL"):
        only(bench, good, "style")


def test_halves_of_sdxl_where_the_meters_confirm_them(
    tiny_base: TinyBase, make_bench: MakeBench
) -> None:
    base = on_device(tiny_base("sdxl"))
    keys = [key for key in find_targets(base) if "up_blocks.0.attentions.1" in key.path]
    style = random_adapter(base, dict.fromkeys(keys, (2, 0.5)))
    bench = make_bench("sdxl", style)
    idle = part_of(base, of_text=True, seed=50)
    whole = joined(style, scaled(idle, dict.fromkeys(idle.layers, 1e-3)))
    found = only(bench, whole, "style")
    assert set(found.adapter.layers) == set(keys)
    with pytest.raises(UserError, match=r"no layers in unet\.up_blocks\.0\.attentions\.0"):
        only(bench, whole, "subject")
    others = [key for key in find_targets(base) if "up_blocks.0.attentions.0" in key.path]
    faint = random_adapter(base, dict.fromkeys(others, (2, 1e-3)), seed=9)
    with pytest.raises(UserError, match=r"By itself .* keeps only"):
        only(bench, joined(whole, faint), "subject")


def test_without_shared_reads_nothing_that_the_other_reads(sd1: BaseModel) -> None:
    one, other = adapter_for(sd1, 2), adapter_for(sd1, 3, seed=500)
    apart = without_shared(one, [other])
    for key, layer in apart.layers.items():
        read = other.layers[key].down.double().flatten(1)
        assert float((change_of(layer).flatten(1) @ read.T).norm()) < 1e-5
    assert merge([(apart, 1.0), (other, 1.0)], ["a", "b"]).ranks == [5]


def test_scaled_layers_and_ranks_of_their_own(sd1: BaseModel) -> None:
    adapter = adapter_for(sd1, 4)
    first, *rest = adapter.layers
    half = scaled(adapter, {first: 0.0, **dict.fromkeys(rest, 0.5)})
    assert [*half.layers] == rest
    assert torch.allclose(change_of(half.layers[rest[0]]), 0.5 * change_of(adapter.layers[rest[0]]))
    with pytest.raises(UserError, match="without any layer"):
        scaled(adapter, dict.fromkeys(adapter.layers, 0.0))
    ranks = {key: 1 + number % 3 for number, key in enumerate(adapter.layers)}
    assert {key: layer.rank for key, layer in resize(adapter, ranks=ranks).layers.items()} == ranks
