"""New adapter files from old ones, and downloads: the work is the service's."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from gradio.utils import get_upload_folder

from app import client as service
from app.files import Upload, disk_trouble, slug
from app.tabs.adapters import facts as adapterfacts
from app.tabs.adapters.files import AdapterChoice, find_adapter, free_path, take_in
from trainer.errors import UserError

LAYOUTS = ("kohya", "kohya-sgm", "diffusers")
PRECISIONS = ("fp32", "fp16", "bf16")


def bring_in(upload: Upload) -> AdapterChoice:
    """Keep a dropped file, if it is an adapter that can be read.

    Raises:
        UserError: it is none; nothing is kept then.
    """
    choice = take_in(upload.path, upload.name)
    try:
        adapterfacts.inspect(choice)
    except UserError as error:
        choice.path.unlink(missing_ok=True)
        own = choice.path.name
        message = error.message.replace(str(choice.path.resolve()), own).replace(
            str(choice.path), own
        )
        raise UserError(message, error.hint) from None
    return choice


def convert(choice: AdapterChoice, layout: str, precision: str) -> tuple[AdapterChoice, str]:
    """Another layout or number format; gives the new file and a word on it.

    Raises:
        UserError: the service cannot do it.
    """
    arguments = {
        "file": _path(choice),
        "layout": layout if layout in LAYOUTS else LAYOUTS[0],
        "precision": precision if precision in PRECISIONS else None,
    }
    return _made("adapter.convert", arguments, f"{choice.title} {layout} {precision}")


def resize(choice: AdapterChoice, rank: int | None, share: float) -> tuple[AdapterChoice, str]:
    """Smaller ranks: at most ``rank``, or what keeps ``share`` of each layer.

    Raises:
        UserError: as `convert`.
    """
    goal: dict[str, object] = {"rank": rank} if rank else {"energy": share}
    named = f"rank {rank}" if rank else f"{100 * share:.0f} percent"
    return _made("adapter.resize", {"file": _path(choice), **goal}, f"{choice.title} {named}")


def merge(
    chosen: Sequence[tuple[AdapterChoice, float]], rank: int | None
) -> tuple[AdapterChoice, str]:
    """Several adapters as one, each with its strength.

    Raises:
        UserError: fewer than two, or as `convert`.
    """
    if len(chosen) < 2:
        raise UserError("A merge needs two adapters.", "Choose at least one more.")
    files = [f"{_path(choice)}:{strength:g}" for choice, strength in chosen]
    name = " and ".join(choice.title for choice, _ in chosen)
    return _made("adapter.merge", {"files": files, "rank": rank}, name)


def _made(verb: str, arguments: dict[str, object], name: str) -> tuple[AdapterChoice, str]:
    path = free_path(name)
    answer = service.call(verb, {**arguments, "out": str(path.resolve())}, adapterfacts.SECONDS)
    facts = answer if isinstance(answer, dict) else {}
    return find_adapter(f"file/{path.name}"), adapterfacts.result(facts)


def download(choice: AdapterChoice) -> Path:
    """A zip with the adapter, and the text and picture that other tools show beside it.

    Raises:
        UserError: the file cannot be read, or there is no room.
    """
    stem = slug(choice.run or choice.path.stem) or "adapter"
    with disk_trouble():
        folder = Path(get_upload_folder()) / "downloads" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        out = folder / f"{stem}.zip"
        wanted = {"file": _path(choice), "out": str(out), "name": stem}
        service.call("adapter.download", wanted, adapterfacts.SECONDS)
    return out


def _path(choice: AdapterChoice) -> str:
    return str(choice.path.resolve())
