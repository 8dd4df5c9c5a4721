"""Every field of the configuration changes what a run leaves, or is named as having no effect."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from tests.conftest import ROOT, TinyBase
from tests.trainer.runs_for_tests import SMALL, make_images, train_small
from trainer.config.effects import idle_settings
from trainer.config.fields import all_fields
from trainer.config.file import with_values
from trainer.config.schema import TrainingConfig

SHORT = {
    "training.steps": 3,
    "previews.prompts": ["{trigger}"],
    "previews.inference_steps": 1,
    "preservation.pictures": 1,
}
TAGS = {"captions.shuffle_tags": True, "captions.keep_tags": 0}
ROWS = {"preservation.pictures": 16, "preservation.share": 4.0, "preservation.every": 1}
CHANGED: dict[str, tuple[Any, dict[str, Any]]] = {
    "base.prediction": ("v_prediction", {}),
    "images.resolution": (64, {}),
    "images.resolutions": ([32, 64], {}),
    "images.random_crop": (0.5, {}),
    "images.rotation": (20.0, {}),
    "images.brightness": (0.5, {}),
    "images.hue": (90.0, {}),
    "images.variants": (2, {"images.hue": 90.0}),
    "images.buckets": (False, {"images.resolution": 64, "images.upscale": True}),
    "images.upscale": (True, {"images.resolution": 64}),
    "images.flip": (True, {}),
    "images.background": ("#000000", {}),
    "images.masks": ("alpha", {}),
    "images.mask_outside": (0.9, {"images.masks": "alpha"}),
    "captions.trigger": ("bnha", {}),
    "captions.class_word": ("car", {}),
    "captions.prefix": ("photo of", {}),
    "captions.suffix": ("at night", {}),
    "captions.dropout": (1.0, {}),
    "captions.shuffle_tags": (True, {"captions.keep_tags": 0}),
    "captions.keep_tags": (75, TAGS),
    "captions.tag_dropout": (0.9, {}),
    "captions.protected_tags": (["red", "blue"], {"captions.tag_dropout": 0.9}),
    "captions.max_tokens": (75, {"captions.suffix": "x y z " * 33}),
    "adapter.kind": ("rslora", {}),
    "adapter.factor": (2, {"adapter.kind": "lokr"}),
    "adapter.targets": ("attention", {}),
    "adapter.only": (["unet.up_blocks.*"], {}),
    "adapter.without": (["unet.up_blocks.*"], {}),
    "adapter.rank": (3, {}),
    "adapter.alpha": (1.0, {}),
    "adapter.ranks": (["unet.mid_block.* = 3"], {}),
    "adapter.dropout": (0.5, {}),
    "adapter.t_lora_min_rank": (1, {"adapter.rank": 4}),
    "adapter.new_tokens": (2, {}),
    "adapter.unet": (False, {}),
    "adapter.text_encoder": (False, {}),
    "optimizer.name": ("lion", {}),
    "optimizer.learning_rate": (2e-2, {}),
    "optimizer.text_encoder_learning_rate": (2e-2, {}),
    "optimizer.new_tokens_learning_rate": (2e-2, {"adapter.new_tokens": 1}),
    "optimizer.layer_rates": (["unet.mid_block.* = 0.5"], {}),
    "optimizer.lora_plus_ratio": (4.0, {}),
    "optimizer.weight_decay": (0.9, {}),
    "optimizer.max_gradient_norm": (1e-9, {}),
    "optimizer.schedule": ("linear", {}),
    "optimizer.schedule_cycles": (1, {"optimizer.schedule": "cosine_with_restarts"}),
    "optimizer.schedule_power": (1.0, {"optimizer.schedule": "polynomial"}),
    "optimizer.warmup": (1.0, {}),
    "training.steps": (2, {}),
    "training.batch_size": (1, {}),
    "training.accumulation": (2, {}),
    "training.seed": (1, {}),
    "training.precision": ("bf16", {}),
    "training.stop_text_encoder_after": (0.4, {}),
    "training.ema_decay": (0.5, {}),
    "memory.base_weights": ("8bit", {}),
    "objective.weighting": ("min_snr", {}),
    "objective.min_snr_gamma": (0.0, {"objective.weighting": "min_snr"}),
    "objective.loss": ("huber", {}),
    "objective.huber_c": (0.01, {"objective.loss": "huber"}),
    "objective.huber_schedule": ("constant", {"objective.loss": "smooth_l1"}),
    "objective.noise_offset": (0.1, {}),
    "objective.multires_noise": (0.3, {}),
    "objective.input_perturbation": (0.1, {}),
    "preservation.method": ("none", {}),
    "preservation.weight": (40.0, {}),
    "preservation.every": (3, {}),
    "preservation.share": (2.0, {}),
    "preservation.pictures": (2, {}),
    "preservation.folder": ("SET", {"preservation.method": "pictures"}),
    "preservation.seed": (1, {}),
    "preservation.prompts": (["a red house"], ROWS),
    "previews.every": (1, {}),
    "previews.prompts": (["a house"], {}),
    "previews.negative": ("red", {}),
    "previews.count": (2, {}),
    "previews.seed": (2, {}),
    "previews.inference_steps": (2, {}),
    "previews.guidance": (1.0, {}),
    "checkpoints.every": (1, {}),
    "checkpoints.keep": (1, {"checkpoints.every": 1}),
    "output.name": ("Fox", {}),
    "output.precision": ("bf16", {}),
    "output.dora_rank": (1, {"adapter.kind": "dora"}),
    "output.author": ("Me", {}),
    "output.license": ("CC0", {}),
    "output.description": ("A fox.", {}),
}
"""Field: another value, and what its run needs beside it."""
MODES = "trainer/memory/test_prediction.py::test_each_mode_needs_less"
TRAINING, WATCHING = "trainer/training/test", "trainer/evaluation/test_watching.py::test"
ELSEWHERE = {
    "base.vae": "trainer/models/test_single_file.py::test_a_vae_given_apart_takes_the_place_of_"
    "its_own",
    "base.clip_skip": "trainer/models/test_base.py::test_clip_skip_reads_an_earlier_layer",
    "base.name": f"{TRAINING}_golden.py::test_golden_losses",
    "images.path": f"{TRAINING}_resume.py::test_a_changed_image_set_is_shown_and_refused_unless_"
    "accepted",
    "captions.wildcards": "trainer/data/test_captions.py::test_wildcards",
    "adapter.start_from": f"{TRAINING}_start_from.py::test_layers_ranks_and_weights_are_taken_over",
    "optimizer.text_encoder_2_learning_rate": f"{TRAINING}_step.py::test_each_text_encoder_has_its_"
    "rate",
    "preservation.regularization": "trainer/preservation/test_rows.py::"
    "test_regularisation_pictures_of_the_set_are_class_pictures",
    "tracking.tracker": f"{TRAINING}_tracking.py::test_a_run_tells_a_tracker",
    "tracking.project": f"{TRAINING}_tracking.py::test_wandb_gets_its_project",
    "tracking.webhook": f"{TRAINING}_tracking.py::test_the_end_is_told_to_a_webhook",
    "training.gradient_checkpointing": MODES,
    "training.exact": "trainer/memory/test_modes.py::"
    "test_what_cannot_repeat_exactly_is_said_and_trained_all_the_same",
    "training.compile": f"{TRAINING}_compiled.py::test_compiled_losses_are_the_same",
    "training.cuda_graphs": f"{TRAINING}_compiled.py::test_cuda_graphs_are_asked_for",
    "training.non_finite": f"{TRAINING}_guard.py::"
    "test_it_goes_back_to_a_checkpoint_and_on_at_half_the_rate",
    "memory.mode": MODES,
    "memory.vae_tiling": "trainer/models/test_tiling.py::test_what_is_chosen_where_nothing_is_said",
    "memory.pictures_at_once": MODES,
    "memory.preserve_apart": MODES,
    "memory.offload": "trainer/memory/test_devices.py::test_without_offload_nothing_leaves",
    "evaluation.enabled": f"{WATCHING}_measuring_changes_nothing_and_is_recorded",
    "evaluation.every": f"{WATCHING}_measuring_changes_nothing_and_is_recorded",
    "evaluation.validation": f"{WATCHING}_held_out_pictures_are_not_trained_on",
    "evaluation.early_stop": f"{WATCHING}_training_ends_where_nothing_improves",
    "evaluation.board": "trainer/commands/test_evaluate.py::test_the_board_shows_what_its_labels_"
    "say",
    "evaluation.scorers": "trainer/evaluation/test_pictorial.py::test_scores_of_all_kinds",
}
"""Field: the test of what it drives, where that is no file of a short run."""


@pytest.fixture(scope="module")
def outcome(
    tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, Any]], str]:
    """What a short run with some settings leaves: a digest of its files, but for the settings."""
    place = tmp_path_factory.mktemp("fields")
    images = make_images(place / "images", count=4)
    with Image.open(images / "0.png") as picture:
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        picture.save(images / "0.png")
    given = {"base.name": str(tiny_base("sd1")), "images.path": str(images)}
    start = with_values(TrainingConfig(), {**SMALL, **SHORT, **given})
    known: dict[str, str] = {}

    def of(values: dict[str, Any]) -> str:
        values = {name: str(images) if one == "SET" else one for name, one in values.items()}
        config = with_values(start, values)
        if str(config) not in known:
            run = place / f"run-{len(known)}"
            train_small(config, run)
            known[str(config)] = digest_of(run)
        return known[str(config)]

    return of


def digest_of(run: Path) -> str:
    """The adapter's numbers, what its metadata says of its origin, pictures, and names of files."""
    found = hashlib.sha256()
    with safe_open(run / "adapter.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            found.update(f"{name} {tensor.dtype} {tensor.float().flatten().tolist()}".encode())
        metadata = file.metadata()
        for key in ("title", "author", "license", "description"):
            found.update(str(metadata.get(f"modelspec.{key}")).encode())
    for path in sorted(run.rglob("*")):
        found.update(str(path.relative_to(run)).encode())
        if path.suffix == ".png":
            found.update(path.read_bytes())
    return found.hexdigest()


def test_no_field_is_forgotten() -> None:
    assert sorted([*CHANGED, *ELSEWHERE]) == sorted(all_fields())
    for node in ELSEWHERE.values():
        file, _, name = node.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), node


