"""``evaluate``: does the trigger word work, does it leak, what else changed, what to use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from trainer.config.resolve import resolve
from trainer.data.cache import TensorCache
from trainer.evaluation.assessment import Assessment, assess, finite, write_assessment
from trainer.evaluation.target import find_target
from trainer.evaluation.verdicts import Candidate
from trainer.memory.devices import choose_device
from trainer.memory.modes import load_training_base, with_bounded_rows
from trainer.places import cache_folder, shown
from trainer.runs.meters import METERS
from trainer.runs.report import write_report

COLUMNS = ("step", "strength", *(meter.title for meter in METERS))


def evaluate(
    place: Path,
    *,
    base_name: str | None = None,
    trigger: str | None = None,
    class_word: str | None = None,
    images: Path | None = None,
    scorers: Path | None = None,
    as_json: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> int:
    """Measure a run or an adapter file, and print what was found.

    A run keeps it: ``evaluation.json``, the board in ``evaluation/`` and the report.

    Raises:
        UserError: there is nothing to measure, or no trigger word is known.
    """
    report = progress or (_say if not as_json else lambda *_: None)
    target = find_target(
        place, base=base_name, trigger=trigger, class_word=class_word, images=images
    )
    config = target.config
    # On a GPU as it was trained, so that it fits; a CPU is faster in its own way.
    on_gpu = torch.accelerator.is_available()
    device = choose_device(
        config.training.precision if on_gpu else "auto",
        offload=on_gpu and config.memory.offload,
    )
    base = load_training_base(config, device)
    device.put(base.unet, *base.text_encoders)
    cache = TensorCache(cache_folder(), lambda _: None)
    config = resolve(config, base)
    base.tiling = config.memory.vae_tiling == "on"
    device = with_bounded_rows(device, config)
    target = replace(target, config=config)
    own = target.run is not None and not any((base_name, trigger, class_word, images))
    board = target.run.bleed_board if target.run and own else None
    scorers = scorers or config.evaluation.scorers
    found = assess(base, target, device, cache, board=board, scorers=scorers, progress=report)
    if target.run and own:
        write_assessment(found, target.run)
        write_report(target.run)
    if as_json:
        print(json.dumps(finite(found.json()), indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: Assessment) -> list[str]:
    """The assessment for the terminal."""
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
    chosen = found.recommended.candidate
    if chosen:
        result.append(f"Use {chosen.file} at strength {chosen.strength:g}: {found.recommended.why}")
    else:
        result.append(found.recommended.why)
    if found.board:
        result.append(f"Board: {shown(found.board)}")
    return result


def table(candidates: list[Candidate]) -> list[str]:
    """One line for each checkpoint and strength."""
    rows = [COLUMNS, *(_row(one) for one in candidates)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _row(one: Candidate) -> tuple[str, ...]:
    values = [getattr(one.meters, meter.name) for meter in METERS]
    step = "-" if one.step is None else str(one.step)
    return (step, f"{one.strength:g}", *("-" if v is None else f"{v:.3f}" for v in values))


def _say(done: int, total: int, message: str) -> None:
    print(f"{message} {done}/{total}" if total > 1 else message, file=sys.stderr, flush=True)
