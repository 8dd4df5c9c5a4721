"""Changes in numbers against plain arithmetic, and what is said of two adapters' difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import adapter_for, change_of, random_tensor, written
from trainer.lora.adapter import Adapter, LoraLayer
from trainer.lora.changes import (
    TOLERANCES,
    compare,
    decompose,
    energy_of,
    matrices,
    nearest,
    rank_for,
    relative_difference,
    singular_values,
)
from trainer.lora.names import ModuleKey
from trainer.memory.devices import Precision

SHAPES = {
    "linear": ((4, 9), (12, 4)),
    "convolution": ((3, 5, 3, 3), (7, 3, 1, 1)),
    "rank above the sides": ((9, 3), (5, 9)),
}


def layer_of(shape: str, alpha: float = 1.5) -> LoraLayer:
    down, up = SHAPES[shape]
    return LoraLayer(random_tensor(1, *down), random_tensor(2, *up), alpha)


@pytest.mark.parametrize("shape", SHAPES)
def test_decompositions_are_the_change(shape: str) -> None:
    layer = layer_of(shape)
    change = change_of(layer).flatten(1)
    assert energy_of(layer) == pytest.approx(float(change.norm()), rel=1e-12)
    values = singular_values(layer)
    expected = torch.linalg.svdvals(change)[: len(values)]
    assert torch.allclose(values[: len(expected)], expected, rtol=1e-9, atol=1e-12)
    left, values, right = decompose(*matrices(layer))
    assert torch.allclose(left * values @ right, change, atol=1e-12)
    for matrix in (change, change.T):
        up, down = nearest(matrix, 100, None)
        torch.testing.assert_close(up @ down, matrix, atol=1e-6, rtol=1e-6)
        up, down = nearest(matrix, 2, None)
        error = float((up @ down - matrix).norm())
        assert error == pytest.approx(float(expected[2:].norm()), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "share", "rank"),
    [
        ([3.0, 1.0, 0.0], 0.9, 1),
        ([3.0, 1.0, 0.0], 0.91, 2),
        ([3.0, 1.0, 0.0], 1.0, 2),
        ([1.0, 1.0, 1.0, 1.0], 0.5, 2),
        ([0.0, 0.0], 0.99, 1),
    ],
)
def test_rank_for_a_share(values: list[float], share: float, rank: int) -> None:
    assert rank_for(torch.tensor(values), None, share) == rank
    assert rank_for(torch.tensor(values), 9, None) == len(values)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
@pytest.mark.parametrize(("rank", "other_rank"), [(2, 2), (2, 5), (40, 1)])
def test_relative_difference_is_that_of_the_whole_matrices(
    kernel: tuple[int, ...], rank: int, other_rank: int
) -> None:
    one, other = (
        LoraLayer(
            random_tensor(seed, r, 7, *kernel),
            random_tensor(seed + 1, 9, r, *([1] * len(kernel))),
            alpha,
        )
        for seed, r, alpha in ((0, rank, 3.0), (2, other_rank, 0.5))
    )
    expected = (change_of(other) - change_of(one)).norm() / change_of(one).norm()
    assert relative_difference(one, other) == pytest.approx(expected.item(), rel=1e-9)


def test_relative_difference_of_nothing() -> None:
    layer = LoraLayer(torch.ones(1, 2), torch.ones(2, 1), 1.0)
    dead = replace(layer, up=torch.zeros(2, 1))
    assert relative_difference(dead, dead) == 0.0
    assert relative_difference(dead, layer) == float("inf")
    assert relative_difference(layer, dead) == pytest.approx(1.0)
    assert relative_difference(layer, replace(layer, up=torch.ones(3, 1))) == float("inf")


# -- two adapters


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_file_is_exact_but_for_its_precision(
    base_of: BaseOf, tmp_path: Path, family: str, precision: Precision
) -> None:
    adapter = adapter_for(base_of(family), 3, 1.5)
    report = compare(adapter, written(adapter, tmp_path / "a", precision=precision))
    assert report.exact
    assert report.precision == precision
    assert (report.worst < 1e-12) == (precision == "fp32")
    assert (report.in_words() == "is exact") == (precision == "fp32")
    assert len(report.matched) == {"sd1": 40, "sdxl": 76}[family]
    assert report.summary() == (
        "the file, read back, holds "
        f"{'64 UNet and 12' if family == 'sdxl' else '32 UNet and 8'} text-encoder layers "
        f"to within {report.worst:.1e} of the adapter's change ({precision})"
    )


FIRST = ModuleKey("text_encoder", "text_model.encoder.layers.0.self_attn.k_proj")
Edit = Callable[[dict[ModuleKey, LoraLayer]], dict[ModuleKey, LoraLayer]]


def dead(layers: dict[ModuleKey, LoraLayer]) -> dict[ModuleKey, LoraLayer]:
    return {key: replace(layer, up=torch.zeros_like(layer.up)) for key, layer in layers.items()}


CHANGES: dict[str, Edit] = {
    f"more than 1e-06 in {FIRST}: save in fp32": lambda layers: (
        layers | {FIRST: replace(layers[FIRST], alpha=9.0)}
    ),
    "without effect (B = 0): text_encoder.": lambda layers: layers | dead({FIRST: layers[FIRST]}),
    "without effect (B = 0): all layers": dead,
    f"missing: {FIRST}": lambda layers: {k: v for k, v in layers.items() if k != FIRST},
    "unexpected: unet.conv_in": lambda layers: (
        layers | {ModuleKey("unet", "conv_in"): layers[FIRST]}
    ),
}


@pytest.mark.parametrize("words", CHANGES)
def test_what_is_wrong_is_said(base_of: BaseOf, words: str) -> None:
    adapter = adapter_for(base_of("sd1"))
    report = compare(adapter, replace(adapter, layers=CHANGES[words](adapter.layers)))
    assert not report.exact
    assert words in report.summary()


def test_numbers_too_small_for_fp16_are_said(base_of: BaseOf, tmp_path: Path) -> None:
    layers = adapter_for(base_of("sd1")).layers
    small = Adapter({k: replace(x, up=x.up * 1e-6) for k, x in layers.items()}, "sd1")
    report = compare(small, written(small, tmp_path / "a", precision="fp16"))
    assert not report.exact
    assert "save in fp32" in report.summary()
    assert compare(small, written(small, tmp_path / "a", precision="bf16")).exact
