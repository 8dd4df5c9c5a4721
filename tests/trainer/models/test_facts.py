"""What is known of a base model before anything is loaded: one table for all who ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.trainer.models.original_layout import write_original
from trainer.errors import UserError
from trainer.models import hub
from trainer.models.facts import NAMES, read_facts, short_name_of
from trainer.models.identify import BaseIdentity

HUB_IDS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("sd1", "epsilon", 512),
    "Lykon/dreamshaper-8": ("sd1", "epsilon", 512),
    "stabilityai/stable-diffusion-2-base": ("sd2", "epsilon", 512),
    "stabilityai/stable-diffusion-2-1-base": ("sd2", "epsilon", 512),
    "stabilityai/stable-diffusion-2": ("sd2", "v_prediction", 768),
    "stabilityai/stable-diffusion-2-1": ("sd2", "v_prediction", 768),
    "stabilityai/stable-diffusion-xl-base-1.0": ("sdxl", "epsilon", 1024),
    "someone/ponyDiffusionV6": ("sdxl", "epsilon", 1024),
    "OnomaAIResearch/Illustrious-v2.0": ("sdxl", "epsilon", 1024),
}


@pytest.mark.parametrize("name", HUB_IDS)
def test_hub_ids_are_judged_by_their_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "download", None)
    monkeypatch.setattr(hub, "cached_snapshot", lambda _: None)
    found = read_facts(name)
    assert (found.family.name, found.prediction_type, found.resolution) == HUB_IDS[name]
    assert found.resolution_step == 64
    assert not isinstance(found, BaseIdentity)


@pytest.mark.parametrize(("short", "side"), [("sd15", 512), ("sd2", 512), ("sd2-v", 768)])
def test_short_names_stand_for_families(short: str, side: int) -> None:
    found = read_facts(short)
    assert (found.resolution, found.latent_factor) == (side, 8)
    assert (found.family.name, found.prediction_type) == NAMES[short]


def test_what_is_here_is_asked_whatever_its_name(
    tiny_base: TinyBase, tiny_configs: Path, tmp_path: Path
) -> None:
    path = write_original(tiny_base("sd1"), tmp_path / "pony-xl.safetensors")
    for name in (str(path), str(tiny_base("sd1"))):
        found = read_facts(name)
        assert isinstance(found, BaseIdentity)
        assert (found.family.name, found.resolution, found.resolution_step) == ("sd1", 32, 16)
    assert read_facts("tiny-emoji").resolution == 64


def test_names_of_files_tell_as_well() -> None:
    assert short_name_of("/models/xl/some-sd15.safetensors") == "sd15"
    assert short_name_of("C:\\models\\ponyDiffusionV6.safetensors") == "sdxl"
    assert short_name_of("my-model.safetensors") is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("someone/something", "has not been downloaded"),
        ("pony-xl", "no base model"),
        ("", "no base"),
    ],
)
def test_what_says_nothing_is_refused(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "cached_snapshot", lambda _: None)
    with pytest.raises(UserError, match=says) as caught:
        read_facts(name)
    assert caught.value.hint
