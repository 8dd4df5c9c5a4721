"""Adapters on live models: they start as nothing, learn everywhere, and go without a trace."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

import trainer.lora.attach
from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import (
    NAMES,
    adapter_config,
    all_equal,
    denoise,
    equal,
    modules_of,
    nudge,
    on_meta,
    outputs,
    random_tensor,
)
from trainer.config.presets import apply_preset
from trainer.config.schema import AdapterConfig, TrainingConfig
from trainer.errors import UserError
from trainer.lora.attach import (
    attach,
    attached,
    chosen_targets,
    detach,
    disabled,
    set_strength,
)
from trainer.lora.layers import adapted_layers, find_layers, get_weights, original_layer
from trainer.lora.names import ModuleKey, Part
from trainer.models.base import BaseModel

CONFIG = adapter_config(rank=4, alpha=2.0)

# For seed 0: what a run began with has to hold when a later version resumes it.
GOLDEN_DOWN = [-0.1550261, -0.0372435, 0.1883764]


def adapt(base: BaseModel) -> tuple[dict[Part, torch.Tensor], dict[Part, torch.Tensor]]:
    """Puts an adapter on as if it had trained; gives the outputs before and after."""
    before = outputs(base)
    attach(base, CONFIG, seed=0)
    nudge(base)
    return before, outputs(base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_float32_adapter_parameters_train(base_of: BaseOf, dtype: torch.dtype) -> None:
    base = base_of("sd1", dtype)
    attachment = attach(base, CONFIG, seed=0)
    mine = {id(p) for named in attachment.parameters.values() for _, p in named}
    trainable = [p for module in modules_of(base) for p in module.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == mine
    assert {p.dtype for p in trainable} == {torch.float32}
    names = [name for name, _ in attachment.parameters["text_encoder"]]
    assert names[:2] == [
        "text_model.encoder.layers.0.self_attn.k_proj.lora_A",
        "text_model.encoder.layers.0.self_attn.k_proj.lora_B",
    ]


@pytest.mark.parametrize(
    ("family", "unet", "text_encoder", "layers"),
    [
        ("sd1", True, True, {"unet": 32, "text_encoder": 8}),
        ("sd1", True, False, {"unet": 32}),
        ("sd1", False, True, {"text_encoder": 8}),
        ("sd2", True, True, {"unet": 32, "text_encoder": 8}),
        # The first encoder's last layer is not read: four projections fewer.
        ("sdxl", True, True, {"unet": 64, "text_encoder": 4, "text_encoder_2": 8}),
    ],
)
def test_parts_are_switchable(
    base_of: BaseOf, family: str, unet: bool, text_encoder: bool, layers: dict[Part, int]
) -> None:
    config = adapter_config(rank=2, unet=unet, text_encoder=text_encoder)
    base = base_of(family)
    attachment = attach(base, config, seed=0)
    assert attachment.layers == layers
    assert attachment.parameters.keys() == layers.keys()
    for part, count in layers.items():
        assert len(attachment.parameters[part]) == 2 * count
    assert not any("lora" in name for name, _ in base.vae.named_parameters())


UP, TEXT = "unet.up_blocks.", "text_encoder."
# only, without -> what every chosen layer's name begins with, and what none has in it
PATTERNS: list[tuple[list[str], list[str], tuple[str, ...], tuple[str, ...]]] = [
    (["unet.up_blocks.*"], [], (UP,), ()),
    (["unet.up_blocks.*", "text_encoder.*"], [], (UP, TEXT), ()),
    ([], ["*.attn1.*"], ("unet.", "text_encoder"), (".attn1.",)),
    (["unet.*"], ["*.to_q", "*.to_k"], ("unet.",), (".to_q", ".to_k")),
]


@pytest.mark.parametrize(("only", "without", "starts", "absent"), PATTERNS)
@pytest.mark.parametrize("family", NAMES)
def test_patterns_choose_layers(
    base_of: BaseOf,
    family: str,
    only: list[str],
    without: list[str],
    starts: tuple[str, ...],
    absent: tuple[str, ...],
) -> None:
    base = base_of(family)
    everything = chosen_targets(base, CONFIG)
    config = adapter_config(rank=2, only=only, without=without)
    names = {str(key) for key in chosen_targets(base, config)}
    assert names == {
        str(key)
        for key in everything
        if str(key).startswith(starts) and not any(text in str(key) for text in absent)
    }
    assert 0 < len(names) < len(everything)
    attach(base, config, seed=0)
    assert {str(key) for key in adapted_layers(base, "default")} == names


def test_layers_that_clip_skip_leaves_unread_are_not_adapted(
    base_of: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of("sd1")
    every = set(chosen_targets(base, CONFIG))
    monkeypatch.setattr(base, "clip_skip", 2)  # of two layers
    left_out = {str(key) for key in every - set(chosen_targets(base, CONFIG))}
    assert len(left_out) == 4
    assert all(name.startswith("text_encoder.text_model.encoder.layers.1.") for name in left_out)


@pytest.mark.parametrize(("name", "block"), [("b-lora-style", 1), ("b-lora-content", 0)])
def test_b_lora_adapts_one_block_of_sdxl(name: str, block: int) -> None:
    config = apply_preset(TrainingConfig(), name).adapter
    chosen = chosen_targets(on_meta("sdxl"), config)
    # Ten transformer blocks with four projections in each of two attentions.
    assert len(chosen) == 10 * 2 * 4
    assert all(str(key).startswith(f"unet.up_blocks.0.attentions.{block}.") for key in chosen)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"only": ["unet.up_block.*"]}, "adapter.only has 'unet.up_block.*', which fits no layer"),
        ({"without": ["text_encoder.*"], "text_encoder": False}, "which fits no layer"),
        ({"only": ["unet.*"], "without": ["unet.*"]}, "leave no layer"),
    ],
)
def test_patterns_that_choose_nothing_are_refused(
    base_of: BaseOf, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        attach(base_of("sd1"), adapter_config(**values), seed=0)
    assert caught.value.hint


def test_summary_counts_what_trains(base_of: BaseOf) -> None:
    base = base_of("sd1")
    encoder, unet = base.text_encoders[0], base.unet
    total = sum(parameter.numel() for m in (unet, encoder) for parameter in m.parameters())
    attachment = attach(base, CONFIG, seed=0)
    assert attachment.base_parameters == total
    trained = sum(p.numel() for some in attachment.parameters.values() for _, p in some)
    share = f"{100 * trained / total:.1f} % of {total:,}"
    said = f"trains 32 UNet and 8 text-encoder layers: {trained:,} parameters, {share}"
    assert attachment.summary() == said


def down_weights(
    base: BaseModel, seed: int, config: AdapterConfig
) -> dict[ModuleKey, torch.Tensor]:
    attach(base, config, seed=seed)
    downs = {
        key: get_weights(layer, "default")[0].detach().clone()
        for key, layer in adapted_layers(base).items()
    }
    detach(base)
    return downs


def test_initial_weights_are_a_function_of_seed_and_layer(base_of: BaseOf) -> None:
    base = base_of("sd1")
    both = down_weights(base, 0, CONFIG)
    torch.manual_seed(99)
    alone = down_weights(base, 0, adapter_config(rank=4, text_encoder=False))
    other = down_weights(base, 1, CONFIG)
    assert all(torch.equal(both[key], down) for key, down in alone.items())
    assert not any(torch.equal(both[key], down) for key, down in other.items())
    assert len({down.sum().item() for down in both.values()}) == len(both)
    for down in both.values():
        bound = 1 / math.sqrt(down.shape[1])
        assert 0.8 * bound < down.abs().max() <= bound
    key = ModuleKey("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")
    assert both[key][0, :3].tolist() == pytest.approx(GOLDEN_DOWN, abs=1e-7)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_every_layer(
    base_of: BaseOf, family: str, dtype: torch.dtype, autocast: bool
) -> None:
    base = base_of(family, dtype)
    parameters = attach(base, CONFIG, seed=0).parameters
    named = [(f"{part}.{name}", p) for part, some in parameters.items() for name, p in some]
    context = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()

    def reached() -> set[str]:
        with context:
            result = denoise(base)
        result.float().square().sum().backward()
        assert all(p.grad is None or p.grad.dtype == torch.float32 for _, p in named)
        names = {name for name, p in named if p.grad is not None and bool(p.grad.any())}
        for _, parameter in named:
            parameter.grad = None
        return names

    # While B is zero, A cannot matter.
    assert reached() == {name for name, _ in named if name.endswith("lora_B")}
    nudge(base)
    assert reached() == {name for name, _ in named}


@pytest.mark.parametrize("family", NAMES)
def test_strength_zero_is_the_base_exactly(base_of: BaseOf, family: str) -> None:
    base = base_of(family)
    before, adapted = adapt(base)
    assert not any(equal(adapted, before).values())
    set_strength(base, "default", 0.0)
    assert all_equal(outputs(base), before)
    set_strength(base, "default", 0.5)
    assert not any(equal(outputs(base), adapted).values())
    set_strength(base, "default", 1.0)
    assert all_equal(outputs(base), adapted)


def test_strength_zero_is_the_base_even_for_a_broken_adapter(base_of: BaseOf) -> None:
    base = base_of("sd1")
    before = outputs(base)
    for _, parameter in attach(base, CONFIG, seed=0).parameters["unet"]:
        torch.nn.init.constant_(parameter, torch.inf)
    assert outputs(base)["unet"].isnan().any()
    set_strength(base, "default", 0.0)
    assert all_equal(outputs(base), before)


@pytest.mark.parametrize(
    ("unet", "text", "off"),
    [
        (0.0, 1.0, {"unet"}),
        (1.0, 0.0, {"text_encoder", "text_encoder_2"}),
        (0.0, None, {"unet", "text_encoder", "text_encoder_2"}),
        (1.0, None, set()),
    ],
)
def test_strength_of_unet_and_text_encoders(
    base_of: BaseOf, unet: float, text: float | None, off: set[Part]
) -> None:
    base = base_of("sdxl")
    before, adapted = adapt(base)
    set_strength(base, "default", unet, text)
    now = outputs(base)
    assert {part for part, same in equal(now, before).items() if same} == off
    assert {part for part, same in equal(now, adapted).items() if same} == now.keys() - off


@pytest.mark.parametrize("strengths", [(math.nan,), (math.inf,), (1.0, -math.inf)])
def test_strength_must_be_finite(base_of: BaseOf, strengths: tuple[float, ...]) -> None:
    base = base_of("sd1")
    attach(base, CONFIG, seed=0)
    with pytest.raises(UserError, match=r"nan|inf"):
        set_strength(base, "default", *strengths)


@pytest.mark.parametrize("family", NAMES)
def test_disabled_is_the_base_and_restores(base_of: BaseOf, family: str) -> None:
    base = base_of(family)
    before, adapted = adapt(base)
    with disabled(base):
        assert all_equal(outputs(base), before)
        with disabled(base):
            assert all_equal(outputs(base), before)
        assert all_equal(outputs(base), before)
    assert all_equal(outputs(base), adapted)
    with pytest.raises(KeyError), disabled(base):
        raise KeyError
    assert all_equal(outputs(base), adapted)


def test_switching_touches_no_gradient_flag(base_of: BaseOf) -> None:
    base = base_of("sd1")
    attach(base, CONFIG, seed=0, name="learning")
    attach(base, CONFIG, seed=1, name="frozen")
    for layer in adapted_layers(base).values():
        for parameter in get_weights(layer, "frozen"):
            parameter.requires_grad_(False)

    def now() -> dict[str, bool]:
        return {
            f"{key}.{name}": parameter.requires_grad
            for key, layer in adapted_layers(base).items()
            for name, parameter in layer.named_parameters()
        }

    flags = now()
    with disabled(base):
        pass
    assert now() == flags
    set_strength(base, "learning", 0.0)
    set_strength(base, "learning", 1.0)
    assert now() == flags
    attach(base, CONFIG, seed=2, name="third")
    detach(base, "third")
    assert now() == flags


def test_disabled_between_forward_and_backward_changes_no_gradient(base_of: BaseOf) -> None:
    base = base_of("sd1")
    parameters = [p for some in attach(base, CONFIG, seed=0).parameters.values() for _, p in some]
    nudge(base)
    expected = torch.autograd.grad(denoise(base).square().sum(), parameters)
    loss = denoise(base).square().sum()
    with disabled(base), torch.no_grad():
        denoise(base)
    loss.backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_several_adapters_add_up_and_leave_each_other_alone(base_of: BaseOf) -> None:
    base = base_of("sdxl")
    before = outputs(base)
    alone = {}
    for together in (False, True):
        for index, name in enumerate(("one", "two")):
            attach(base, adapter_config(rank=2 + index), seed=index, name=name)
            nudge(base, name, seed=100 * index)
            if not together:
                alone[name] = outputs(base)
                detach(base)
    assert attached(base) == ["one", "two"]

    layer = next(iter(adapted_layers(base).values()))
    original = original_layer(layer)
    inputs = random_tensor(0, 3, original.weight.shape[1])
    changes = [
        nn.functional.linear(inputs, up @ down)
        for down, up in (get_weights(layer, name) for name in ("one", "two"))
    ]
    assert torch.allclose(layer(inputs), original(inputs) + sum(changes), atol=1e-5)

    set_strength(base, "one", 0.0)
    assert all_equal(outputs(base), alone["two"])
    set_strength(base, "one", 1.0)
    detach(base, "two")
    assert all_equal(outputs(base), alone["one"])
    with disabled(base):
        assert all_equal(outputs(base), before)


def test_detach_puts_the_original_modules_back(base_of: BaseOf) -> None:
    base = base_of("sd2")
    before, modules = outputs(base), [list(module.modules()) for module in modules_of(base)]
    attach(base, CONFIG, seed=0)
    nudge(base)
    detach(base)
    after = [list(module.modules()) for module in modules_of(base)]
    assert [[id(m) for m in some] for some in after] == [[id(m) for m in some] for some in modules]
    assert all_equal(outputs(base), before)
    assert attached(base) == []
    assert not hasattr(base.unet, "peft_config")


@pytest.mark.parametrize("name", ["", "a.b", "keys", "default"])
def test_impossible_names_are_refused(base_of: BaseOf, name: str) -> None:
    base = base_of("sd1")
    attach(base, CONFIG, seed=0)
    with pytest.raises(ValueError, match="adapter"):
        attach(base, CONFIG, seed=0, name=name)
    assert attached(base) == ["default"]


def test_unknown_names_are_refused(base_of: BaseOf) -> None:
    base = base_of("sd1")
    attach(base, CONFIG, seed=0)
    with pytest.raises(ValueError, match=r"no adapter 'x' on .*default"):
        set_strength(base, "x", 1.0)
    with pytest.raises(ValueError, match="no adapter 'x'"):
        detach(base, "x")


def test_failing_to_attach_leaves_nothing(base_of: BaseOf, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of("sd1")
    attach(base, CONFIG, seed=0, name="there")
    nudge(base, "there")
    before = outputs(base)
    calls = iter(range(1000))

    def fail_at_the_tenth(*_: object, **__: object) -> None:
        if next(calls) == 10:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(trainer.lora.attach, "set_weights", fail_at_the_tenth)
    with pytest.raises(torch.OutOfMemoryError):
        attach(base, CONFIG, seed=0, name="new")
    assert attached(base) == ["there"]
    assert all_equal(outputs(base), before)


def test_dropout_follows_the_mode_of_the_modules(base_of: BaseOf) -> None:
    base = base_of("sd1")
    attach(base, adapter_config(rank=4, dropout=0.5), seed=0)
    nudge(base)
    evaluated = outputs(base)
    assert all_equal(outputs(base), evaluated)
    base.unet.train()
    try:
        assert not torch.equal(outputs(base)["unet"], evaluated["unet"])
    finally:
        base.unet.eval()
    assert all_equal(outputs(base), evaluated)


def test_layers_are_found_under_their_wrappers(base_of: BaseOf) -> None:
    base = base_of("sdxl")
    before = {key: id(live.original) for key, live in find_layers(base).items()}
    attach(base, CONFIG, seed=0)
    after = {key: id(live.original) for key, live in find_layers(base).items()}
    assert after == before
