"""The cache never gives back what is not right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.data.cache import TensorCache, content_key
from trainer.errors import UserError


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notices: list[str]) -> TensorCache:
    return TensorCache(tmp_path / "cache", notices.append)


KEY = content_key(image="abc", flip=False)


def test_what_was_put_is_there(cache: TensorCache, notices: list[str]) -> None:
    assert cache.get(KEY) is None
    tensor = torch.randn(4, 8, 8)
    cache.put(KEY, {"latents": tensor, "other": tensor.mT})
    kept = cache.get(KEY)
    assert kept is not None
    assert torch.equal(kept["latents"], tensor)
    assert torch.equal(kept["other"], tensor.mT)
    assert notices == []


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "emptied", "text"])
def test_damage_is_found_and_said(cache: TensorCache, notices: list[str], damage: str) -> None:
    cache.put(KEY, {"latents": torch.zeros(4, 8, 8)})
    (path,) = cache.folder.rglob("*.bin")
    data = bytearray(path.read_bytes())
    if damage == "flipped byte":
        data[len(data) // 2] ^= 1
    changed = {"truncated": data[:-100], "emptied": b"", "text": b"<html>"}.get(damage, data)
    path.write_bytes(changed)
    assert cache.get(KEY) is None
    assert len(notices) == 1
    assert "damaged" in notices[0]
    assert not path.exists()


def test_keys_follow_every_fact() -> None:
    assert content_key(a=1, b=2) == content_key(b=2, a=1)
    keys = {content_key(a=1), content_key(a=2), content_key(b=1), content_key(a="1")}
    assert len(keys) == 4


def test_nothing_is_left_of_a_failed_write(
    cache: TensorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(UserError, match="disk is full: there is no room for the cache"):
        cache.put(KEY, {"latents": torch.zeros(1)})
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []
