"""Several adapters at once on one base model, changed without loading the base again.

What the model gives depends on the adapters that are set, never on what was set before. A layer
adds their changes in the order of the list, and rounding depends on that order; so an adapter stays
where it is only as long as it would come to lie there anyway.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from trainer.lora.attach import check_strength, detach, set_strength
from trainer.lora.loading import check_fit, load_into
from trainer.models.base import BaseModel
from trainer.training.checkpoints import adapter_label, read_any_adapter

Strength = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]


@dataclass(frozen=True)
class AdapterUse:
    """An adapter and how strongly it acts; 0 is exactly the base model.

    The ranges hold where pydantic makes one, as of a request.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    file: Path  # an adapter file, or the folder of a run's checkpoint
    strength: Strength = 1.0  # in the UNet
    text_encoder_strength: Strength | None = None  # in the text encoders; None: the same

    @property
    def by_part(self) -> tuple[float, float]:
        """The strengths in the UNet and in the text encoders."""
        text = self.text_encoder_strength
        return self.strength, self.strength if text is None else text

    @property
    def label(self) -> str:
        """``NAME:STRENGTH``, or ``NAME:STRENGTH:TEXT_STRENGTH`` where they differ."""
        unet, text = self.by_part
        return f"{adapter_label(self.file)}:{unet:g}" + ("" if text == unet else f":{text:g}")

    @classmethod
    def parse(cls, text: str) -> AdapterUse:
        """From ``FILE[:STRENGTH[:TEXT_STRENGTH]]``; a colon within the path is no matter."""
        numbers: list[float] = []
        path = text
        while len(numbers) < 2 and not Path(path).exists():
            head, colon, tail = path.rpartition(":")
            number = _number(tail) if colon and head else None
            if number is None:
                break
            path = head
            numbers.insert(0, number)
        return cls(Path(path), *numbers)


Stamp = tuple[str, int, int]
"""What changes when a file is replaced: its path, modification time and size."""


class AdapterStack:
    """The adapters on a base model. Nobody else is to attach or detach there meanwhile.

    Attributes:
        base: stays loaded, with its weights as they are.
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._here: dict[str, Stamp] = {}  # the adapters on the base by their names there
        self._numbers = itertools.count()

    def set(self, choices: Sequence[AdapterUse]) -> None:
        """Makes these the adapters on the base, in this order: all of them, or nothing changes.

        Adapters that are there already are not read again, unless their files have changed.

        Raises:
            UserError: a file can't be read or does not fit the base; a strength is not finite.
        """
        for choice in choices:
            check_strength(*choice.by_part)
        stamps = [_stamp(choice.file) for choice in choices]
        staying = self._staying(stamps)
        new = [read_any_adapter(choice.file) for choice in choices[len(staying) :]]
        for adapter in new:
            check_fit(self.base, adapter)
        for name in self._here.keys() - staying.keys():
            detach(self.base, name)
        self._here = staying
        for stamp, adapter in zip(stamps[len(staying) :], new, strict=True):
            name = f"adapter{next(self._numbers)}"
            load_into(self.base, adapter, name)
            self._here[name] = stamp
        for choice, name in zip(choices, self._here, strict=True):
            set_strength(self.base, name, *choice.by_part)

    def clear(self) -> None:
        """Takes all of them off: the base model as it was loaded."""
        self.set([])

    def _staying(self, stamps: Sequence[Stamp]) -> dict[str, Stamp]:
        """The adapters that can stay: those that come first, in their old order."""
        wanted = [(name, stamp) for name, stamp in self._here.items() if stamp in stamps]
        pairs = zip(wanted, stamps, strict=False)
        return dict(
            one for one, _ in itertools.takewhile(lambda pair: pair[0][1] == pair[1], pairs)
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _stamp(path: Path) -> Stamp:
    try:
        facts = path.stat()
    except OSError:  # a file that is not there is refused in reading
        return str(path.resolve()), 0, -1
    return str(path.resolve()), facts.st_mtime_ns, facts.st_size
