"""``caption``: captions for the pictures of a set, by the base model, a server or a local model."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import Field, ValidationError

from trainer.captioning.wording import (
    CHARACTER,
    GENERAL,
    MOST_WORDS,
    Purpose,
    Wording,
    check_wording,
)
from trainer.commands.command import (
    Base,
    Download,
    OnlyPictures,
    command,
    option,
    say_now,
    say_progress,
)
from trainer.config.fields import field_help
from trainer.config.section import FilePath, Section, Several
from trainer.errors import UserError
from trainer.events import Progress
from trainer.places import CAPTIONERS, SERVERS, captioner_folders

if TYPE_CHECKING:
    from trainer.captioning.sets import CaptionedSet, Captioner

PURPOSES = "What the set is to teach: thing (default), person or style."


@command("caption", "propose captions for an image set, and write them")
def caption(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    base: Base = "tiny-emoji",
    server: Annotated[
        str,
        option("URL", "Ask a server with OpenAI's protocol, such as http://127.0.0.1:11434/v1."),
    ] = "",
    model: Annotated[
        str,
        option(
            "NAME", "The server's model; without --server a local model's folder or its hub id."
        ),
    ] = "",
    download: Download = False,
    purpose: Annotated[Literal["thing", "person", "style"], option(None, PURPOSES)] = "thing",
    trigger: Annotated[str, option("WORD", field_help("captions.trigger"))] = "",
    class_word: Annotated[str, option("WORD", field_help("captions.class_word"))] = "",
    leave_out: Annotated[
        list[str] | None, option("WORDS", "Words that no caption may have. Give it once for each.")
    ] = None,
    candidates: Annotated[
        list[str] | None,
        option("WORD", "Another class word for the base model to try. Give it once for each."),
    ] = None,
    prompt: Annotated[
        str, option("TEXT", "Instructions for the model, instead of the built-in ones.")
    ] = "",
    words: Annotated[
        int, option("N", f"A caption has at most so many words ({MOST_WORDS}).")
    ] = MOST_WORDS,
    picture: OnlyPictures = None,
    all: Annotated[bool, typer.Option("--all", help="Also pictures that have a caption.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the captions beside the pictures.")
    ] = False,
    general: Annotated[
        float, option("SHARE", f"How sure a tagger must be of a tag ({GENERAL}).")
    ] = GENERAL,
    character: Annotated[
        float, option("SHARE", f"How sure it must be of a character's name ({CHARACTER}).")
    ] = CHARACTER,
    parallel: Annotated[
        int, option("N", "How many requests to send to a server at a time (4).")
    ] = 4,
    timeout: Annotated[
        float, option("SECONDS", "How long to wait for a server's answer (120).")
    ] = 120,
) -> "CaptionedSet":
    """Proposes captions; without --write nothing is changed, and with it only what is empty.

    Raises:
        UserError: there is no such set, server or model, or it can't go on.
        OSError: a caption cannot be written.
    """
    from trainer.captioning.server import ServerCaptioner, server_of
    from trainer.captioning.sets import caption_set, write_captions

    for name, share in (("general", general), ("character", character)):
        if not 0 <= share <= 1:
            raise UserError(
                f"--{name} {share:g} is not between 0 and 1.", "0.35 is usual for tags."
            )
    left_out = tuple(leave_out or ())
    wording = check_wording(Wording(purpose, trigger, class_word, left_out, prompt, words))

    def load() -> "Captioner":
        if server:
            return ServerCaptioner(server_of(server, model, parallel, timeout))
        return _captioner(
            base, model, say_now, candidates or (), download=download, general=general,
            character=character,
        )  # fmt: skip

    found = caption_set(
        folder, load, wording, everything=all, pictures=picture or (), progress=say_progress
    )
    return write_captions(found) if write else found


class CaptionRequest(Section):
    """What the page asks for.

    Only servers that the machine's owner wrote down and models in `places.CAPTIONERS`, by name.
    """

    folder: FilePath
    server: str = Field(default="", max_length=200)
    model: str = Field(default="", max_length=200)
    base: str = Field(default="tiny-emoji", min_length=1)
    purpose: Purpose = "thing"
    trigger: str = Field(default="", max_length=200)
    class_word: str = Field(default="", max_length=200)
    leave_out: Several[str] = Field(default=(), max_length=200)
    candidates: Several[str] = Field(default=(), max_length=200)
    prompt: str = ""
    words: int = MOST_WORDS
    everything: bool = False
    pictures: Several[str] = Field(default=(), max_length=10_000)


def propose(
    values: object, progress: Progress, check: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """What ``caption --json`` prints, for a `CaptionRequest`; writes nothing.

    Args:
        check: is called before and while a model is used on this machine; what it raises ends it.

    Raises:
        UserError: as `caption`.
    """
    from trainer.captioning.server import ServerCaptioner, owner_servers
    from trainer.captioning.sets import caption_set

    try:
        asked = CaptionRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    wording = check_wording(
        Wording(
            *(asked.purpose, asked.trigger, asked.class_word, asked.leave_out),
            *(asked.prompt, asked.words),
        )
    )

    say = partial(progress, 0, 0)

    def load() -> "Captioner":
        if asked.server:
            servers = owner_servers()
            if asked.server not in servers:
                raise UserError(
                    f"There is no server {asked.server} in {SERVERS.name}.",
                    "The owner of this machine writes it there.",
                )
            return ServerCaptioner(servers[asked.server])
        check()
        if asked.model and asked.model not in captioner_folders():
            raise UserError(f"There is no model {asked.model} in {CAPTIONERS}.", "Put it there.")
        model = str(CAPTIONERS / asked.model) if asked.model else ""
        return _captioner(asked.base, model, say, asked.candidates, check)

    return caption_set(
        asked.folder,
        load,
        wording,
        everything=asked.everything,
        pictures=asked.pictures,
        progress=progress,
    ).as_dict()


def _captioner(
    base: str,
    model: str,
    say: Callable[[str], None],
    candidates: Sequence[str] = (),
    check: Callable[[], None] = lambda: None,
    *,
    download: bool = False,
    general: float = GENERAL,
    character: float = CHARACTER,
) -> "Captioner":
    """A model on this machine: the named one, or the base model where none is named."""
    from trainer.captioning.finding import find_model
    from trainer.captioning.memory import loading, memory_of

    if not model:
        from trainer.captioning.base import BaseCaptioner

        say(loading(f"the base model {base}"))
        return BaseCaptioner(base, candidates, check)
    folder = find_model(model, download)
    if (folder / "selected_tags.csv").is_file():
        from trainer.captioning.onnx_models import Tagger

        say(loading(folder.name, memory_of(folder)))
        return Tagger(folder, check, general=general, character=character)
    from trainer.captioning.models import LocalCaptioner
    from trainer.memory.devices import choose_device

    say(loading(folder.name, memory_of(folder, choose_device("auto").dtype.itemsize)))
    return LocalCaptioner(folder, check)
