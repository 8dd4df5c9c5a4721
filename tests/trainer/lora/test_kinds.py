"""Kinds of adapters: LoCon, rsLoRA and DoRA start as nothing, learn everywhere and are exported."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import TinyBase
from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    NAMES,
    adapter_config,
    all_equal,
    change_of,
    denoise,
    nudge,
    outputs,
    random_tensor,
    written,
)
from tests.trainer.lora.test_reading import lycoris_dora, read
from trainer.errors import UserError
from trainer.lora.adapter import Adapter, Magnitude
from trainer.lora.attach import attach, detach, set_strength
from trainer.lora.baking import bake
from trainer.lora.changes import change_on, compare, energy_of
from trainer.lora.editing import approximate, merge, resize
from trainer.lora.inspection import inspect_file
from trainer.lora.layers import (
    adapted_layers,
    find_layers,
    find_targets,
    parameters_on,
)
from trainer.lora.loading import collect, load_into, plain_on
from trainer.lora.names import ModuleKey, Targets, kohya_name
from trainer.lora.verify import verify_file
from trainer.lora.writing import write_adapter
from trainer.models.base import BaseModel
from trainer.models.load import load_base

# Of the tiny models: layers of the UNet and of all text encoders together.
COUNTS: dict[tuple[str, Targets], tuple[int, int]] = {
    ("sd1", "attention"): (32, 8),
    ("sd2", "attention"): (32, 8),
    ("sdxl", "attention"): (64, 12),
    ("sd1", "feed-forward"): (48, 12),
    ("sd1", "convolution"): (79, 12),
    ("sd2", "convolution"): (79, 12),
    ("sdxl", "feed-forward"): (88, 18),
    ("sdxl", "convolution"): (119, 18),
}


# Plain ones on each kind of layers; the others on all of them at once, and in bf16 of one family.
KINDS = ("lora", "rslora", "dora", "loha", "lokr")
FRESH: list[tuple[str, Targets, str, torch.dtype]] = [
    *((family, targets, "lora", torch.float32) for family, targets in COUNTS),
    *((family, "convolution", kind, torch.float32) for family in NAMES for kind in KINDS[1:]),
    *(("sdxl", "convolution", kind, torch.bfloat16) for kind in KINDS),
]


@pytest.mark.parametrize(("family", "targets", "kind", "dtype"), FRESH)
def test_a_fresh_adapter_changes_nothing_and_learns_everywhere(
    base_of: BaseOf, family: str, targets: Targets, kind: str, dtype: torch.dtype
) -> None:
    base = base_of(family, dtype)
    before, random_state = outputs(base), torch.get_rng_state()
    attachment = attach(base, adapter_config(rank=3, kind=kind, targets=targets), seed=0)
    unet = attachment.layers["unet"]
    assert (unet, sum(attachment.layers.values()) - unet) == COUNTS[family, targets]
    assert all_equal(outputs(base), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    named = [(f"{part}.{n}", p) for part, some in attachment.parameters.items() for n, p in some]
    each = {"dora": [3], "loha": [4], "lokr": [2, 3]}.get(kind, [2])  # matrices
    assert {name.rpartition(".")[0] for name, _ in named} == set(map(str, adapted_layers(base)))
    assert len(named) / sum(attachment.layers.values()) >= each[0]
    assert len(named) / sum(attachment.layers.values()) <= each[-1]
    nudge(base)
    denoise(base).float().square().sum().backward()
    assert [name for name, p in named if p.grad is None or not p.grad.any()] == []
    assert {p.dtype for _, p in named} == {torch.float32}
    detach(base)
    assert all_equal(outputs(base), before)


@pytest.mark.parametrize("kind", ["lora", "rslora"])
@pytest.mark.parametrize(("rank", "alpha"), [(1, 2.0), (3, 2.0), (9, 0.5), (16, None)])
def test_the_scale_of_a_layer(
    base_of: BaseOf, tmp_path: Path, kind: str, rank: int, alpha: float | None
) -> None:
    """alpha / rank; of rsLoRA (arXiv 2312.03732) alpha / √rank: on the live model and in the file,
    which every tool reads as alpha / rank."""
    base = base_of("sd1")
    attach(base, adapter_config(rank=rank, alpha=alpha, kind=kind, unet=False), seed=0)
    nudge(base)
    scale = (rank if alpha is None else alpha) / (math.sqrt(rank) if kind == "rslora" else rank)
    for key, layer in adapted_layers(base).items():
        down, up = parameters_on(layer, "default").values()
        inputs = random_tensor(0, 3, down.shape[1])
        change = layer(inputs) - find_layers(base)[key].original(inputs)
        torch.testing.assert_close(change, scale * inputs @ (up @ down).T, atol=1e-4, rtol=1e-4)
    adapted, live = outputs(base), collect(base)
    detach(base)
    saved = written(live, tmp_path / "a.safetensors", precision="fp32")
    for layer in saved.layers.values():
        assert layer.alpha / layer.rank == pytest.approx(scale, rel=1e-6)
    load_into(base, saved, "again")
    assert all_equal(outputs(base), adapted)


@torch.no_grad()
def trained(base: BaseModel, targets: Targets, kind: str = "dora") -> Adapter:
    """An adapter as after training, still on the base."""
    attach(base, adapter_config(rank=3, alpha=2.0, kind=kind, targets=targets), seed=0)
    nudge(base)
    for index, layer in enumerate(adapted_layers(base).values()):
        magnitude = parameters_on(layer, "default").get("magnitude")
        if magnitude is not None:
            magnitude *= 1 + 0.2 * random_tensor(1000 + index, *magnitude.shape)
    return collect(base)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_a_loaded_adapter_gives_what_the_trained_one_gave(
    base_of: BaseOf, family: str, kind: str
) -> None:
    base = base_of(family)
    plain = outputs(base)
    adapter = trained(base, "convolution", kind)
    live = outputs(base)
    detach(base)
    load_into(base, adapter, "again")
    for part, result in outputs(base).items():
        change = (live[part] - plain[part]).norm()
        assert change > 0.01 * plain[part].norm()
        assert (result - live[part]).norm() <= (0 if kind == "lora" else 1e-5) * change
    set_strength(base, "again", 0.0)
    assert all_equal(outputs(base), plain)
    if kind == "lora":
        assert plain_on(base, adapter).layers == adapter.layers


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("rank", [2, 64])
def test_loha_and_lokr_are_written_as_lycoris_does(
    base_of: BaseOf, tmp_path: Path, family: str, kind: str, rank: int
) -> None:
    """LyCORIS's names and shapes; no scale where W1 and W2 are whole, since tools heed none."""
    base = base_of(family)
    config = adapter_config(
        kind=kind, rank=rank, alpha=1.5, targets="convolution", factor=4,
        ranks=["unet.mid_block.* = 3"],
    )  # fmt: skip
    attach(base, config, seed=0)
    nudge(base)
    adapter, path = collect(base), tmp_path / "a.safetensors"
    assert adapter.dead_layers() == []
    detach(base)
    saved = written(adapter, path, precision="fp32")
    assert compare(adapter, saved).exact and saved.kinds == [{"loha": "LoHa"}.get(kind, "LoKr")]
    tensors = load_file(path)
    for key, live in find_layers(base).items():
        own = f"{kohya_name(base.family.name, key)}."
        mine = {n.removeprefix(own): t for n, t in tensors.items() if n.startswith(own)}
        if not mine:
            continue
        alpha = float(mine.pop("alpha"))
        if kind == "loha":
            change = mine["hada_w1_a"] @ mine["hada_w1_b"] * (mine["hada_w2_a"] @ mine["hada_w2_b"])
            assert len(mine) == 4
            change *= alpha / len(mine["hada_w1_b"])
        else:
            second = mine.get("lokr_w2")
            if second is None:
                second = mine["lokr_w2_a"] @ mine["lokr_w2_b"] * alpha / len(mine["lokr_w2_b"])
            first = mine["lokr_w1"]
            change = torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - 2)), second)
        expected = change_on(adapter.layers[key], live.weight)
        torch.testing.assert_close(change.reshape(expected.shape).double(), expected)
    with pytest.raises(UserError, match="diffusers layout does not hold"):
        write_adapter(adapter, path, "diffusers")


