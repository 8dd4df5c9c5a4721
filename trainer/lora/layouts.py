"""Which layout an adapter file has, and which of its tensors belong to which layer.

A tensor's name is a layer's name and a suffix that tells the tensor's kind. Read are kohya's names,
with diffusers' or SGM's blocks, and diffusers' and PEFT's, which name layers by their paths; and
what other programs made of these: doubled prefixes, dotted block names, other prefixes. Every
tensor must be understood: one that is not is an error, unless the rest is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from trainer.data.names import display_name
from trainer.errors import UserError
from trainer.lora.names import ModuleKey, Part, layer_by_path, parse_kohya_name, shorten

Layout = Literal["kohya", "kohya-sgm", "diffusers", "peft", "other"]
"""``other`` are names that no tool was tried with."""
Kind = str
"""down, up, mid, alpha, scalar, magnitude; diff; and LyCORIS's own names, such as hada_w1_a."""

FORMS: dict[str, tuple[tuple[Kind, ...], ...]] = {
    "LoRA": (("down",), ("up",)),
    "LoHa": (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",)),
    "LoKr": (("lokr_w1", "lokr_w1_a"), ("lokr_w2", "lokr_w2_a")),
    "OFT": (("oft_blocks",),),
    "GLoRA": (("a1",), ("a2",), ("b1",), ("b2",)),
    "full difference": (("diff",),),
}
"""The tensors that a layer of each form can't be without: of each group one."""


@dataclass(frozen=True)
class LayerNames:
    """How a layer's tensors are called in a file."""

    layout: Layout
    # By kind; of LoRA always down and up. mid is the kernel of a convolution whose down matrix has
    # none (LoCon's third matrix), magnitude is DoRA's.
    tensors: dict[Kind, str] = field(default_factory=dict[Kind, str])

    @property
    def first(self) -> str:
        """The name of one of its tensors."""
        return self.tensors.get("down") or next(iter(self.tensors.values()))

    @property
    def form(self) -> str:
        """Of `FORMS`, by the tensors that there are."""
        kinds = set(self.tensors)
        found = (form for form, groups in FORMS.items() if kinds & {k for g in groups for k in g})
        return next(found, "LoRA")


class TensorName(NamedTuple):
    """What the name of a tensor says."""

    key: ModuleKey
    kind: Kind
    layout: Layout


@dataclass(frozen=True)
class Grouped:
    """The tensors of a file by what they are."""

    layers: dict[ModuleKey, LayerNames]
    # Names of the tensors of bundled embeddings, by the names of these.
    embeddings: dict[str, list[str]]
    left_out: list[str]  # names of the tensors that are not read


OUTPUT = "_out"
"""What the name of an output vector ends in."""
_EMBEDDING = re.compile(r"bundle_emb\.(.+?)\.(?:string_to_param\.\*|[^.]+)")
# Newest first: what PEFT writes (an adapter's name may be left in), diffusers' older ones.
_NAME = re.compile(
    r"(?P<module>.+?)(?:"
    r"\.lora_(?P<kohya>down|up|mid)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.[^.]+)?\.weight"
    r"|\.(?:lora|lora_linear_layer)\.(?P<linear>down|up)\.weight"
    r"|(?:\.processor)?\.to_(?P<projection>[qkv]|out)_lora\.(?P<processor>down|up)\.weight"
    r"|\.(?P<magnitude>dora_scale|lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?)"
    r"|\.(?P<lycoris>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|oft_blocks|rescale)"
    r"|\.(?P<glora>a1|a2|b1|b2|bm)\.weight"
    r"|\.(?P<plain>alpha|scalar|diff)"
    r")"
)
_KOHYA: tuple[Layout, ...] = ("kohya", "kohya-sgm")
_DIRECTIONS = {"A": "down", "B": "up"}
# Prefixes of a layer's path, and the part that each tells; some stand one behind the other.
_PREFIXES: dict[str, Part | None] = {
    "base_model.model.": None,
    "module.": None,
    "_orig_mod.": None,
    "unet.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "diffusion_model_": "unet",
    "lycoris_": None,
    "text_encoders.": None,
    "clip_l.": "text_encoder",
    "clip_g.": "text_encoder_2",
    "clip.": "text_encoder",
    "transformer.text_model.": None,
}
_USUAL: dict[tuple[str, ...], Layout] = {
    (): "diffusers",
    ("unet.",): "diffusers",
    ("text_encoder.",): "diffusers",
    ("text_encoder_2.",): "diffusers",
    ("base_model.model.",): "peft",
}


def group_layers(
    path: Path, tensor_names: Iterable[str], *, leave_out_unknown: bool = False
) -> Grouped:
    """The layers of an adapter file with the names of their tensors.

    An alpha whose layer has nothing else changes nothing, and is left out always.

    Raises:
        UserError: it is of another kind (which is named), incomplete, or names a layer twice.
    """
    layers: dict[ModuleKey, LayerNames] = {}
    embeddings: dict[str, list[str]] = {}
    unknown: list[str] = []
    twice: list[tuple[str, str, ModuleKey]] = []
    for name in sorted(tensor_names):
        if match := _EMBEDDING.fullmatch(name):
            embeddings.setdefault(match[1], []).append(name)
            continue
        parsed = parse_tensor_name(name)
        if parsed is None:
            unknown.append(name)
            continue
        layer = layers.setdefault(parsed.key, LayerNames(parsed.layout))
        if parsed.kind in layer.tensors:
            twice.append((layer.tensors[parsed.kind], name, parsed.key))
        if layer.layout != parsed.layout:
            layer = layers[parsed.key] = replace(layer, layout="other")
        layer.tensors[parsed.kind] = name
    kind = foreign_kind(unknown)
    leftover = [key for key, layer in layers.items() if layer.tensors.keys() <= {"alpha", "scalar"}]
    whole = {key: layer for key, layer in layers.items() if key not in leftover}
    if kind or not (whole or leftover) or (unknown and not (leave_out_unknown and whole)):
        raise _unreadable(path, unknown, kind, list(embeddings), readable=bool(whole))
    if twice:
        one, other, key = twice[0]
        raise UserError(
            f"{path} names one layer twice: {one} and {other} are both {key}.",
            "Convert its two halves apart, or get the file from its author again.",
        )
    checked = whole or layers
    if incomplete := [one for key, layer in checked.items() for one in _missing(key, layer)]:
        raise UserError(
            f"{path} is incomplete: it has no {shorten(incomplete)}.", "Get the file again."
        )
    unused = [name for key in leftover for name in layers[key].tensors.values()]
    return Grouped(whole, embeddings, [*unknown, *unused])


def bundled_embeddings(tensor_names: Iterable[str]) -> list[str]:
    """The embeddings that are bundled with an adapter file's layers, as `embeddings_shown`."""
    found: dict[str, list[str]] = {}
    for name in tensor_names:
        if match := _EMBEDDING.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    return embeddings_shown(found)


def embeddings_shown(embeddings: Mapping[str, Iterable[str]]) -> list[str]:
    """The words of embeddings, and of which some tensors are not used.

    OneTrainer's output vectors take the place of what the text encoder gives for a word. What it
    was given there, the file does not say.

    Args:
        embeddings: the names of the tensors of each word.
    """
    return [
        display_name(word[:80])
        + (" (without its output vectors)" if any(n.endswith(OUTPUT) for n in names) else "")
        for word, names in embeddings.items()
    ]


def parse_tensor_name(name: str) -> TensorName | None:
    """What a tensor of an adapter file is; None for names that no readable layer has."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    module, letter = match["module"], match["projection"]
    if letter:
        # Diffusers' attention processors called the text encoders' layers like the UNet's.
        unet_name = "to_out.0" if letter == "out" else f"to_{letter}"
        module += f".{letter}_proj" if "self_attn" in module else f".{unet_name}"
    found = _layer(module)
    if found is None:
        return None
    direction = match["kohya"] or match["peft"] or match["linear"] or match["processor"]
    kind = "magnitude" if match["magnitude"] else match["lycoris"] or match["glora"]
    kind = kind or match["plain"] or _DIRECTIONS.get(direction, direction)
    key, layout = found
    by_paths = match["peft"] or match["linear"] or match["processor"] or "_vector" in name
    if kind not in ("alpha", "scalar") and (layout in _KOHYA) == bool(by_paths):
        layout = "other"  # one's names with another's suffix
    return TensorName(key, kind, layout)


def layouts_of(layers: Mapping[ModuleKey, LayerNames]) -> list[Layout]:
    """The layouts that occur in a file, the commonest first: one, but for odd files."""
    found: list[Layout] = [names.layout for names in layers.values()]
    unet = {names.layout for key, names in layers.items() if key.part == "unet"}
    # Text encoders have the same names in both of kohya's.
    if "kohya-sgm" in unet and "kohya" not in unet:
        found = [layout for layout in found if layout != "kohya"]
    return sorted(set(found), key=lambda layout: (-found.count(layout), layout))


def _layer(module: str) -> tuple[ModuleKey, Layout] | None:
    """The layer that a module's name stands for, and whose way of writing it is."""
    if key := parse_kohya_name(module):
        by_blocks = key.part == "unet" and not module.endswith(key.path.replace(".", "_"))
        return key, "kohya-sgm" if by_blocks else "kohya"
    part: Part | None = None
    seen: list[str] = []
    while prefix := next((one for one in _PREFIXES if module.startswith(one)), None):
        part = _PREFIXES[prefix] or part
        seen.append(prefix)
        module = module.removeprefix(prefix)
    key = layer_by_path(module, part)
    if key is None:
        return None
    spelled = key.path == module or key.path == f"text_model.{module}"
    return key, _USUAL.get(tuple(seen), "other") if spelled else "other"


def _missing(key: ModuleKey, layer: LayerNames) -> list[str]:
    """The tensors that a layer can't be without and that are not there."""
    halves = [half for half in ("lokr_w1", "lokr_w2") if f"{half}_a" in layer.tensors]
    needed = [*FORMS[layer.form], *((f"{half}_b",) for half in halves)]
    return [f"{group[0]} of {key}" for group in needed if not set(group) & set(layer.tensors)]


def _unreadable(
    path: Path, unknown: list[str], kind: str | None, embeddings: list[str], *, readable: bool
) -> UserError:
    hint = (
        "Rarebit reads LoRA, LoCon, DoRA, LoHa, LoKr, OFT, GLoRA and full differences for Stable "
        "Diffusion 1, 2 and XL; ask its author for the file as one of these."
    )
    if not unknown:
        held = f"embeddings ({shorten(embeddings)}) alone" if embeddings else "nothing: it is empty"
        return UserError(f"{path} holds {held}.", hint)
    names = shorten(display_name(name[:120]) for name in unknown)
    if kind:
        hint = "Give it as the base model, with --base." if kind == _WHOLE else hint
        return UserError(f"{path} is {kind}: {names}.", hint)
    said = "has tensors that are not read here"
    if layers := [name for name in unknown if _NAME.fullmatch(name)]:
        said = "names layers that Stable Diffusion 1, 2 and XL don't have"
        names = shorten(display_name(name[:120]) for name in layers)
    if readable:
        hint = (
            "adapter convert FILE --leave-out-unknown --out NEW.safetensors keeps the rest, and "
            "says what is lost."
        )
    return UserError(f"{path} {said}: {names}.", hint)


# ---------------------------------------------------------------------------- files of other kinds


_START = r"^(?:lora_unet_|lora_transformer_|transformer\.|diffusion_model\.|base_model\.model\.)*"
_WHOLE = "a whole base model"
# What is closest to the point comes first: the first mark that any name bears names the file.
_KINDS: tuple[tuple[str, str], ...] = (
    (
        r"^(?:unet|text_encoder(?:_2)?)/",
        "part of a run's checkpoint, whose folder draws, as the step's file in adapters/ does",
    ),
    (r"motion_modules|motion_module|temporal_transformer\.", "an AnimateDiff motion module"),
    (r"temporal_transformer_blocks|temporal_res_block", "an adapter for Stable Video Diffusion"),
    (r"controlnet|^control_model\.|zero_convs|input_hint_block|lllite", "a ControlNet"),
    (r"^(?:image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"^(?:adapter\.)?body\.\d+\.", "a T2I-Adapter"),
    (r"^\d{3,4}\.\d\.|^\d{3,4}\.linear|layer_structure", "a hypernetwork"),
    (r"^emb_params$|^clip_[gl]$|string_to_param|^<[^<>]+>$", "a textual-inversion embedding"),
    (r"\.on_input$|\.ia3_l", "an IA3 adapter, which scales layers and adds nothing to them"),
    (r"\.oft_[RS]\b|\.boft_", "OFT in PEFT's form"),
    (r"(?:double|single)_blocks|single_transformer_blocks|individual_token_refiner",
     "an adapter for Flux, or HunyuanVideo or Chroma, whose blocks have the same names"),
    (r"joint_blocks|(?:norm1|ff)_context|context_block", "an adapter for Stable Diffusion 3"),
    (rf"{_START}transformer_blocks[._]\d+[._](?:img|txt)_|^lora_unet_transformer_blocks_\d+_attn_",
     "an adapter for Qwen-Image"),
    (rf"{_START}transformer_blocks[._]\d+[._]attn[._]",
     "an adapter for Stable Diffusion 3, Qwen-Image or another transformer"),
    (rf"noise_refiner|context_refiner|{_START}layers[._]\d+[._](?:attention|feed_forward|adaLN)",
     "an adapter for Lumina or Z-Image"),
    (rf"{_START}blocks[._]\d+[._](?:self_attn|cross_attn|ffn)[._]", "an adapter for Wan"),
    (rf"{_START}blocks[._]\d+[._]attn[12][._]", "an adapter for Hunyuan-DiT"),
    (rf"adaln_single|caption_projection|{_START}transformer_blocks[._]\d+[._](?:attn[12]|ff)",
     "an adapter for PixArt, or a transformer with its names (Sana, LTX, CogVideoX)"),
    (r"^lora_prior_|^prior\.|"
     r"(?:down|up)_blocks[._]\d+[._]\d+[._](?:attention|channelwise|depthwise|kv_mapper|mapper)",
     "an adapter for Stable Cascade"),
    (r"attn.*add_[kqv]_proj", "an adapter for Kandinsky or DeepFloyd IF"),
    (r"vision_model[._]|visual_projection", "an adapter for an image encoder"),
    (r"(?<!encoder)[._]layers[._]\d+[._](?:self_attn|mlp|attention)[._]|\.h\.\d+\.|lm_head|"
     r"query_key_value|(?:encoder|decoder)[._]block[._]\d+|lora_te\d_(?:model_)?layers_",
     "an adapter for a language model"),
    (r"^model\.diffusion_model\.|^cond_stage_model\.|^conditioner\.", _WHOLE),
    (r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:down|up|mid|conv)", "a VAE"),
    (r"^(?:down_blocks|up_blocks|mid_block|conv_in|text_model)\.(?!.*lora).+\.(?:weight|bias)$",
     "a part of a base model"),
    (r"^(?:lora_)?transformer[._]|^lora_te3_|joint_transformer_blocks|"
     r"(?:double|single)_stream_blocks|distilled_guidance_layer",
     "an adapter for a diffusion transformer"),
)  # fmt: skip


def foreign_kind(names: Sequence[str]) -> str | None:
    """What a file is, such as "an adapter for Wan"; None where no mark tells."""
    for mark, kind in _KINDS:
        if any(re.search(mark, name) for name in names):
            return kind
    return None
