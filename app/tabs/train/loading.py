"""Files of settings that a browser sends: ours, or those of other trainers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.allowed import is_image_set
from trainer import places
from trainer.config.file import MAX_FILE_BYTES, parse_config
from trainer.config.moving.moved import Moved, SetFacts, move
from trainer.config.moving.theirs import as_theirs, parse, trainer_of
from trainer.config.schema import TrainingConfig
from trainer.data.pairing import count_pictures
from trainer.errors import UserError


def read_settings(files: Sequence[bytes]) -> tuple[TrainingConfig, Moved | None]:
    """One file of ours, or one or several of another trainer with what became of each setting.

    Raises:
        UserError: they are no settings that are known here.
    """
    if not files or any(len(data) > MAX_FILE_BYTES for data in files):
        limit = f"{MAX_FILE_BYTES // 1000} KB"
        raise UserError(
            "This is no file of settings.", f"Choose a TOML, JSON or YAML file of at most {limit}."
        )
    texts = [data.decode("utf-8-sig", "replace") for data in files]
    if len(texts) == 1 and not _of_another(texts[0]):
        return parse_config(texts[0], "The file"), None
    # What they name of this machine's files stays closed.
    theirs = as_theirs([("The file", text) for text in texts], lambda name: None)
    moved = move(theirs, _look)
    return moved.config, moved


def _of_another(text: str) -> bool:
    try:
        return trainer_of(parse(text, "")) is not None
    except UserError:
        return False  # said with its line by what reads ours


def _look(path: Path, reads: str) -> SetFacts | None:
    return count_pictures(places.PROJECT / path, reads) if is_image_set(path) else None
