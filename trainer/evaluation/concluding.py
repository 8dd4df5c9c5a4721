"""The measurements at the end of a training: the same object as ``evaluate --json`` prints."""

from __future__ import annotations

from pathlib import Path

from trainer.evaluation.assessing import Assessment, Plan, assess, write_assessment
from trainer.evaluation.target import Target, run_files
from trainer.evaluation.watching import history
from trainer.lora.attach import detach
from trainer.runs.log import read_events
from trainer.training.session import Session


def conclude(session: Session) -> Assessment:
    """Measure what a finished run has made, and keep it in the run folder.

    The adapter in training is taken off the base model: its file is measured, which is what people
    will use. What was measured during training is not measured again.

    Raises:
        UserError: an adapter file or the image set can't be read any more.
    """
    run, config = session.run, session.config
    detach(session.base, session.attachment.name)
    found = assess(
        session.base,
        Target(config, run_files(run), run, held_out=True),
        session.device,
        session.text.cache,
        Plan(board=config.evaluation.board, pictures=0),
        run.bleed_board,
        known=history(read_events(run), session.step),
    )
    write_assessment(found, run)
    return found


def sentences(found: Assessment) -> list[str]:
    """What the end of a training says: does it work, does it leak, what else changed."""
    said = [finding.says for finding in found.findings]
    chosen, result = found.recommended.candidate, found.checkpoints[-1]
    if chosen and (chosen.file, chosen.strength) != (result.file, result.strength):
        name = Path(chosen.file).as_posix()
        said.append(
            f"Perhaps better: {name} at strength {chosen.strength:g}: {found.recommended.why}"
        )
    return said
