"""The facts about a base model that the page, ``fit`` and ``check-images`` ask for.

Nothing is downloaded and no weights are loaded: a model that is not on this machine is judged by
its name. Imports no torch.
"""

from __future__ import annotations

import re

from trainer.errors import UserError
from trainer.models.families import FAMILIES, FamilyName, PredictionType
from trainer.models.identify import BaseFacts, identify_at
from trainer.models.locate import find, is_hub_id, no_such_base
from trainer.models.noise import Prediction

NAMES: dict[str, tuple[FamilyName, PredictionType]] = {
    "sd15": ("sd1", "epsilon"),
    "sd2": ("sd2", "epsilon"),
    "sd2-v": ("sd2", "v_prediction"),
    "sdxl": ("sdxl", "epsilon"),
}
"""What stands for a whole family, so that one can ask before downloading anything."""

# Tried in this order. The hub's stable-diffusion-2 and stable-diffusion-2-1 are those of 768 px.
_PATTERNS = (
    (re.compile(r"xl|pony|illustrious", re.I), "sdxl"),
    (re.compile(r"stable-diffusion-2(-1)?$|768|sd-?2-?1?-v", re.I), "sd2-v"),
    (re.compile(r"stable-diffusion-2|sd-?2", re.I), "sd2"),
    (re.compile(r"stable-diffusion-v?1|sd-?v?1|dreamshaper|v1-5", re.I), "sd15"),
)


def read_facts(name: str, *, prediction: Prediction = "auto", vae: str = "") -> BaseFacts:
    """A base model given as for ``--base``, or by one of `NAMES`.

    Args:
        prediction, vae: as for `trainer.models.identify.identify`.

    Returns:
        A `BaseIdentity` where it is on this machine.

    Raises:
        UserError: it is damaged or of another kind; or it is not here, and its name does not say.
    """
    path = find(name)
    if path is not None:
        return identify_at(name, path, prediction=prediction, vae=vae)
    if name in NAMES:
        return facts_of(name)
    if not is_hub_id(name):
        raise no_such_base(name)
    short = short_name_of(name)
    if short is None:
        raise UserError(
            f"{name} has not been downloaded, and its name does not say of which kind it is.",
            f"Ask for its family: --base {', '.join(NAMES)}.",
        )
    return facts_of(short)


def facts_of(short: str) -> BaseFacts:
    """The facts of one of `NAMES`."""
    family, prediction = FAMILIES[NAMES[short][0]], NAMES[short][1]
    return BaseFacts(family, prediction, family.config_folder(prediction))


def short_name_of(name: str) -> str | None:
    """Which of `NAMES` a hub id or the name of a file or folder speaks of, if any."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    last = re.sub(r"\.safetensors$", "", last, flags=re.I)
    return next((short for pattern, short in _PATTERNS if pattern.search(last)), None)
