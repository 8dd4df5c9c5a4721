"""``publish``: a finished run for others, on the Hugging Face hub or as a zip."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer import places
from trainer.commands.command import command, option
from trainer.runs.layout import RunFolder, open_run


@dataclass(frozen=True)
class Published:
    """What was done, and what is or would be public."""

    says: list[str]  # the contents, a line each
    address: str  # on the hub; "" where nothing was uploaded
    zip: str  # the file that was written; "" for none

    def as_dict(self) -> dict[str, Any]:
        return {"contents": self.says, "address": self.address, "zip": self.zip}

    def lines(self) -> list[str]:
        done = [f"Wrote {self.zip}."] if self.zip else []
        done += [f"Uploaded: {self.address}"] if self.address else ["Nothing was uploaded."]
        return ["It holds:", *(f"  {line}" for line in self.says), *done]


@command("publish", "show what a run would publish; with --to or --zip, do it")
def publish(
    place: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder or name.")],
    *,
    to: Annotated[
        str, option("OWNER/NAME", "Upload to the Hugging Face hub; private unless --public.")
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="Everyone may see what is uploaded.")
    ] = False,
    archive: Annotated[
        Path | None,
        option("FILE", "Write a zip for model sites: adapter, pictures, card.", "--zip"),
    ] = None,
    keep_tags: Annotated[
        bool,
        typer.Option("--keep-tags", help="Leave the tags of your captions in the adapter's file."),
    ] = False,
) -> Published:
    """Without --to and --zip only says what would be public. The token is HF_TOKEN or your login's.

    Raises:
        UserError: there is no adapter, the zip is there already, or the hub refuses.
    """
    from trainer.runs.publishing import publication, write_zip

    one = publication(_run(place), keep_tags)
    written = str(write_zip(one, archive)) if archive else ""
    address = upload_run(place, to, public=public, keep_tags=keep_tags).address if to else ""
    return Published(one.says(), address, written)


def upload_run(
    place: Path, to: str, token: str = "", public: bool = False, keep_tags: bool = False
) -> Published:
    """Uploads what a run publishes; see `trainer.models.hub.upload`."""
    from trainer.models.hub import upload
    from trainer.runs.publishing import contents, publication

    one = publication(_run(place), keep_tags)
    return Published(one.says(), upload(to, contents(one), token, public), "")


def _run(place: Path) -> RunFolder:
    named = places.RUNS / place
    return open_run(named if named.is_dir() and not place.is_dir() else place)
