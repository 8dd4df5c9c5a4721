"""Adapter files through the loaders of other programs, where these can be had as packages.

What `docs/adapter-files.md` says of diffusers and LyCORIS is run here: adapters on small models of
random weights and true block types are written, read by the other program's own code, and the
weights that it makes are compared with those that the adapter stands for. A1111, Forge, ComfyUI and
sd-scripts are no packages, and InvokeAI loads nothing without all that it depends on.

LyCORIS goes into a folder of its own:

    pip install --no-deps --target loaders lycoris-lora==4.1.3 einops toml
    PYTHONPATH=loaders python benchmarks/adapter_loaders.py
"""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.tiny_models import make_tiny
from tests.trainer.lora.helpers import nudge, random_adapter
from trainer.config.schema import AdapterConfig
from trainer.lora.adapter import Adapter, Magnitude
from trainer.lora.attach import attach, detach
from trainer.lora.changes import change_on
from trainer.lora.layers import find_layers, find_targets, parts_of
from trainer.lora.loading import collect
from trainer.lora.names import ModuleKey, Part, Targets, parse_kohya_name
from trainer.lora.writing import WritableLayout, write_adapter
from trainer.models.base import BaseModel
from trainer.models.families import FamilyName
from trainer.models.load import load_base

FAMILIES: tuple[FamilyName, ...] = ("sd1", "sd2", "sdxl")
TARGETS: tuple[Targets, ...] = ("attention", "feed-forward", "convolution")
Changes = dict[ModuleKey, Tensor]
Loader = Callable[[BaseModel, Path], Changes]


