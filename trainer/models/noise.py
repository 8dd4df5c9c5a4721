"""The noise process of a base model, from its scheduler's configuration. Imports no torch.

Training knows one process: that of DDPM (arXiv 2006.11239), with any betas, for models that predict
noise or velocity. Most schedulers of diffusers only draw differently by it; what was trained with
another one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from trainer.errors import UserError
from trainer.models.configs import checked, distilled, unfit, wrong_kind
from trainer.models.families import PredictionType

Prediction = Literal["auto", "epsilon", "v_prediction", "v_prediction_zero_snr"]
"""What ``base.prediction`` may say."""
Beta = Annotated[float, Field(gt=0, lt=1, strict=True)]

_DDPM = re.compile(
    r"(Flax)?(DDIM|DDPM|PNDM|LMSDiscrete|Euler(Ancestral)?Discrete|HeunDiscrete"
    r"|KDPM2(Ancestral)?Discrete|DPMSolver(Multistep|Singlestep|SDE)|UniPCMultistep|DEISMultistep"
    r"|SASolver)(Inverse|Parallel)?Scheduler"
)
_OTHER_DEFAULTS = re.compile(r"Heun|KDPM2|DPMSolverSDE")
"""Of these classes the betas go from 0.00085 to 0.012 where the configuration leaves them out."""


class NoiseSchedule(BaseModel):
    """The noise schedule of a scheduler's configuration, as arguments of diffusers' schedulers."""

    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[Beta] | None = None
    rescale_betas_zero_snr: Annotated[bool, Field(strict=True)] = False


@dataclass(frozen=True)
class NoiseProcess:
    """What a model was trained to undo."""

    prediction: PredictionType  # what the UNet predicts
    zero_terminal_snr: bool  # whether the noise schedule ends in pure noise (arXiv 2305.08891)
    detail: str  # how that was recognised, for people


def read_schedule(path: Path, config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule that a scheduler's configuration states.

    Raises:
        UserError: names a field that cannot be computed with.
    """
    if _OTHER_DEFAULTS.search(str(config.get("_class_name"))):
        config = {"beta_start": 0.00085, "beta_end": 0.012} | dict(config)
    schedule = checked(NoiseSchedule, path, config)
    betas = schedule.trained_betas
    if betas is not None and len(betas) != schedule.num_train_timesteps:
        raise unfit(path, "trained_betas", f"no list of {schedule.num_train_timesteps} numbers")
    return schedule


def read_noise(folder: Path, path: Path, config: Mapping[str, Any]) -> NoiseProcess:
    """The noise process of a diffusers folder.

    Args:
        path: of the scheduler's configuration in the folder.

    Raises:
        UserError: it is another process than DDPM's, or cannot be computed with.
    """
    schedule = read_schedule(path, config)
    name, spacing = str(config.get("_class_name")), config.get("timestep_spacing")
    prediction = config.get("prediction_type") or "epsilon"
    if name.startswith("EDM") or config.get("timestep_type") == "continuous":
        raise wrong_kind(folder, "a model with the EDM noise process (Playground v2.5, CosXL)")
    if re.search(r"Flow|RFScheduler", name) or config.get("use_flow_sigmas") is True:
        raise wrong_kind(folder, f"a flow-matching model ({name})")
    # SD Turbo and SDXL Turbo show only in their scheduler: Euler, trailing, epsilon.
    turbo = name.startswith("Euler") and spacing == "trailing" and prediction == "epsilon"
    if turbo or name.startswith(("LCM", "TCD", "CMStochastic")):
        otherwise = "set timestep_spacing to leading in its scheduler_config.json."
        raise distilled(folder, f"If it is not distilled, {otherwise}")
    if "_class_name" in config and not _DDPM.fullmatch(name):
        raise wrong_kind(folder, f"a model for {name}, whose noise process is not known")
    kind = prediction_named(folder, str(prediction))
    detail = "the usual one, as its scheduler's configuration names none"
    if config.get("prediction_type"):
        detail = "from its scheduler's configuration"
    return NoiseProcess(kind, schedule.rescale_betas_zero_snr, detail)


def prediction_named(path: Path, name: str) -> PredictionType:
    """The prediction type that a configuration or a file's metadata names.

    Raises:
        UserError: it is none that is trained here.
    """
    short = re.sub(r"[^a-z]", "", name.lower())
    if short in ("v", "vpred", "vprediction", "velocity"):
        return "v_prediction"
    if short in ("eps", "epsilon", "epsilonprediction"):
        return "epsilon"
    raise wrong_kind(path, f"a model that predicts {name[:40]!r}, not epsilon or v_prediction")


def settled(path: Path, stated: NoiseProcess, wanted: Prediction) -> NoiseProcess:
    """What ``base.prediction`` says of the noise process; on auto what the model says itself.

    Raises:
        UserError: the model says that it predicts noise on a schedule that ends in pure noise:
            there the noise says nothing of the picture, and nothing could be drawn.
    """
    by_hand = "set by base.prediction"
    if wanted == "epsilon":
        return NoiseProcess("epsilon", False, by_hand)
    if wanted != "auto":
        zero_snr = stated.zero_terminal_snr or wanted == "v_prediction_zero_snr"
        return NoiseProcess("v_prediction", zero_snr, by_hand)
    if stated.prediction == "epsilon" and stated.zero_terminal_snr:
        raise UserError(
            f"{path} says that its noise schedule ends in pure noise (zero terminal SNR), but not "
            "that it predicts velocity: a model that predicts noise would draw only black then.",
            "If it is a v-prediction model, set base.prediction to v_prediction_zero_snr; if it is "
            "not, to epsilon, which trains with the usual schedule.",
        )
    return stated