def by_hand(weight: Tensor, change: Tensor, lengths: Tensor, by: str) -> Tensor:
    """The weight of DoRA, one row or column after the other."""
    turned = (weight.double() + change).movedim(0 if by == "rows" else 1, 0)
    pieces = [length * piece / piece.norm() for piece, length in zip(turned, lengths, strict=True)]
    return torch.stack(pieces).movedim(0, 0 if by == "rows" else 1)


@pytest.mark.parametrize("by", ["rows", "columns"])
def test_dora_is_its_formula(base_of: BaseOf, by: str) -> None:
    base = base_of("sd1")
    adapter = trained(base, "convolution")
    detach(base)
    live = find_layers(base)
    kernels = set()
    for index, (key, layer) in enumerate(adapter.layers.items()):
        weight = live[key].weight
        count = weight.shape[0 if by == "rows" else 1]
        lengths = random_tensor(index, count).abs()
        dora = replace(layer, magnitude=Magnitude(lengths, "rows" if by == "rows" else "columns"))
        expected = by_hand(weight, change_of(layer), lengths, by) - weight.double()
        torch.testing.assert_close(change_on(dora, weight), expected.flatten(1))
        kernels.add(tuple(weight.shape[2:]))
    assert kernels == {(), (1, 1), (3, 3)}


def test_a_row_without_length_stays_as_it_is(base_of: BaseOf) -> None:
    layer = next(iter(trained(base_of("sd1"), "attention").layers.values()))
    empty = torch.zeros(layer.shape)
    magnitude = Magnitude(torch.zeros(len(empty)), "rows")
    still = replace(layer, up=torch.zeros_like(layer.up), magnitude=magnitude)
    assert not change_on(still, empty).any()


