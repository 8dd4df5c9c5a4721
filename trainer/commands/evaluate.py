"""``evaluate``: does the trigger word work, does it leak, what else changed, what to use."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.command import command, option, say_progress
from trainer.config.fields import field_help
from trainer.places import cache_folder, shown
from trainer.runs.meters import METERS

if TYPE_CHECKING:
    from trainer.evaluation.assessment import Assessment
    from trainer.evaluation.verdicts import Candidate

COLUMNS = ("step", "strength", *(meter.title for meter in METERS))


@dataclass(frozen=True)
class EvaluationAnswer:
    """What was found of a run or a file."""

    found: "Assessment"

    def as_dict(self) -> dict[str, object]:
        """For ``--json`` and a run's ``evaluation.json``."""
        from trainer.evaluation.assessment import finite

        plain = finite(self.found.json())
        return plain if isinstance(plain, dict) else {}

    def lines(self) -> list[str]:
        """For people."""
        found = self.found
        words = found.trigger + (f", class word {found.class_word}" if found.class_word else "")
        result = [f"Trigger word {words}", "", *(finding.says for finding in found.findings)]
        if found.pictures:
            parts = [
                f"{name} {found.pictures.trigger[name]:.2f} with the trigger, "
                f"{found.pictures.class_word[name]:.2f} without"
                for name in found.pictures.trigger
            ]
            result.append(f"Pictures like the set: {'; '.join(parts)}.")
        result += [*found.notes, "", *table([*found.checkpoints, *found.strengths[:-1]]), ""]
        chosen, why = found.recommended.candidate, found.recommended.why
        used = f"Use {chosen.file} at strength {chosen.strength:g}: " if chosen else ""
        result.append(used + why)
        if found.board:
            result.append(f"Board: {shown(found.board)}")
        return result


@command("evaluate", "whether the trigger word works, whether it leaks, and what to use")
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
) -> EvaluationAnswer:
    """Measure a run or an adapter file; how far it is, it says on stderr.

    A run keeps it: ``evaluation.json``, the board in ``evaluation/`` and the report.

    Raises:
        UserError: there is nothing to measure, or no trigger word is known.
    """
    import torch

    from trainer.config.resolve import resolve
    from trainer.data.cache import TensorCache
    from trainer.evaluation.assessment import assess, write_assessment
    from trainer.evaluation.target import find_target
    from trainer.memory.devices import choose_device
    from trainer.memory.modes import load_training_base, with_bounded_rows
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
    model = load_training_base(config, device)
    device.put(model.unet, *model.text_encoders)
    cache = TensorCache(cache_folder(), lambda _: None)
    config = resolve(config, model)
    model.tiling = config.memory.vae_tiling == "on"
    device = with_bounded_rows(device, config)
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
    return EvaluationAnswer(found)


def table(candidates: "list[Candidate]") -> list[str]:
    """One line for each checkpoint and strength."""
    rows = [COLUMNS, *(_row(one) for one in candidates)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _row(one: "Candidate") -> tuple[str, ...]:
    values = [getattr(one.meters, meter.name) for meter in METERS]
    step = "-" if one.step is None else str(one.step)
    return (step, f"{one.strength:g}", *("-" if v is None else f"{v:.3f}" for v in values))
