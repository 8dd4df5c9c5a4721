"""What a stranger made is decoded elsewhere: the same pixels and words, and an end to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.corpus.pictures import claimed_bombs, disguised, encode, long_gif, pattern, text_bombs
from tests.trainer.data.folders_for_tests import picture
from tests.trainer.runs_for_tests import make_images
from trainer.data import decoder, images
from trainer.data.decoder import ScanCache
from trainer.data.images import ImageFacts, ImageProblem, inspect_image
from trainer.data.sets import scan_image_set

KINDS = ("JPEG", "PNG", "WEBP", "BMP", "AVIF", "GIF", "TIFF")
TOO_LONG = "takes too long"


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    """Helpers of this test alone."""
    decoder._pool.forget()
    yield
    for helper in decoder._pool._idle:
        helper.end()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every process that is started."""
    processes: list[object] = []
    real = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> Any:
        processes.append(real(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(decoder.subprocess, "Popen", popen)
    return processes


def plain(facts: ImageFacts) -> tuple[object, ...]:
    """What was seen of a picture, to compare."""
    return facts.header, facts.digest, facts.transparent, facts.thumbnail.tolist()


def test_it_gives_what_the_decoder_gives(tmp_path: Path, started: list[object]) -> None:
    """And does so in one process for all."""
    large = encode(Image.new("RGB", (4100, 4000), "red"), "PNG")  # decoded one at a time
    for data in (*(encode(pattern(), kind) for kind in KINDS), large):
        path = tmp_path / "a \udce9"
        path.write_bytes(data)
        for source in (path, data):
            assert plain(decoder.inspect_image(source)) == plain(images.inspect_image(source))
            pixels = decoder.load_rgb(source, "#102030")
            assert pixels.tobytes() == images.load_rgb(source, "#102030").tobytes()
        assert decoder.read_texts(path) == images.read_texts(path)
    assert len(started) == 1


def test_it_refuses_in_the_same_words(tmp_path: Path) -> None:
    cases = [data for _, data, _ in disguised()]
    cases += [data for _, data in (*claimed_bombs(), *text_bombs())]
    cases += [b"", encode(pattern(), "PNG")[:200]]
    for data in cases:
        with pytest.raises(ImageProblem) as expected:
            images.inspect_image(data)
        with pytest.raises(ImageProblem) as seen:
            decoder.inspect_image(data)
        assert str(seen.value) == str(expected.value)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageProblem, match="a pipe"):
        decoder.inspect_image(tmp_path / "pipe.png")


def test_a_picture_that_takes_minutes_is_left_out_of_its_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """79 s of processor time for 5 MB; the budget is one second here."""
    monkeypatch.setattr(decoder, "CPU_SECONDS", 1)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "1.gif").write_bytes(long_gif())
    found = scan_image_set(tmp_path)
    assert len(found.entries) == 3 and found.left_out == ("1.gif",)
    assert TOO_LONG in str(found.findings[0])
    assert decoder.read_texts(tmp_path / "1.gif") == {}
    with pytest.raises(ImageProblem, match=TOO_LONG):
        decoder.load_rgb(tmp_path / "1.gif")


def test_a_crash_or_a_disk_that_never_answers_is_the_pictures_fault_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(pattern(), "PNG")
    decoder.inspect_image(data)
    helper = decoder._pool._idle[0]
    monkeypatch.setattr(helper.process, "poll", lambda: None)  # it dies as it is asked
    helper.process.kill()
    with pytest.raises(ImageProblem, match="crashed"):
        decoder.inspect_image(data)
    assert decoder.inspect_image(data).header.width == 96
    helper = decoder._pool._idle.pop()
    helper._lose_patience()
    assert TOO_LONG in helper.problem().reason


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

    monkeypatch.setattr(decoder, "inspect_image", inspect)
    monkeypatch.setattr(decoder, "SETTLED_NS", -1)
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
    assert list(map(plain, look(tmp_path, pictures))) == list(map(plain, first))
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
    monkeypatch.setattr(decoder, "SETTLED_NS", 3600 * 10**9)
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
