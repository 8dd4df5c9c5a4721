"""Measuring a run while it goes on. Nothing here changes what is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property

from trainer.config.concepts import concepts_of
from trainer.evaluation.meters import MeasuredConcept, MeterBench, mean_meters
from trainer.events import Evaluated, Meters, RunEvent, Validated
from trainer.runs.log import last_of, read_events
from trainer.training.session import Session

MARGIN = 0.005  # a rise of the likeness by less than this is not an improvement


class Watch:
    """The measurements of one run, also those before it was resumed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.history = history(read_events(session.run), session.step)

    def measure(self) -> tuple[Validated | None, Evaluated]:
        """The meters of the adapter (its running averages, where there are any) as it is now."""
        session, started = self.session, time.perf_counter()
        with session.averaged():
            meters = mean_meters(self.bench.measure())
        self.history[session.step] = meters
        seconds = round(time.perf_counter() - started, 3)
        evaluated = Evaluated(session.step, meters, seconds)
        if meters.validation_loss is None or meters.training_loss is None:
            return None, evaluated
        losses = (meters.validation_loss, meters.training_loss)
        return Validated(session.step, *losses, meters.held_out), evaluated

    @cached_property
    def bench(self) -> MeterBench:
        """What is measured with; made when it is first needed."""
        session = self.session
        return MeterBench(
            session.base,
            concepts_with_pictures(session),
            session.device,
            session.text.cache,
            session.batches.source,
            masks=session.batches.masks,
            objective=session.config.objective,
            side=session.config.images.resolution,
        )

    def exhausted(self, patience: int) -> bool:
        """Whether the last so many measurements brought no better likeness; never for 0.

        Those that a run has gone back behind do not count.
        """
        steps = sorted(step for step in self.history if step <= self.session.step)
        values = [self.history[step].likeness for step in steps]
        known = [value for value in values if value is not None]
        if patience == 0 or len(known) <= patience:
            return False
        return max(known[-patience:]) < max(known[:-patience]) + MARGIN


def concepts_with_pictures(session: Session) -> list[MeasuredConcept]:
    """The concepts of a run with their pictures."""
    trained = list(zip(session.pictures, session.captions, strict=True))
    return [
        MeasuredConcept(
            concept.trigger,
            concept.class_word,
            tuple(pair for pair in trained if pair[0].concept == number),
            tuple(pair for pair in session.held_out if pair[0].concept == number),
        )
        for number, concept in enumerate(concepts_of(session.config))
    ]


def history(events: Sequence[RunEvent], step: int) -> dict[int, Meters]:
    """What the log says was measured up to a step; steps that were done again count once."""
    found = last_of(events, Evaluated)
    return {at: one.meters for at, one in found.items() if at <= step}
