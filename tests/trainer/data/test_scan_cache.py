"""What is remembered of pictures: only of those that can't have changed since."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.runs_for_tests import make_images
from trainer.data import scan_cache
from trainer.data.images import ImageFacts, ImageProblem, inspect_image
from trainer.data.scan_cache import ScanCache


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return sorted(make_images(tmp_path / "pictures", captions=False).iterdir())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that were decoded; none of them counts as changed just now."""
    names: list[str] = []

    def inspect(path: Path) -> ImageFacts:
        names.append(path.name)
        return inspect_image(path)

    monkeypatch.setattr(scan_cache, "inspect_image", inspect)
    monkeypatch.setattr(scan_cache, "SETTLED_NS", -1)
    return names


def look(folder: Path, pictures: list[Path]) -> list[ImageFacts]:
    """One run's look at a set."""
    known = ScanCache(folder / "inspections", folder / "pictures")
    found = [known.inspect(picture) for picture in pictures]
    known.save()
    return found


def test_a_second_run_decodes_nothing(
    tmp_path: Path, pictures: list[Path], decoded: list[str]
) -> None:
    first = look(tmp_path, pictures)
    assert len(decoded) == len(pictures)
    for one, other in zip(look(tmp_path, pictures), first, strict=True):
        assert (one.header, one.digest, one.transparent) == (
            other.header,
            other.digest,
            other.transparent,
        )
        assert np.array_equal(one.thumbnail, other.thumbnail)
    assert len(decoded) == len(pictures)


def test_an_edited_picture_is_decoded_again(
    tmp_path: Path, pictures: list[Path], decoded: list[str]
) -> None:
    """Even where its size and time of change were put back."""
    look(tmp_path, pictures)
    decoded.clear()
    edited = pictures[1]
    status, data = edited.stat(), edited.read_bytes()
    edited.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert edited.stat().st_size == status.st_size
    look(tmp_path, pictures)
    assert decoded == [edited.name]


def test_what_was_changed_just_now_is_not_remembered(
    tmp_path: Path, pictures: list[Path], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_cache, "SETTLED_NS", 3600 * 10**9)
    look(tmp_path, pictures)
    look(tmp_path, pictures)
    assert len(decoded) == 2 * len(pictures)


@pytest.mark.parametrize("content", ["", "[]", '{"PATH": [[], {}]}', '{"PATH": 5}'])
def test_a_damaged_memory_is_made_anew(
    tmp_path: Path, pictures: list[Path], decoded: list[str], content: str
) -> None:
    known = ScanCache(tmp_path / "inspections", tmp_path / "pictures")
    known.path.parent.mkdir()
    known.path.write_text(content.replace("PATH", str(pictures[0])))
    look(tmp_path, pictures)
    look(tmp_path, pictures)
    assert len(decoded) == len(pictures)


def test_pictures_that_are_gone_are_forgotten_and_damaged_ones_reported(
    tmp_path: Path, pictures: list[Path], decoded: list[str]
) -> None:
    look(tmp_path, pictures)
    look(tmp_path, pictures[1:])
    decoded.clear()
    pictures[2].write_bytes(pictures[2].read_bytes()[:100])
    known = ScanCache(tmp_path / "inspections", tmp_path / "pictures")
    known.inspect(pictures[0])
    for _ in range(2):
        with pytest.raises(ImageProblem):
            known.inspect(pictures[2])
    assert decoded == [pictures[0].name, pictures[2].name, pictures[2].name]
