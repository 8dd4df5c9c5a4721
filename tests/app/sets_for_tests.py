"""Image sets of the page for the tests of this room."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from app.files import Upload
from app.tabs.images.imagesets import SetFolder
from app.tabs.images.uploads import Stored, store_uploads
from tests.trainer.data.folders_for_tests import picture


def upload(folder: Path, files: Mapping[str, bytes | str]) -> list[Upload]:
    """Files as a browser sends them: each in a folder of its own, under a tame name."""
    uploads = []
    for number, (name, content) in enumerate(files.items()):
        place = folder / f"sent-{number}"
        place.mkdir(parents=True)
        suffix = Path(name).suffix if len(Path(name).suffix) < 8 else ""
        path = place / f"file{suffix}"
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        uploads.append(Upload(path, name))
    return uploads


def made(tmp_path: Path, captions: Mapping[str, str | None]) -> SetFolder:
    """A set of the page's own with a picture for each name, and captions."""
    files: dict[str, bytes | str] = {}
    for seed, (name, caption) in enumerate(captions.items()):
        files[f"{name}.png"] = picture(seed)
        if caption is not None:
            files[f"{name}.txt"] = caption
    return stored(tmp_path, files).image_set


def stored(tmp_path: Path, files: Mapping[str, bytes | str], title: str = "test") -> Stored:
    """What becomes of an upload."""
    return store_uploads(tmp_path / "datasets", upload(tmp_path / "sent", files), title=title)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
