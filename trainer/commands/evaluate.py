"""``evaluate``: does the trigger word work, does it leak, what else changed, what to use."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.command import command, option, say_progress
from trainer.config.fields import field_help
from trainer.places import cache_folder

if TYPE_CHECKING:
    from trainer.evaluation.assessment import Assessment


@command("evaluate", "measure whether an adapter works, whether it leaks, and what to use")
def evaluate(
    place: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_ADAPTER", help="A run's folder or name, or any file."),
    ],
    *,
    base: Annotated[str | None, option("NAME", "Instead of the one it was trained on.")] = None,
    trigger: Annotated[str | None, option("WORD", "Instead of what the file says.")] = None,
    class_word: Annotated[str | None, option("WORD", "Instead of what the file says.")] = None,
    images: Annotated[Path | None, option("DIR", "The image set, to measure likeness by.")] = None,
    scorers: Annotated[Path | None, option("DIR", field_help("evaluation.scorers"))] = None,
) -> "Assessment":
    """Measure a run or an adapter file; how far it is, it says on stderr.

    A run keeps it: ``evaluation.json``, the board in ``evaluation/`` and the report.

    Raises:
        UserError: there is nothing to measure, or no trigger word is known.
    """
    import torch

    from trainer.data.cache import TensorCache
    from trainer.evaluation.assessment import assess, write_assessment
    from trainer.evaluation.target import find_target
    from trainer.memory.devices import choose_device
    from trainer.memory.modes import load_training_base
    from trainer.runs.report import write_report

    given = {"base": base, "trigger": trigger, "class_word": class_word}
    target = find_target(place, **given, images=images)
    config = target.config
    # On a GPU as it was trained, so that it fits; a CPU is faster in its own way.
    on_gpu = torch.accelerator.is_available()
    device = choose_device(
        config.training.precision if on_gpu else "auto",
        offload=on_gpu and config.memory.offload,
    )
    model, config, device = load_training_base(config, device)
    device.put(model.unet, *model.text_encoders)
    cache = TensorCache(cache_folder(), lambda _: None)
    target = replace(target, config=config)
    own = target.run is not None and not any((*given.values(), images))
    board = target.run.bleed_board if target.run and own else None
    scorers = scorers or config.evaluation.scorers
    found = assess(
        model, target, device, cache, board=board, scorers=scorers, progress=say_progress
    )
    if target.run and own:
        write_assessment(found, target.run)
        write_report(target.run)
    return found