def main() -> None:
    """Print for each program, family, kind and layout what is loaded and how exactly."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bases = {name: load_base(str(make_tiny(name, folder / name))) for name in FAMILIES}
        bases["sdxl"].unet = _sdxl_unet()
        for family, base in bases.items():
            for targets in TARGETS:
                _plain("diffusers", diffusers, base, family, targets, folder)
            for by in ("rows", "columns"):
                _dora("LyCORIS", lycoris, base, family, by, folder)
            for kind in ("loha", "lokr"):
                _of_lycoris("LyCORIS", lycoris_modules, base, family, kind, folder)
                _of_lycoris("diffusers", diffusers, base, family, kind, folder)


def _sdxl_unet() -> UNet2DConditionModel:
    """As many blocks and layers as the real one has, so that it has block names; but narrow."""
    config = {
        "sample_size": 16,
        "layers_per_block": 2,
        "block_out_channels": (16, 32, 32),
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4, 4),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 16 + 24,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    }
    unet = UNet2DConditionModel.from_config(config)
    assert isinstance(unet, UNet2DConditionModel)
    return unet.requires_grad_(False).eval()


def _plain(
    program: str,
    loader: Loader,
    base: BaseModel,
    family: FamilyName,
    targets: Targets,
    folder: Path,
) -> None:
    adapter = _adapter(base, targets)
    layouts: list[WritableLayout] = ["kohya", "diffusers"]
    for layout in [*layouts, "kohya-sgm"] if family == "sdxl" else layouts:
        path = folder / "adapter.safetensors"
        write_adapter(adapter, path, layout, "fp32")
        _report(
            f"{program} {family} {targets} {layout}", loader, base, path, _changes(base, adapter)
        )


def _dora(
    program: str, loader: Loader, base: BaseModel, family: str, by: str, folder: Path
) -> None:
    plain = _adapter(base, "convolution")
    unet = {key: layer for key, layer in plain.layers.items() if key.part == "unet"}
    path = folder / "adapter.safetensors"
    write_adapter(Adapter(unet, base.family.name), path, "kohya", "fp32")
    tensors = load_file(path)
    layers = {}
    for index, (key, layer) in enumerate(unet.items()):
        sizes = (layer.up.shape[0], *layer.down.shape[1:])
        count, ones = sizes[0 if by == "rows" else 1], [1] * (len(sizes) - 2)
        values = 0.5 + torch.rand(count, generator=torch.Generator().manual_seed(index))
        shape = (count, 1, *ones) if by == "rows" else (1, count, *ones)
        tensors[f"lora_unet_{key.path.replace('.', '_')}.dora_scale"] = values.reshape(shape)
        magnitude = Magnitude(values, "rows" if by == "rows" else "columns")
        layers[key] = replace(layer, magnitude=magnitude)
    save_file(tensors, path)
    expected = _changes(base, Adapter(layers, base.family.name))
    _report(f"{program} {family} DoRA by {by}", loader, base, path, expected)


@torch.no_grad()
def _of_lycoris(
    program: str, loader: Loader, base: BaseModel, family: str, kind: str, folder: Path
) -> None:
    """As training writes it, all layers of the UNet."""
    config = {"kind": kind, "targets": "convolution", "rank": 3, "alpha": 2.0, "factor": 4}
    attach(base, AdapterConfig.model_validate({**config, "text_encoder": False}), seed=0)
    nudge(base)
    adapter = collect(base)
    detach(base)
    path = folder / "adapter.safetensors"
    write_adapter(adapter, path, "kohya", "fp32")
    _report(f"{program} {family} {kind}", loader, base, path, _changes(base, adapter))


def _adapter(base: BaseModel, targets: Targets) -> Adapter:
    """Random, alpha unequal to the rank."""
    return random_adapter(base, dict.fromkeys(find_targets(base, targets), (3, 2.0)))


def _changes(base: BaseModel, adapter: Adapter) -> Changes:
    live = find_layers(base)
    return {key: change_on(layer, live[key].weight) for key, layer in adapter.layers.items()}


def _report(title: str, loader: Loader, base: BaseModel, path: Path, expected: Changes) -> None:
    try:
        found = loader(base, path)
    except Exception as error:  # whatever the other program raises
        print(f"{title:<44} refused: {str(error).strip().splitlines()[0][:80]}", flush=True)
        return
    worst = max(
        (
            float((found[key] - change).norm() / change.norm())
            for key, change in expected.items()
            if key in found
        ),
        default=float("nan"),
    )
    count = sum(key in expected for key in found)
    print(f"{title:<44} {count:>3} of {len(expected):>3} layers, differ by {worst:.1e}", flush=True)


def _moved(base: BaseModel, changed: dict[Part, nn.Module]) -> Changes:
    """Every layer whose weight is another in a changed copy, and its change."""
    found: Changes = {}
    for key, live in find_layers(base).items():
        if key.part in changed:
            old = live.weight
            new = changed[key.part].get_submodule(live.path).weight
            assert isinstance(new, Tensor)
            if not torch.equal(new, old):
                found[key] = (new.double() - old.double()).flatten(1)
    return found


def diffusers(base: BaseModel, path: Path) -> Changes:
    """``load_lora_weights`` and ``fuse_lora`` of the diffusers that is installed, on copies."""
    from dataclasses import replace as replaced

    copied = replaced(
        base,
        unet=copy.deepcopy(base.unet),
        text_encoders=[copy.deepcopy(encoder) for encoder in base.text_encoders],
    )
    pipeline = copied.pipeline()
    pipeline.load_lora_weights(str(path))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return _moved(base, parts_of(copied))


def lycoris(base: BaseModel, path: Path) -> Changes:
    """LyCORIS' own modules from the file, merged into a copy of the UNet."""
    network, unet = _lycoris_network(base, path)
    network.merge_to(1.0)
    return _moved(base, {"unet": unet})


def lycoris_modules(base: BaseModel, path: Path) -> Changes:
    """What LyCORIS' modules compute with. Merged, 4.1.3 scales LoHa and LoKr twice by alpha."""
    found: Changes = {}
    for module in _lycoris_network(base, path)[0].loras:
        key = parse_kohya_name(module.lora_name.replace("lycoris_", "lora_unet_"))
        if key:
            found[key] = module.get_weight(module.shape).double().flatten(1)
    return found


def _lycoris_network(base: BaseModel, path: Path) -> tuple[Any, nn.Module]:
    """The modules of a file, and the copy of the UNet that they are on."""
    from lycoris import create_lycoris_from_weights

    tensors = {
        name.replace("lora_unet_", "lycoris_"): tensor for name, tensor in load_file(path).items()
    }
    unet = copy.deepcopy(base.unet)
    return create_lycoris_from_weights(1.0, "", unet, tensors)[0], unet


if __name__ == "__main__":
    main()
