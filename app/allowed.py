"""What a browser may name of this machine's files: image sets, and base models in ``models/``."""

from __future__ import annotations

from pathlib import Path

from trainer import places
from trainer.config.concepts import concepts_of
from trainer.config.fields import all_fields, get_value
from trainer.config.file import ConfigError, Mistake, read_config
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError
from trainer.runs.layout import RunFolder, list_runs


def base_models() -> list[str]:
    """Names of the base models in ``models/``, the user's own among them."""
    models = places.PROJECT / "models"
    found = {
        path.name if path.is_dir() else path.stem
        for folder in (models, models / "user")
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (path / "model_index.json").is_file() or path.suffix.lower() == ".safetensors"
    }
    return sorted(found)


def is_image_set(folder: Path) -> bool:
    """Whether it is an image set, or a folder that a run here was trained on.

    No browser may have any other folder of this machine looked into.
    """
    path = places.PROJECT / folder
    inside = path.relative_to(places.DATASETS).parts if path.is_relative_to(places.DATASETS) else ()
    own = bool(inside) and all(part[0] not in "._" for part in inside)
    return path.is_dir() and (own or path in _used())


def check_base(name: str) -> None:
    """Sees to it that a base model is one in ``models/``, on the hub, or one that a run here has.

    Raises:
        UserError: it is another file or folder of this machine.
    """
    if not _may_name(name):
        raise UserError(
            f"{name} is not in models/: the page opens no other files of this machine.",
            "Put the base model, or a link to it, into models/user/.",
        )


def check_places(config: TrainingConfig) -> None:
    """Sees to it that no field names anything else on this machine, but the image sets.

    Raises:
        UserError: all mistakes at once.
    """
    names = [name for name, field in all_fields().items() if field.place and name != "images.path"]
    values = {name: str(get_value(config, name) or "") for name in names}
    mistakes = [
        Mistake(name, f"{value} is not in datasets/, models/ or runs/: the page opens nothing else")
        for name, value in values.items()
        if value and not _may_name(value)
    ]
    if mistakes:
        hint = "Put it into one of these folders. The command line opens any other."
        raise ConfigError("", mistakes, hint)


def _may_name(name: str) -> bool:
    """Whether it lies where the page's files are, or nowhere, or a run here has it."""
    if name in base_models():
        return True
    try:
        path = places.PROJECT / Path(name).expanduser()
        models = places.PROJECT / "models"
        own = path.parent in (places.DATASETS, models, models / "user", places.ADAPTERS)
        own = own or path.is_relative_to(places.RUNS)
        own = own and ".." not in path.parts and path.name[0] not in "._"
        return own or not path.exists() or path in _used()
    except (OSError, RuntimeError, ValueError):  # what no path can be
        return True


def _used() -> set[Path]:
    """What runs here were made from: their image sets, base models and other files."""
    return set().union(*map(_files_of, list_runs(places.RUNS)))


def _files_of(run: RunFolder) -> set[Path]:
    try:
        config = read_config(run.config)
    except UserError:
        return set()
    named: list[object] = [concept.path for concept in concepts_of(config)]
    named += [get_value(config, name) for name, field in all_fields().items() if field.place]
    return {places.PROJECT / str(one) for one in named if one}
