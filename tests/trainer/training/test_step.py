"""One step: what it learns, what it leaves alone, and what its losses are shares of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES
from tests.trainer.runs_for_tests import make_images, never, session_for
from trainer.diffusion import Points, predict
from trainer.errors import UserError
from trainer.lora.attach import disabled
from trainer.lora.layers import adapted_layers
from trainer.losses import feature_drift
from trainer.training.batches import Batch
from trainer.training.optimizers import gradient_norm
from trainer.training.session import Session
from trainer.training.step import TEXT_SHARE, add_gradients, batch_loss, training_step


@pytest.fixture
def session(tiny_base: TinyBase, tmp_path: Path) -> Callable[..., Session]:
    made: list[Session] = []

    def make(name: str = "sd1", count: int = 4, **changes: Any) -> Session:
        images = make_images(tmp_path / f"images-{count}", count=count)
        made.append(session_for(tiny_base(name), images, tmp_path / f"run-{len(made)}", **changes))
        return made[-1]

    return make


def gradients(session: Session, *batches: Batch, preserves: bool = False) -> Tensor:
    """All gradients of some batches together, flat."""
    session.optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        add_gradients(session, batch, preserves)
    found = [p.grad.flatten() for p in session.parameters.values() if p.grad is not None]
    session.optimizer.zero_grad(set_to_none=True)
    return torch.cat(found)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_adapted_layer_gets_a_gradient(session: Callable[..., Session], name: str) -> None:
    """B from the first step; A, whose gradient is zero at B = 0, from the second."""
    made = session(name)

    def frozen() -> dict[str, Tensor]:
        return {
            f"{part}.{key}": value
            for part, module in made.base.modules().items()
            for key, value in module.state_dict().items()
            if "lora_" not in key
        }

    base_before = {key: value.clone() for key, value in frozen().items()}
    for step in range(2):
        before = {key: value.detach().clone() for key, value in made.parameters.items()}
        training_step(made, never)
        after = made.parameters.items()
        moved = {key for key, value in after if not torch.equal(value, before[key])}
        expected = {key for key in before if step > 0 or key.endswith("lora_B")}
        assert expected <= moved, sorted(expected - moved)[:5]
    assert all(torch.equal(value, base_before[key]) for key, value in frozen().items())
    encoders = {"text_encoder", "text_encoder_2"} if name == "sdxl" else {"text_encoder"}
    assert {key.split("/")[0] for key in made.parameters} == {"unet"} | encoders


@pytest.mark.parametrize(("part", "other"), [("unet", "text_encoder"), ("text_encoder", "unet")])
def test_each_part_can_train_alone(session: Callable[..., Session], part: str, other: str) -> None:
    made = session(**{f"adapter__{other}": False})
    assert {key.split("/")[0] for key in made.parameters} == {part}
    training_step(made, never)
    training_step(made, never)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_a_short_run_lowers_the_loss_on_its_pictures(
    session: Callable[..., Session], name: str
) -> None:
    """At fixed noise and timesteps, so that nothing but learning can lower it."""
    made = session(name, training__steps=30, preservation__weight=0.0)

    @torch.no_grad()
    def loss() -> float:
        batches = made.batches.step(1000)
        return sum(batch_loss(made, batch, None)[0].item() for batch in batches)

    before = loss()
    with disabled(made.base):
        assert loss() == before  # B = 0 is the base model exactly
    for _ in range(30):
        training_step(made, never)
    assert loss() < 0.99 * before


def test_accumulated_batches_are_shares_of_one_mean(session: Callable[..., Session]) -> None:
    """Three batches of two are as one of six: its loss, its gradients, and what a step says."""
    made = session(count=2, training__accumulation=3, preservation__method="none")
    for _ in range(2):
        training_step(made, never)
    batches = list(made.batches.step(2))
    assert [batch.slots for batch in batches] == [(0, 1), (2, 3), (4, 5)]
    whole = replace(
        batches[0],
        names=tuple(name for batch in batches for name in batch.names),
        slots=tuple(range(6)),
        captions=tuple(caption for batch in batches for caption in batch.captions),
        sizes=tuple(size for batch in batches for size in batch.sizes),
        latents=torch.cat([batch.latents for batch in batches]),
        noise=torch.cat([batch.noise for batch in batches]),
        timesteps=torch.cat([batch.timesteps for batch in batches]),
        weights=torch.cat([batch.weights for batch in batches]),
        total=6,
    )
    expected, losses = gradients(made, whole), []
    torch.testing.assert_close(gradients(made, *batches), expected, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        losses = [batch_loss(made, batch, None)[0].item() for batch in (whole, *batches)]
    assert sum(losses[1:]) == pytest.approx(losses[0], rel=1e-5)
    done, _ = training_step(made, never)
    assert done.loss == pytest.approx(losses[0], rel=1e-5)
    assert done.gradient_norm == pytest.approx(expected.norm().item(), rel=1e-4)


def test_each_text_encoder_has_its_rate(session: Callable[..., Session]) -> None:
    rates = {"optimizer__text_encoder_2_learning_rate": 3e-3, "preservation__method": "none"}
    groups = session("sdxl", **rates).optimizer.param_groups
    expected = {"unet": 1e-2, "text_encoder": 1e-2, "text_encoder_2": 3e-3}
    assert {group["part"]: group["lr"] for group in groups} == expected
    with pytest.raises(UserError, match="no second text encoder"):
        session(**rates)


def test_layers_have_their_own_ranks_and_rates(session: Callable[..., Session]) -> None:
    own = {
        "adapter__ranks": ["unet.* = 3", "unet.mid_block.* = 4"],
        "adapter__alpha": 1.0,
        "optimizer__layer_rates": ["unet.mid_block.* = 0.5"],
        "preservation__method": "none",
    }
    made = session(**own)
    ranks = {key: layer.r["default"] for key, layer in adapted_layers(made.base).items()}
    assert {rank for key, rank in ranks.items() if key.part != "unet"} == {2}
    assert {rank for key, rank in ranks.items() if "unet.mid_block" in str(key)} == {4}
    assert {rank for key, rank in ranks.items() if "unet.up_blocks" in str(key)} == {3}
    scales = {layer.scaling["default"] for layer in adapted_layers(made.base).values()}
    assert scales == {0.5}  # alpha 1 at rank 2
    rates = {
        name: group["lr"]
        for group in made.optimizer.param_groups
        for name, parameter in made.parameters.items()
        if any(parameter is one for one in group["params"])
    }
    assert {rate for name, rate in rates.items() if "/mid_block" in name} == {5e-3}
    assert {rate for name, rate in rates.items() if "/mid_block" not in name} == {1e-2}
    for field in ("adapter__ranks", "optimizer__layer_rates"):
        with pytest.raises(UserError, match="fits no layer"):
            session(**{field: ["unet.nowhere.* = 2"]})


def test_the_text_encoder_stays_after_its_share(session: Callable[..., Session]) -> None:
    made = session(training__stop_text_encoder_after=0.5, optimizer__weight_decay=0.5)  # 2 of 4
    states: list[dict[str, Tensor]] = []
    for _ in range(4):
        training_step(made, never)
        states.append({name: p.detach().clone() for name, p in made.parameters.items()})
    for name in states[0]:
        moved = [not torch.equal(states[n][name], states[n + 1][name]) for n in range(3)]
        assert moved == [True, not name.startswith("text"), not name.startswith("text")], name


def test_errors_count_by_the_weight_of_their_concept(
    session: Callable[..., Session], tmp_path: Path
) -> None:
    folders = [
        make_images(tmp_path / name, count=2, side=side) for name, side in (("a", 32), ("b", 32))
    ]
    concepts = [
        {"path": str(folder), "trigger": word, "class_word": "thing", "loss_weight": weight}
        for folder, word, weight in zip(folders, ("ohwx", "bnha"), (1.0, 3.0), strict=True)
    ]
    words = {"captions__trigger": "", "captions__class_word": "", "images__path": "."}
    made = session(concepts=concepts, preservation__method="none", **words)
    seen: set[float] = set()
    for batch in (batch for step in range(3) for batch in made.batches.step(step)):
        expected = [3.0 if "bnha" in caption else 1.0 for caption in batch.captions]
        assert batch.weights.tolist() == expected
        seen.update(expected)
        with torch.no_grad():
            plain = replace(batch, weights=torch.ones(len(batch.weights)))
            alone = [batch_loss(made, part, None)[0] for part in plain.parts(1)]
            counted = torch.stack(alone) @ batch.weights
            torch.testing.assert_close(batch_loss(made, batch, None)[0], counted)
    assert seen == {1.0, 3.0}


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e3])
def test_gradients_are_clipped_to_the_limit(session: Callable[..., Session], limit: float) -> None:
    made, seen = session(optimizer__max_gradient_norm=limit), []
    parameters = made.parameters.values()
    made.optimizer.register_step_pre_hook(lambda *_: seen.append(gradient_norm(parameters).item()))
    done, _ = training_step(made, never)
    assert done.gradient_norm > 1e-3, "what is said is the norm before clipping"
    expected = min(done.gradient_norm, limit or done.gradient_norm)
    assert seen == [pytest.approx(expected, rel=1e-3)]


def test_the_preservation_weight_is_a_factor_of_its_gradients(
    session: Callable[..., Session],
) -> None:
    made = session(preservation__every=1)
    for _ in range(2):
        training_step(made, never)
    batch = next(made.batches.step(2))

    def at(weight: float) -> Tensor:
        preservation = made.config.preservation.model_copy(update={"weight": weight})
        made.config = made.config.model_copy(update={"preservation": preservation})
        return gradients(made, batch, preserves=True)

    own, once = gradients(made, batch), at(1.0)
    assert (once - own).norm() > 1e-3 * own.norm()
    torch.testing.assert_close(at(0.0), own, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(at(5.0) - own, 5 * (once - own), rtol=1e-2, atol=1e-5)


def test_preserved_rows_of_parts_are_shares_of_one_mean(session: Callable[..., Session]) -> None:
    """However a batch is cut to fit the memory."""
    made = session(training__batch_size=4, preservation__every=1, preservation__share=1.0)
    for _ in range(2):
        training_step(made, never)
    batch = next(made.batches.step(2))
    assert made.preservation
    rows = made.preservation.rows(2, batch.slots, batch.total)
    assert rows and rows.count == len(rows.points) > 1
    whole, own = gradients(made, batch, preserves=True), gradients(made, batch)
    torch.testing.assert_close(
        gradients(made, *batch.parts(1), preserves=True) - own, whole - own, rtol=1e-2, atol=1e-5
    )


def test_text_features_count_by_their_share(session: Callable[..., Session]) -> None:
    made = session(preservation__every=1)
    for _ in range(2):
        training_step(made, never)
    assert made.preservation
    rows = made.preservation.rows(2, (0, 1), 2)
    assert rows and rows.text_features
    rows = replace(rows, count=2 * len(rows.points))  # one pass of two
    with torch.no_grad():
        plain, whole = (
            batch_loss(made, None, replace(rows, text_features=features))[1]
            for features in (False, True)
        )
        student, teacher = (
            of(rows.points.prompts) for of in (made.text.student, made.text.teacher)
        )
    moved = feature_drift(student.hidden, teacher.hidden)
    assert moved > 0
    torch.testing.assert_close(whole - plain, TEXT_SHARE * moved / 2, rtol=1e-3, atol=1e-8)


def test_what_perturbs_the_input_is_noise_of_its_own(session: Callable[..., Session]) -> None:
    batch = next(session(objective__input_perturbation=0.5).batches.step(0))
    assert batch.perturbed is not None
    more = 2 * (batch.perturbed - batch.noise)
    together = torch.stack([batch.noise.flatten(), more.flatten()])
    torch.testing.assert_close(torch.cov(together), torch.eye(2), rtol=0, atol=0.15)


def test_every_second_step_preserves_where_that_is_asked(session: Callable[..., Session]) -> None:
    made = session(preservation__every=2)
    said = [training_step(made, never)[0].preservation for _ in range(4)]
    assert [one is not None for one in said] == [True, False, True, False]


def test_preservation_leaves_the_class_word_alone(session: Callable[..., Session]) -> None:
    def drift(weight: float) -> float:
        made = session(preservation__weight=weight, preservation__every=1, training__steps=25)
        for _ in range(25):
            training_step(made, never)
        noised = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        sizes = (((32, 32), (0, 0), (32, 32)),)
        points = Points(("a thing",), noised, torch.tensor([500]), sizes)
        moved = predict(made.base, points, made.device)
        with disabled(made.base):
            return (moved - predict(made.base, points, made.device)).pow(2).mean().item()

    assert drift(10.0) < 0.7 * drift(0.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapter_and_optimizer_stay_in_fp32(
    session: Callable[..., Session], precision: str
) -> None:
    made = session(training__precision=precision)
    done, _ = training_step(made, never)
    assert done.loss > 0
    assert made.base.unet.conv_in.weight.dtype == made.device.dtype
    assert made.base.vae.dtype == torch.float32
    assert {p.dtype for p in made.parameters.values()} == {torch.float32}
    states = made.optimizer.state_dict()["state"].values()
    assert {value.dtype for state in states for value in state.values()} == {torch.float32}


def test_each_picture_comes_up_at_each_resolution(session: Callable[..., Session]) -> None:
    made = session(images__resolutions=[32, 64], images__upscale=True)
    steps = made.batches.steps_per_epoch()
    assert steps > session().batches.steps_per_epoch()
    for epoch in range(2):
        first = round(epoch * steps)
        seen = Counter(
            (sample.picture.entry.name, sample.picture.crop.size)
            for step in range(first, first + round(steps))
            for batch in made.batches.samples(step)
            for sample in batch
        )
        assert set(seen.values()) == {1}
        assert len(seen) == 2 * len(made.pictures) == 8
    latents = {batch.latents.shape[-2:] for step in range(4) for batch in made.batches.step(step)}
    assert len(latents) > 1
    assert made.batches.largest(0).latents.shape[-2:].numel() == max(s.numel() for s in latents)