@pytest.mark.slow
@pytest.mark.parametrize("field", CHANGED)
def test_a_field_changes_what_a_run_leaves(
    outcome: Callable[[dict[str, Any]], str], field: str
) -> None:
    value, beside = CHANGED[field]
    assert outcome({**beside, field: value}) != outcome(beside)


def unmet(field: str) -> dict[str, Any]:
    """Values under which a field has no effect."""
    off: dict[str, Any] = {}
    for names, wanted in all_fields()[field].needs.items():
        for needed in (all_fields()[name] for name in names.split(" or ") if name != "concepts"):
            if wanted is True:
                off[needed.name] = {"boolean": False, "string": ""}.get(next(iter(needed.types)), 0)
            else:
                allowed = wanted if isinstance(wanted, list) else [wanted]
                off[needed.name] = next(one for one in needed.choices if one not in allowed)
    return off


NEEDY: dict[str, list[str]] = defaultdict(list)
"""Fields by what keeps them from having an effect."""
for _name, _field in all_fields().items():
    if _field.needs and None not in _field.needs.values() and _name in CHANGED:
        NEEDY[str(unmet(_name))].append(_name)


@pytest.mark.slow
@pytest.mark.parametrize("fields", NEEDY.values(), ids=" ".join)
def test_what_has_no_effect_is_named(
    outcome: Callable[[dict[str, Any]], str], fields: list[str]
) -> None:
    off, values = unmet(fields[0]), {field: CHANGED[field][0] for field in fields}
    config = with_values(TrainingConfig(), {**off, **values})
    assert {*fields} <= {idle.field for idle in idle_settings(config)}
    assert outcome({**off, **values}) == outcome(off)
