"""The files of a diffusers folder, found without loading weights and without running its code."""

from __future__ import annotations

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
            files = part_files(folder, part).files
            missing += [] if all(file.is_file() for file in files) else [part]
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


def part_files(folder: Path, part: str) -> PartFiles:
    """The safetensors files of one part: plain, sharded or fp16.

    Raises:
        UserError: there are none, or only formats that can run code.
    """
    stem, place = _STEMS[part], folder / part
    for variant in (None, "fp16"):
        middle = f".{variant}" if variant else ""
        single = place / f"{stem}{middle}.safetensors"
        if single.is_file():
            return PartFiles((single,), variant)
        index = place / f"{stem}.safetensors.index{middle}.json"
        if index.is_file():
            return PartFiles(_shards(index), variant)
    found = sorted(path.name for path in place.glob("*")) if place.is_dir() else []
    unsafe = [name for name in found if name.endswith(_UNSAFE_SUFFIXES)]
    if unsafe:
        raise UserError(
            f"The weights in {place} are not safetensors ({unsafe[0]}).",
            "Only safetensors are read, since pickled weights can run code: download the "
            "safetensors version of the model.",
        )
    raise UserError(f"{place} has no weights ({stem}.safetensors).", WHOLE)


def _shards(index: Path) -> tuple[Path, ...]:
    names = set(as_table(read_json(index).get("weight_map")).values())
    if not names or not all(
        isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
        for name in names
    ):
        raise UserError(f"{index} does not list safetensors files beside it.", WHOLE)
    return tuple(index.parent / name for name in sorted(names))


def check_part(folder: Path, part: str) -> None:
    """Checks what a library might otherwise act upon.

    Raises:
        UserError: a damaged file, a quantized part, or an adapter's pointer to another model.
    """
    config = read_json(folder / part / "config.json")
    if config.get("quantization_config") is not None:
        raise UserError(
            f"{folder / part} is quantized, and cannot be trained here.",
            "Use the model in fp32, fp16 or bf16.",
        )
    if (folder / part / "adapter_config.json").exists():
        raise UserError(
            f"{folder / part} is an adapter (it has adapter_config.json), not a base model.",
            "Give the base model that it was trained on.",
        )
    headers = [read_header(file) for file in part_files(folder, part).files]
    tensors = [entry for header in headers for entry in header.tensors.values()]
    check_sizes(folder / part / "config.json", config, {n for t in tensors for n in t.shape})
