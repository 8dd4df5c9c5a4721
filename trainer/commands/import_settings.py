"""``import``: settings of other trainers as a configuration of ours."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.answers import Answer, plain
from trainer.commands.command import command, option
from trainer.config.fields import all_fields, get_value
from trainer.config.file import read_text, write_config
from trainer.config.moving.moved import Moved, move
from trainer.config.moving.theirs import as_theirs
from trainer.data.pairing import count_pictures
from trainer.errors import UserError


@dataclass(frozen=True)
class Imported(Answer):
    """What `import_settings` gives: the settings, and the file they were written to."""

    moved: Moved
    out: Path | None

    def as_dict(self) -> dict[str, Any]:
        """``values`` are those that are not as they are here anyway."""
        moved, config = self.moved, self.moved.config
        tree = config.model_dump(mode="json")
        values = {
            name: tree[field.section][field.key]
            for name, field in all_fields().items()
            if get_value(config, name) != field.default
        }
        return {
            "trainer": moved.trainer,
            "values": values | ({"concepts": tree["concepts"]} if tree["concepts"] else {}),
            "taken": plain(moved.taken),
            "without_counterpart": plain(moved.lost),
            "not_needed": list(moved.needless),
            "written": plain(self.out),
        }

    def lines(self) -> list[str]:
        if self.out is None:
            return [*self.moved.lines(), "Write it to a file with --out FILE.toml."]
        how = f"Train with it:  python launch.py train --config {self.out}"
        return [*self.moved.lines(), f"Written to {self.out}", how]


@command(
    "import",
    "turn another trainer's settings into a configuration, and say what is different or missing "
    "here; those of kohya, OneTrainer and ai-toolkit",
)
def import_settings(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="Their file, or several: a trainer file and a dataset file."
        ),
    ],
    *,
    out: Annotated[Path | None, option("FILE", "Write the configuration to this file.")] = None,
) -> Imported:
    """Reads settings of another trainer; nothing of them is changed.

    Raises:
        UserError: a file can't be read, is no such settings, or is for models that are not Stable
            Diffusion; or ``out`` exists.
    """
    if out is not None and out.exists():
        raise UserError(f"{out} exists already.", "Give --out another name.")
    for file in files:
        if file.is_dir():
            raise UserError(f"{file} is a folder.", "Give the file of settings that lies in it.")
        if file.suffix.casefold() in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
            reason = f"{file} is a model or an adapter, not a file of settings."
            raise UserError(reason, f"What it says of itself: adapter inspect {file}")
    theirs = as_theirs(
        [(str(file), read_text(file)) for file in files], partial(_read_named, files[0].parent)
    )
    theirs.sets[:] = [replace(one, path=_placed(files[0].parent, one.path)) for one in theirs.sets]
    moved = move(theirs, count_pictures)
    if out is not None:
        write_config(out, moved.config)
    return Imported(moved, out)


def _read_named(folder: Path, name: str) -> str | None:
    """A file that their settings name; None where it is not on this machine."""
    for path in (Path(name), folder / name):
        if path.is_file():
            return read_text(path)
    return None


def _placed(folder: Path, name: str) -> str:
    """The whole path of a relative one, which leads from here or from beside their file, so that
    the configuration can be trained from any folder; as it is where nothing is there."""
    if not name or Path(name).is_absolute():
        return name
    return next((str(one.resolve()) for one in (Path(name), folder / name) if one.is_dir()), name)
