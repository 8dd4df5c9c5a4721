"""What a base model is, judged from its content, without loading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.models.diffusers_folder import recognise_folder
from trainer.models.families import FAMILIES, Family, PredictionType
from trainer.models.locate import Kind, locate
from trainer.models.single_file import recognise_file

Prediction = Literal["auto", "epsilon", "v_prediction"]


@dataclass(frozen=True)
class BaseIdentity:
    """A base model that was recognised.

    Attributes:
        name: as the user gave it.
        kind: how it was found.
        path: its folder in diffusers' layout, or its single file.
        family: SD 1, SD 2 or SDXL.
        prediction_type: what its UNet predicts.
        zero_terminal_snr: whether its noise schedule ends in pure noise (arXiv 2305.08891).
        detail: how the prediction type was recognised, for people.
    """

    name: str
    kind: Kind
    path: Path
    family: Family
    prediction_type: PredictionType
    zero_terminal_snr: bool
    detail: str

    @property
    def is_single_file(self) -> bool:
        """Whether it is one file in the layout of the original code."""
        return self.path.is_file()


def identify(name: str, *, prediction: Prediction = "auto") -> BaseIdentity:
    """Finds and recognises a base model; a hub id is downloaded if it is not there yet.

    What the UNet predicts: `prediction` unless it is "auto"; else, for a folder, what its
    scheduler's configuration says (epsilon where it says nothing); for a single file see
    `trainer.models.single_file.recognise_prediction`.

    Raises:
        UserError: it is not there, damaged, in a format that can run code, or of another kind.
    """
    place = locate(name)
    found = recognise_folder(place.path) if place.path.is_dir() else recognise_file(place.path)
    is_set = prediction != "auto"
    return BaseIdentity(
        name=name,
        kind=place.kind,
        path=place.path,
        family=FAMILIES[found.family],
        prediction_type=prediction if prediction != "auto" else found.prediction,
        zero_terminal_snr=found.zero_terminal_snr,
        detail="set by base.prediction" if is_set else found.detail,
    )
