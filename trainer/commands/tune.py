"""``tune``: finds rate, rank, layers, length and preservation weight for an image set."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from trainer.commands.command import command, option, say
from trainer.commands.train import ConfigFile, Overrides, Presets, gathered_config
from trainer.config.concepts import check_essentials, concepts_of, run_name
from trainer.config.fields import all_fields
from trainer.errors import UserError
from trainer.places import RUNS, shown

if TYPE_CHECKING:
    from trainer.tuning.result import SearchResult


@command(
    "tune",
    "find settings for a folder of pictures, by short trainings of which the better half goes on: "
    "learning rate, rank, layers, steps and preservation weight; what you set yourself stays",
    fields=[field for field in all_fields().values() if field.flag],
)
def tune(
    *,
    run: Annotated[
        Path | None, option("DIR", "Folder of the search; the same command again goes on with it.")
    ] = None,
    config: ConfigFile = None,
    presets: Presets = None,
    overrides: Overrides = None,
    **fields: object,
) -> "SearchResult":
    """Search, at most six times the work of one run; how it goes is said on stderr.

    Raises:
        UserError: a mistake in the configuration or the images, or nothing is left to search.
    """
    whole = gathered_config(config, presets, fields, overrides)
    check_essentials(whole, hint="Give --images DIR and --trigger WORD.")
    if len(concepts_of(whole)) > 1:
        raise UserError(
            "tune searches for one subject at a time.",
            "Give one of them by --images and --trigger.",
        )
    folder = run or RUNS / f"{run_name(whole)}-tune"
    if (folder / "config.toml").is_file():
        hint = "Give the search another folder with --run DIR."
        raise UserError(f"{folder} is a run, not a search.", hint)
    say("Loading …", sys.stderr)
    from trainer.tuning.result import write_result
    from trainer.tuning.search import Search
    from trainer.tuning.space import searched

    given = {*fields, *(text.partition("=")[0].strip() for text in overrides or ())}
    names = searched(whole, given)
    if not names:
        raise UserError(
            "Nothing is left to search: rate, rank, layers, steps and weight are all given.",
            "Leave one of them out.",
        )
    search = Search(whole, folder, names, lambda text: say(text, sys.stderr))
    try:
        return write_result(search, search.run())
    except KeyboardInterrupt:
        say(f"\nEverything is saved in {shown(folder)}; the same command goes on.", sys.stderr)
        raise
