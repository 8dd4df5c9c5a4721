"""What size a base model trains at, as far as it can be told without loading anything."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import UserError
from trainer.models.facts import facts_of, read_facts, short_name_of
from trainer.models.identify import BaseIdentity


@dataclass(frozen=True)
class Frame:
    """What pictures are fitted to.

    Attributes:
        resolution: side in pixels of the squares that the base model was trained on.
        step: sides of training pictures are multiples of it, in pixels.
        known: read from the base model itself, and not guessed from its name.
    """

    resolution: int
    step: int
    known: bool


def frame_of(base: str) -> Frame:
    """The frame of a base model by its name; of what is nowhere and says nothing, that of SD 1."""
    try:
        facts = read_facts(base)
    except UserError:
        facts = facts_of(short_name_of(base) or "sd15")
    return Frame(facts.resolution, facts.resolution_step, known=isinstance(facts, BaseIdentity))
