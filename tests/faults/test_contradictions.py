"""Settings that contradict each other: refused with both fields, or made to agree (FAULTS 24)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, never, session_for
from trainer.data.images import load_rgb
from trainer.data.latents import encode_pixels
from trainer.data.masks import fit
from trainer.errors import UserError
from trainer.training.step import training_step


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("contradictions") / "images")


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing trains": (
        {"adapter__unet": False, "adapter__text_encoder": False},
        ["adapter.unet", "adapter.text_encoder", "switch one on"],
    ),
    "resolution and base model": (
        {"images__resolution": 100},
        ["images.resolution 100", "multiple of 16", "Use 96 or 112."],
    ),
    "one rate for two": (
        {"optimizer__name": "prodigy", "optimizer__text_encoder_learning_rate": 0.5},
        ["optimizer.name", "optimizer.text_encoder_learning_rate", "use adamw"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_error_names_both_fields_and_the_way_out(
    tiny_base: TinyBase, images: Path, tmp_path: Path, case: str
) -> None:
    changes, parts = REFUSED[case]
    with pytest.raises(UserError) as caught:
        session_for(tiny_base("sd1"), images, tmp_path / "run", **changes)
    for part in parts:
        assert part in str(caught.value)


def test_cached_latents_and_flips_agree(tiny_base: TinyBase, images: Path, tmp_path: Path) -> None:
    """Both directions are cached, each encoded from its own pixels."""
    session = session_for(tiny_base("sd1"), images, tmp_path / "run", images__flip=True)
    picture = session.pictures[0]
    pixels = load_rgb(picture.entry.read(), session.config.images.background)
    for flip in (False, True):
        expected = encode_pixels(session.base, fit(pixels, picture.crop, flip))
        kept = session.batches.source.latents(picture, flip)
        assert torch.equal(kept, expected)
    mirrored = session.batches.source.latents(picture, False).flip(-1)
    assert not torch.allclose(mirrored, kept)  # what the cheap way would have given


@pytest.mark.parametrize("trained", [True, False])
def test_cached_text_and_a_trained_text_encoder_agree(
    tiny_base: TinyBase, images: Path, tmp_path: Path, trained: bool
) -> None:
    """Training sees what the text encoder says now; only what can't change comes from the cache."""
    run = tmp_path / "run"
    session = session_for(tiny_base("sd1"), images, run, adapter__text_encoder=trained)
    before = session.text.student(["ohwx thing"]).hidden.detach().clone()
    for _ in range(2):
        training_step(session, never)
    after = session.text.student(["ohwx thing"]).hidden.detach()
    assert torch.equal(before, after) != trained
    assert torch.equal(session.text.teacher(["ohwx thing"]).hidden, before)
