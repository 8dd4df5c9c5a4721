"""The files of a diffusers folder, found without loading weights and without running its code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError
from trainer.models.configs import WHOLE, check_sizes, read_json
from trainer.models.safetensors_header import read_header
from trainer.untyped import as_table

_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_UNSAFE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5", ".onnx")


@dataclass(frozen=True)
class PartFiles:
    """The weights of one part: the files, and diffusers' variant ("fp16") or None."""

    files: tuple[Path, ...]
    variant: str | None


def missing_parts(folder: Path) -> list[str]:
    """Parts of a model folder that have no safetensors weights here."""
    parts = ["unet", "vae", "text_encoder"]
    parts += ["text_encoder_2"] if _names_second_encoder(folder) else []
    missing: list[str] = []
    for part in parts:
        try:
            part_files(folder / part, part)
        except UserError:
            missing.append(part)
    return missing


def _names_second_encoder(folder: Path) -> bool:
    if (folder / "text_encoder_2").is_dir():
        return True
    try:
        named = read_json(folder / "model_index.json").get("text_encoder_2")
    except UserError:
        return False
    return isinstance(named, list) and named[:1] not in ([], [None])


def part_files(place: Path, part: str) -> PartFiles:
    """The safetensors files of one part: plain, or of a variant, in one piece or in shards.

    Args:
        place: the part's folder.

    Raises:
        UserError: there are none, only formats that can run code, or a shard is missing.
    """
    stem = _STEMS[part]
    names = sorted(path.name for path in place.glob("*")) if place.is_dir() else []
    pattern = re.compile(rf"{stem}\.(?:(\w+)\.safetensors|safetensors\.index\.(\w+)\.json)")
    found = {match[1] or match[2] for name in names if (match := pattern.fullmatch(name))}
    for variant in (None, *sorted(found, key=variant_rank)):
        middle = f".{variant}" if variant else ""
        if (single := f"{stem}{middle}.safetensors") in names:
            return PartFiles((place / single,), variant)
        if (index := f"{stem}.safetensors.index{middle}.json") in names:
            return PartFiles(_shards(place / index), variant)
    if unsafe := [name for name in names if name.endswith(_UNSAFE_SUFFIXES)]:
        raise UserError(
            f"The weights in {place} are not safetensors ({unsafe[0]}).",
            "Only safetensors are read, since pickled weights can run code: download the "
            "safetensors version of the model.",
        )
    raise UserError(f"{place} has no weights ({stem}.safetensors).", WHOLE)


def variant_rank(variant: str) -> tuple[int, str]:
    """Which of several variants is taken: the lowest."""
    known = ("fp32", "fp16", "bf16", "ema", "non_ema")
    return (known.index(variant) if variant in known else len(known), variant)


def _shards(index: Path) -> tuple[Path, ...]:
    names = set(as_table(read_json(index).get("weight_map")).values())
    if not names or not all(
        isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
        for name in names
    ):
        raise UserError(f"{index} does not list safetensors files beside it.", WHOLE)
    files = tuple(index.parent / name for name in sorted(names))
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"{index.parent} lacks {len(missing)} of its {len(files)} weight files: "
            f"{', '.join(missing[:5])}.",
            "Download what is missing into this folder.",
        )
    return files


def check_part(place: Path, part: str) -> None:
    """Checks what a library might otherwise act upon.

    Args:
        place: the part's folder.

    Raises:
        UserError: a damaged file, a quantized part, or an adapter's pointer to another model.
    """
    config = read_json(place / "config.json")
    if config.get("quantization_config") is not None:
        raise UserError(
            f"{place} is quantized, and cannot be trained here.",
            "Use the model in fp32, fp16 or bf16.",
        )
    if (place / "adapter_config.json").exists():
        raise UserError(
            f"{place} is an adapter (it has adapter_config.json), not a base model.",
            "Give the base model that it was trained on.",
        )
    headers = [read_header(file) for file in part_files(place, part).files]
    tensors = [entry for header in headers for entry in header.tensors.values()]
    check_sizes(place / "config.json", config, {n for t in tensors for n in t.shape})