def full_change(base: BaseModel, adapter: Adapter) -> dict[ModuleKey, Tensor]:
    live = find_layers(base)
    return {key: change_on(layer, live[key].weight) for key, layer in adapter.layers.items()}


@pytest.mark.parametrize("family", NAMES)
def test_the_stated_difference_of_a_plain_adapter_is_the_true_one(
    base_of: BaseOf, family: str
) -> None:
    base = base_of(family)
    adapter = trained(base, "convolution")
    exact = full_change(base, adapter)
    shares = []
    for rank in (2, 6, 1000):
        found = approximate(base, adapter, rank=rank)
        assert not found.adapter.needs_base
        assert {layer.rank for layer in found.adapter.layers.values()} <= set(range(1, rank + 1))
        nearest = full_change(base, found.adapter)
        missing = math.hypot(*(float((exact[key] - nearest[key]).norm()) for key in exact))
        share = missing / math.hypot(*(float(change.norm()) for change in exact.values()))
        # The matrices are stored in float32.
        assert found.difference.overall == pytest.approx(share, abs=1e-6)
        shares.append(share)
    assert shares[0] > shares[1] > 1e-3 > 1e-6 > shares[2]
    by_energy = approximate(base, adapter, energy=0.9)
    assert by_energy.difference.worst <= math.sqrt(0.1) + 1e-6


def test_dora_is_never_half_used(base_of: BaseOf, tmp_path: Path) -> None:
    base, path = base_of("sd1"), tmp_path / "dora.safetensors"
    plain = trained(base, "convolution", "lora")
    detach(base)
    adapter = read(path, lycoris_dora(base, plain, "columns"))
    with pytest.raises(UserError, match="DoRA"):
        write_adapter(adapter, tmp_path / "out.safetensors")
    for use in (
        lambda: resize(adapter, rank=2),
        lambda: merge([(adapter, 1.0)], ["a"]),
        lambda: energy_of(next(iter(adapter.layers.values()))),
    ):
        with pytest.raises(UserError, match="DoRA") as caught:
            use()
        assert "--base" in caught.value.hint
    assert inspect_file(path).dora
    assert "without its magnitudes" in "\n".join(inspect_file(path).lines())
    proof = verify_file(path, base)
    assert proof.base is not None
    assert proof.base.worst_difference < 1e-6
    assert not any(verdict.works for verdict in proof.tools.values())


FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "LoHa": {
        f"hada_w{n}_{side}": (("out", "r") if side == "a" else ("r", "in"))
        for n in "12"
        for side in "ab"
    },
    "LoKr": {"lokr_w1": ("2", "2"), "lokr_w2": ("out/2", "in/2")},
    "OFT": {"oft_blocks": ("2", "out/2", "out/2")},
    "GLoRA": {
        "a1.weight": ("in", "r"),
        "a2.weight": ("r", "in"),
        "b1.weight": ("out", "r"),
        "b2.weight": ("r", "in"),
    },
    "full difference": {"diff": ("out", "in")},
}


@pytest.mark.parametrize("kind", FORMS)
def test_others_kinds_are_drawn_with_baked_and_made_plain(
    tiny_base: TinyBase, tmp_path: Path, kind: str
) -> None:
    """On every projection: what is loaded, what is baked and what is made plain are the same."""
    base = load_base(str(tiny_base("sd1")))
    tensors: dict[str, Tensor] = {}
    for index, key in enumerate(find_targets(base)):
        outputs_, inputs = find_layers(base)[key].weight.shape
        sizes = {"out": outputs_, "in": inputs, "r": 3, "2": 2}
        sizes |= {"out/2": outputs_ // 2, "in/2": inputs // 2}
        for number, (name, shape) in enumerate(FORMS[kind].items()):
            tensor = 0.3 * random_tensor(10 * index + number, *(sizes[one] for one in shape))
            tensors[f"{kohya_name('sd1', key)}.{name}"] = tensor
    adapter = read(tmp_path / "a.safetensors", tensors)
    assert adapter.kinds == [kind]
    assert adapter.needs_base == (kind in ("OFT", "GLoRA"))
    before = outputs(base)
    load_into(base, adapter, "a")
    loaded = outputs(base)
    detach(base)
    assert all_equal(outputs(base), before)
    proof = verify_file(tmp_path / "a.safetensors", base)
    assert proof.base is not None
    assert proof.base.worst_difference < 1e-5
    plain = approximate(base, adapter, rank=1000)
    assert plain.difference.worst < 1e-5
    load_into(base, written(plain.adapter, tmp_path / "b.safetensors", precision="fp32"), "b")
    made_plain = outputs(base)
    detach(base)
    bake(base, [(adapter, 1.0)])
    for part, baked in outputs(base).items():
        change = (baked - before[part]).norm()
        assert change > 0.01 * before[part].norm()
        for other in (loaded[part], made_plain[part]):
            assert (other - baked).norm() <= 1e-3 * change
