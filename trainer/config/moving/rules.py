"""Rules for settings of other trainers that several fields, or the pictures, make up here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from trainer.config.adapting import PAIRS, AdapterKind
from trainer.config.moving import amounts
from trainer.config.moving.moved import Moving
from trainer.config.moving.theirs import AI_TOOLKIT, KOHYA, is_on, number
from trainer.untyped import is_list

_KINDS = {"locon": "lora", **{kind: kind for kind in get_args(AdapterKind)}}
_OPTIMIZERS = {
    "adamw": "adamw", "adam": "adamw", "pagedadamw": "adamw", "pagedadamw32bit": "adamw",
    "adamw8bit": "adamw8bit", "adam8bit": "adamw8bit", "adamw8": "adamw8bit", "adam8": "adamw8bit",
    "pagedadamw8bit": "adamw8bit", "lion": "lion", "lion8bit": "lion", "pagedlion8bit": "lion",
    "adafactor": "adafactor", "prodigy": "prodigy", "came": "came", "came8bit": "came",
    "adamwschedulefree": "adamw_schedule_free", "schedulefreeadamw": "adamw_schedule_free",
}  # fmt: skip
_NO_DECAY = (
    *("adam", "adam8bit", "adam8", "lion", "lion8bit", "pagedlion8bit", "adafactor", "prodigy"),
    *("came", "adamwschedulefree"),
)
"""Optimizers whose weight decay is 0 there unless it is given."""
_FINDS_RATE = ("dadapt", "prodigy")
_LAYERS = {"attn-mlp": "feed-forward", "attn-only": "attention", "full": "convolution"}
_RATE, _TEXT_RATE = "optimizer.learning_rate", "optimizer.text_encoder_learning_rate"
_SECOND_RATE = "optimizer.text_encoder_2_learning_rate"


def finish(moving: Moving) -> None:
    """Settles what no single row of a table could."""
    for rule in (
        _prediction, _layers, _optimizer, _rates, _weighting, _loss, _preservation, _masks,
        _resolution, _captions, amounts.sets, amounts.length, amounts.schedule, _prompts, _output,
    ):  # fmt: skip
        rule(moving)


def _prediction(moving: Moving) -> None:
    zero = is_on(moving.fact("zero_snr"))
    if is_on(moving.fact("prediction")):
        kind = "v_prediction_zero_snr" if zero else "v_prediction"
        moving.settle("prediction", "base.prediction", kind)
    elif is_on(moving.fact("epsilon")):
        moving.settle("epsilon", "base.prediction", "epsilon")
    elif zero:
        moving.miss("zero_snr", "Without v-prediction such a schedule ends in black pictures.")
    if skip := number(moving.fact("layer_skip")):
        moving.settle("layer_skip", "base.clip_skip", int(skip) + 1, "It is counted from 1 here.")


def _layers(moving: Moving) -> None:
    name = str(moving.fact("kind")).casefold()
    kind = _KINDS.get(name)
    if kind is None:
        reason = (
            "Adapters of this kind are read and drawn with here, but not trained: what is trained "
            "is a LoRA, with rank and alpha as they are here."
        )
        moving.lose(moving.facts["kind"][0], moving.facts["kind"][1], reason)
        moving.drop("adapter.rank", "adapter.alpha")
        return
    note = ""
    if kind not in PAIRS:
        note = (
            "Its training begins with other numbers here, so rank, alpha and rates are not taken."
        )
        moving.drop("adapter.rank", "adapter.alpha")
        _forget_rates(moving, f"Rates that suit {kind} are other ones here: it has its own.")
    moving.settle("kind", "adapter.kind", kind, note)
    if kind == "lokr" and (factor := number(moving.fact("factor"))) is not None:
        moving.settle("factor", "adapter.factor", int(factor))
    eight = "INT_8" if is_on(moving.fact("eight_bits")) else ""
    for fact, weights in (("eight_bits", eight), ("weights", str(moving.fact("weights")))):
        if few := {"INT_8": "8bit", "FLOAT_8": "8bit", "NFLOAT_4": "4bit"}.get(weights):
            note = "They are rounded in another way here."
            moving.settle(fact, "memory.base_weights", few, note)
    if "checkpointing" in moving.facts:
        on = str(moving.fact("checkpointing")).upper() not in ("OFF", "FALSE")
        moving.settle("checkpointing", "training.gradient_checkpointing", on)
    if "layers" in moving.facts:
        name = str(moving.fact("layers"))
        if name in _LAYERS:
            moving.settle("layers", "adapter.targets", _LAYERS[name])
        else:
            moving.miss("layers", "Choose layers with adapter.targets, only and without.")
    if is_on(rank := moving.fact("convolution")) or name == "locon":
        fact = "convolution" if is_on(rank) else "kind"
        note = "The convolutions have the rank of all other layers here."
        moving.settle(fact, "adapter.targets", "convolution", note)


def _optimizer(moving: Moving) -> None:
    given = str(moving.fact("optimizer") or "AdamW")
    name = "".join(filter(str.isalnum, given.rpartition(".")[2].casefold()))
    ours, note = _OPTIMIZERS.get(name), ""
    if ours is None and name.startswith(_FINDS_RATE):
        ours, note = "prodigy", "It is the one here that finds the rate by itself."
    elif ours is not None and name not in (
        ours.replace("_", ""), "adam", "adam8bit", "schedulefreeadamw"
    ):  # fmt: skip
        note = "It is the nearest one here."
    if ours is None:
        moving.miss("optimizer", "It is not here: adamw trains instead, at the rates it has here.")
        _forget_rates(moving, f"It is a rate for {given}, and adamw trains instead.")
        return
    moving.settle("optimizer", "optimizer.name", ours, note)
    decay = number(moving.fact("weight_decay"))
    if decay is not None:
        moving.settle("weight_decay", "optimizer.weight_decay", decay)
    elif name.startswith(_FINDS_RATE) or name in _NO_DECAY:
        moving.take("weight decay", 0.0, "optimizer.weight_decay", 0.0, given=False)
    relative = moving.fact("relative_step")
    finds = moving.theirs.trainer == KOHYA if relative is None else is_on(relative)
    if ours == "adafactor" and finds:
        reason = (
            "Adafactor finds its rate there. Here it takes optimizer.learning_rate; it is empty."
        )
        moving.lose("relative_step", True, reason)
        _forget_rates(moving, "Adafactor finds its rate itself there.")


def _forget_rates(moving: Moving, reason: str) -> None:
    """Leaves rates as they are here, but for 0, which switches a part off."""
    for name in ("rate", "unet_rate", "text_rate"):
        value = moving.fact(name)
        if value is not None and any(number(one) for one in (value if is_list(value) else [value])):
            moving.miss(name, reason)
            moving.facts[name] = (moving.facts[name][0], "", False)
    for one in [one for one in moving.taken if one.field == _SECOND_RATE]:
        moving.lose(one.key, one.theirs, reason)
    moving.drop(_SECOND_RATE)


def _rates(moving: Moving) -> None:
    rate = "unet_rate" if moving.fact("unet_rate") is not None else "rate"
    trains_unet = not is_on(moving.fact("text_only"))
    trains_text = not is_on(moving.fact("unet_only"))
    if "train_text" in moving.facts:  # of SDXL's two encoders one is enough
        names = ("train_text", "train_text_2")
        trains_text = any(is_on(moving.fact(name)) for name in names)
    text = moving.fact("text_rate")
    if is_list(text):
        if any(one != text[0] for one in text):
            moving.settle("text_rate", _SECOND_RATE, number(text[1]))
        text = text[0] if text else None
    own = (moving.fact("unet_rate"), text)
    if all(one is not None and number(one) == 0 for one in own):  # so kohya_ss writes "the same"
        rate, text = "rate", None
    finds = moving.values.get("optimizer.name") == "prodigy"
    finds = finds and moving.theirs.trainer == AI_TOOLKIT
    # Whatever has no rate of its own has the common one; with 0 a part does not train.
    for field, name, value, on in (
        (_RATE, rate, moving.fact(rate), trains_unet),
        (_TEXT_RATE, "text_rate" if text is not None else "rate", text, trains_text),
    ):
        part = "adapter.unet" if field == _RATE else "adapter.text_encoder"
        value = moving.fact("rate") if value is None else value
        trains = on and (value is None or number(value) != 0)
        moving.values.setdefault(part, trains)
        if not trains:
            switches = ("text_only",) if field == _RATE else ("unet_only", "train_text")
            why = [one for one in switches if one in moving.facts and not on]
            moving.settle((*why, name)[0], part, False)
        elif (amount := number(value)) is not None and name in moving.facts:
            raised = finds and amount < 0.1
            note = "With such an optimizer a rate below 0.1 is 1 there." if raised else ""
            moving.settle(name, field, 1.0 if raised else amount, note)
    ratio = number(moving.fact("lora_plus"))
    if ratio is not None and ratio >= 1:
        moving.settle("lora_plus", "optimizer.lora_plus_ratio", ratio)


def _weighting(moving: Moving) -> None:
    weighting, gamma = "objective.weighting", "objective.min_snr_gamma"
    capped = number(moving.fact("min_snr")) or 0.0
    if "loss_weight" in moving.facts:
        chosen = str(moving.fact("loss_weight"))
        capped = (number(moving.fact("gamma")) or 5.0) if chosen == "MIN_SNR_GAMMA" else 0.0
        moving.facts["min_snr"] = moving.facts["loss_weight"]
        if chosen == "DEBIASED_ESTIMATION":
            moving.facts["debiased"] = (moving.facts["loss_weight"][0], chosen, True)
        elif chosen in ("P2", "SIGMA"):
            moving.miss("loss_weight", "Every timestep counts the same instead.")
            moving.values |= {weighting: "min_snr", gamma: 0.0}
            return
    if is_on(moving.fact("debiased")):
        note = "Its mean over all timesteps is 1 here, so that rates do not have to change."
        moving.settle("debiased", weighting, "debiased", note)
        if capped:
            moving.miss("min_snr", "Here it is one of the two: debiased.")
        return
    note = "" if capped else "Every timestep counts the same there, and with 0 here too."
    moving.settle("min_snr", weighting, "min_snr", note)
    moving.settle("min_snr", gamma, capped)


def _loss(moving: Moving) -> None:
    shape = str(moving.fact("loss") or "").casefold()
    if shape in ("l2", "mse", ""):
        moving.drop("objective.huber_c", "objective.huber_schedule")
    elif shape in ("huber", "smooth_l1"):
        moving.settle("loss", "objective.loss", shape)
    else:
        moving.miss("loss", "The loss is the squared error instead, or huber: objective.loss.")
    if is_on(moving.fact("multires")):
        discount = number(moving.fact("multires_discount")) or 0.3
        note = "All halvings of the resolution are mixed in here."
        moving.settle("multires", "objective.multires_noise", discount, note)


def _preservation(moving: Moving) -> None:
    """It is on by itself here, and off there."""
    method = "preservation.method"
    pictures = [one for one in moving.theirs.sets if one.role == "class pictures" and one.path]
    if is_on(moving.fact("output_preservation")) or any(
        one.role == "prior prediction" for one in moving.theirs.sets
    ):
        note = "Here it preserves paraphrases, other things and the empty prompt too."
        key = moving.facts.get("output_preservation", ("concept type", "PRIOR_PREDICTION", True))
        moving.take(key[0], key[1], method, "prediction", note)
        if moving.was_given("output_weight"):
            moving.miss(
                "output_weight", "Weights mean something else here: see preservation.weight."
            )
        return
    if not pictures:
        moving.take("class pictures", "none", method, "none", given=False)
        return
    for one in pictures[1:]:
        moving.lose("class pictures", one.path, "Only the first folder of class pictures is taken.")
    note = "Each step has as many of them as of your pictures, as there."
    moving.take("class pictures", pictures[0].path, method, "pictures", note)
    moving.values |= {"preservation.folder": pictures[0].path, "preservation.share": 1.0}
    if "prior_weight" in moving.facts:
        weight = number(moving.fact("prior_weight"))
        moving.settle("prior_weight", "preservation.weight", 1.0 if weight is None else weight)


_MASKED_MEAN = "Here the mean is over what the mask keeps, there over the whole picture."


def _masks(moving: Moving) -> None:
    outside = number(moving.fact("outside"))
    notes = {
        (KOHYA, "files"): _MASKED_MEAN,
        (KOHYA, "alpha"): _MASKED_MEAN,
        (AI_TOOLKIT, "files"): "Put the masks into a folder masks beside the pictures, or beside "
        "each as NAME.mask.png.",
    }
    for fact, kind in (("masks", "files"), ("alpha", "alpha")):
        if is_on(moving.fact(fact)):
            note = notes.get((moving.theirs.trainer, kind), "")
            moving.settle(fact, "images.masks", kind, note)
            if outside is None:
                moving.take("outside a mask", 0.0, "images.mask_outside", 0.0, given=False)
            else:
                moving.settle("outside", "images.mask_outside", outside)


def _resolution(moving: Moving) -> None:
    key, value, given = moving.facts["resolution"]
    pairs: Sequence[tuple[int, int]] = value if is_list(value) else [(int(value), int(value))]
    sides = list(dict.fromkeys(max(64, round(math.sqrt(w * h) / 64) * 64) for w, h in pairs))
    if not sides:
        return
    exact = all(w == h == side for (w, h), side in zip(dict.fromkeys(pairs), sides, strict=False))
    note = "" if exact else "Here it is the side of a square of about that area."
    field, ours = (
        ("images.resolution", sides[0]) if len(sides) == 1 else ("images.resolutions", sides)
    )
    if len(sides) > 1:
        note = f"{note} Every picture trains at each of them.".strip()
    theirs = ", ".join(f"{w}" if w == h else f"{w}x{h}" for w, h in dict.fromkeys(pairs))
    moving.take(key, theirs if given else value, field, ours, note, given)


def _captions(moving: Moving) -> None:
    loose = any(moving.values.get(f"captions.{name}") for name in ("shuffle_tags", "tag_dropout"))
    if loose and "keep" in moving.facts:
        moving.settle("keep", "captions.keep_tags", int(number(moving.fact("keep")) or 0))
    extension = str(moving.fact("caption_extension") or ".txt").strip()
    if moving.was_given("caption_extension") and extension.lstrip(".") not in ("txt", "caption"):
        reason = "Captions are read from .txt and .caption here (and from tables), not from these."
        moving.miss("caption_extension", reason)
    if is_on(moving.fact("random_crop")):
        note = "Here up to a tenth of each side is cut off; there, whatever does not fit."
        moving.settle("random_crop", "images.random_crop", 0.1, note)


def _prompts(moving: Moving) -> None:
    prompts = moving.theirs.prompts
    if not prompts:
        return
    texts = [str(one.get("prompt") or "") for one in prompts]
    moving.take("prompts", len(texts), "previews.prompts", texts)
    for name, field, kind in (
        ("negative", "previews.negative", str), ("seed", "previews.seed", int),
        ("steps", "previews.inference_steps", int), ("guidance", "previews.guidance", float),
    ):  # fmt: skip
        found = [one[name] for one in prompts if one.get(name) not in (None, "", False)]
        if not found or (kind is not str and number(found[0]) is None):
            continue
        value = str(found[0]) if kind is str else kind(number(found[0]) or 0)
        moving.take(f"prompts: {name}", found[0], field, value)
        if any(one != found[0] for one in found):
            moving.lose(
                f"prompts: {name}", found[1:], "Here one value holds for all prompts: the first."
            )


def _output(moving: Moving) -> None:
    tracker = str(moving.fact("log_with") or "").casefold()
    if is_on(moving.fact("wandb")) or tracker in ("wandb", "all"):
        note = "The other trackers are left out." if tracker == "all" else ""
        moving.settle("log_with" if tracker else "wandb", "tracking.tracker", "wandb", note)
    elif tracker == "tensorboard":
        moving.settle("log_with", "tracking.tracker", tracker)
    text = str(moving.fact("description") or "")[:2000]
    if text and not moving.values.get("output.description"):
        moving.settle("description", "output.description", text)
    if name := Path(str(moving.fact("file_name") or "").replace("\\", "/")).stem:
        note = "The file itself is always called adapter.safetensors."
        moving.settle("file_name", "output.name", name[:100], note)
    if (number(moving.fact("repeats")) or 1) != 1:
        moving.miss("repeats", "Name the folder N_name, which repeats its pictures N times.")
