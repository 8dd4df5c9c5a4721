"""Where an adapter file will work: what each tool's loader does with the names of its tensors.

The table at the end holds the faults that were found with the loaders of ComfyUI 0.3.64,
sd-scripts, A1111 1.10.1, Forge, InvokeAI and diffusers 0.42; see docs/adapter-files.md. A layout
that nobody tried counts as not working; what is known and has no recorded fault, as working.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from trainer.answers import Answer
from trainer.lora.adapter import Adapter
from trainer.lora.layouts import Layout
from trainer.lora.names import PARTS, ModuleKey, Part, attentions, unfit_layers
from trainer.models.families import FAMILIES, FamilyName

Tool = Literal["A1111", "Forge", "ComfyUI", "InvokeAI", "sd-scripts", "diffusers"]
TOOLS: tuple[Tool, ...] = get_args(Tool)
_KOHYA: tuple[Layout, ...] = ("kohya", "kohya-sgm")
_WITHOUT_TEXT_MODEL = "^lora_te[12]?_(?!text_model_|text_projection)"
_ADAPTER_NAME = r"\.lora_[AB]\.[^.]+\.weight$"
_FIRST_UPSAMPLER = "^lora_unet_up_blocks_0_upsamplers_0_conv"
"""A1111's table of names has it where SD 1 has it."""
_CONVOLUTION_NOTE = "SDXL convolutions by diffusers names lose one module: convert to kohya-sgm"
_OTHER_KINDS_NOTE = "only LoRA was tried: resize makes a plain adapter of it"
_BY_SOURCE: tuple[Tool, ...] = ("A1111", "Forge", "ComfyUI", "InvokeAI")
_NO_EMBEDDINGS: tuple[Tool, ...] = ("Forge", "ComfyUI", "sd-scripts")
_ONE_ALPHA = "gives all layers one alpha: {parts} has several, or some have none"
_SMALL_NOTE = (
    "it is for the built-in base model or another small one: train on Stable Diffusion for these"
)
_NO_BLOCKS: tuple[Tool, ...] = ("InvokeAI", "sd-scripts", "diffusers")
_HIDDEN_NOTE = "without ss_base_model_version it is listed as for SD 1"


@dataclass(frozen=True)
class ToolVerdict(Answer):
    """What a tool makes of a file."""

    beside = ("works",)

    matched: dict[Part, int]  # of each part the tensors that it loads
    total: dict[Part, int]  # of each part the tensors in the file
    strength_exact: bool  # whether what it loads has the strength that it was made with
    notes: tuple[str, ...]  # what is lost or wrong, and why

    @property
    def works(self) -> bool:
        """Whether everything is loaded, with its strength."""
        return self.strength_exact and self.matched == self.total


# The layers concerned are lost, or the whole file is; strengths are wrong; or it is only noted.
_Effect = Literal["lost", "all lost", "inexact", "noted"]
# The layers of a file that a fault concerns; none where the file is fine.
_Concerned = Callable[[Adapter], set[ModuleKey]]


def judge(adapter: Adapter) -> dict[Tool, ToolVerdict]:
    """What each tool makes of an adapter that was read from a file, by what was measured.

    A file of which nothing tells the family is judged as for SD 1.
    """
    found = [
        (tools, effect, note, layers)
        for tools, effect, note, concerned in _FAULTS
        if (layers := concerned(adapter))
    ]
    total = _count(adapter, set())
    verdicts: dict[Tool, ToolVerdict] = {}
    for tool in TOOLS:
        mine = [(effect, note, of) for tools, effect, note, of in found if tool in tools]
        lost: set[ModuleKey] = set()
        for effect, _, layers in mine:
            lost |= {"lost": layers, "all lost": set(adapter.layers)}.get(effect, set())
        exact = all(effect != "inexact" for effect, _, _ in mine)
        notes = tuple(note.format(parts=_parts(layers)) for _, note, layers in mine)
        verdicts[tool] = ToolVerdict(_count(adapter, lost), total, exact, notes)
    return verdicts


def works_in(verdicts: Mapping[Tool, ToolVerdict]) -> str:
    """In one line, where the file works, and what is wrong elsewhere."""
    good = [tool for tool, verdict in verdicts.items() if verdict.works]
    lines = [f"works in {', '.join(good) if good else 'none of the usual tools'}"]
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for tool, verdict in verdicts.items():
        if not verdict.works:
            how = "only in part in" if any(verdict.matched.values()) else "not in"
            by_reason[how, "; ".join(verdict.notes)].append(tool)
    lines += [f"{how} {', '.join(tools)} ({why})" for (how, why), tools in by_reason.items()]
    return "; ".join(lines)


def _count(adapter: Adapter, without: set[ModuleKey]) -> dict[Part, int]:
    """Of each part the tensors, but for some layers'."""
    tensors: Counter[Part] = Counter()
    for key, names in adapter.names.items():
        tensors[key.part] += 0 if key in without else len(names.tensors)
    return {part: tensors[part] for part in PARTS if part in tensors}


def _parts(layers: set[ModuleKey]) -> str:
    return ", ".join(part for part in PARTS if any(key.part == part for key in layers))


# -- which layers a fault concerns


def _where(concerned: Callable[[Adapter, ModuleKey], bool]) -> _Concerned:
    return lambda adapter: {key for key in adapter.names if concerned(adapter, key)}


def _in_layout(*layouts: Layout) -> _Concerned:
    return _where(lambda adapter, key: adapter.names[key].layout in layouts)


def _named(pattern: str, sdxl: bool | None = None) -> _Concerned:
    """Layers whose down matrix has such a name, in any file or in those (not) for SDXL."""
    return _where(
        lambda adapter, key: (
            sdxl in (None, adapter.family == "sdxl")
            and re.search(pattern, adapter.names[key].first) is not None
        )
    )


def _block_names_on(family: FamilyName) -> _Concerned:
    return _where(
        lambda adapter, key: (
            (adapter.family or "sd1") == family and adapter.names[key].layout == "kohya-sgm"
        )
    )


def _sized_otherwise(partly: bool) -> _Concerned:
    """The layers that full-size models lack or have in other shapes: some of the file's, or all."""

    def layers(adapter: Adapter) -> set[ModuleKey]:
        shapes = adapter.shapes
        families: list[FamilyName] = [adapter.family] if adapter.family else list(FAMILIES)
        unfit = min((unfit_layers(family, shapes) for family in families), key=len)
        return unfit if (len(unfit) < len(shapes)) == partly else set()

    return layers


def _as_trained(adapter: Adapter) -> set[ModuleKey]:
    """LoHa and LoKr as training writes them, without Tucker's core."""
    return {
        key
        for key, layer in adapter.layers.items()
        if layer.form and layer.kind in ("LoHa", "LoKr")
        if not {"hada_t1", "lokr_t2"} & layer.form.tensors.keys()
    }


def _other_kinds(adapter: Adapter) -> set[ModuleKey]:
    others = {key for key, layer in adapter.layers.items() if layer.form is not None}
    return others - _as_trained(adapter)


_with_embeddings = _where(lambda adapter, _: bool(adapter.embeddings))
_scaled_apart = _where(lambda adapter, key: "scalar" in adapter.names[key].tensors)
# sd-scripts takes an alpha of 0 for the rank; elsewhere such a layer changes nothing.
_zero_alphas = _where(
    lambda adapter, key: (
        adapter.layers[key].alpha == 0 and {"alpha", "down"} <= adapter.names[key].tensors.keys()
    )
)
# Its magnitudes mean rows to some tools and columns to others; diffusers drops them.
_dora = _where(lambda adapter, key: adapter.layers[key].magnitude is not None)


def _mixed_unet_names(adapter: Adapter) -> set[ModuleKey]:
    layouts = {names.layout for key, names in adapter.names.items() if key.part == "unet"}
    return _in_layout("kohya-sgm")(adapter) if layouts >= set(_KOHYA) else set()


def _in_attentions(adapter: Adapter, wrong: Callable[[Part, set[str]], bool]) -> set[ModuleKey]:
    """The projections of the text encoders' attentions that have a wrong choice of them."""
    return {
        ModuleKey(part, f"{parent}.{name}")
        for (part, parent), names in attentions(adapter.names).items()
        if part != "unet" and wrong(part, names)
        for name in names
    }


def _incomplete_projections(adapter: Adapter) -> set[ModuleKey]:
    """SD 2 and SDXL's second encoder keep q, k and v in one matrix there."""
    joined = {"text_encoder_2"} | ({"text_encoder"} if adapter.family == "sd2" else set[str]())
    return _in_attentions(adapter, lambda part, names: part in joined and len(names) < 4)


def _no_out_projection(adapter: Adapter) -> set[ModuleKey]:
    if not _in_layout(*_KOHYA)(adapter):
        return set()
    return _in_attentions(
        adapter, lambda _, names: bool(names & {"q_proj", "v_proj"}) and "out_proj" not in names
    )


def _several_alphas(adapter: Adapter) -> set[ModuleKey]:
    """What has no alpha, so that it is the rank, gets the commonest of the others too."""
    found: set[ModuleKey] = set()
    for part in PARTS:
        keys = {key for key in _in_layout(*_KOHYA)(adapter) if key.part == part}
        alphas = {(adapter.layers[k].alpha, "alpha" in adapter.names[k].tensors) for k in keys}
        found |= keys if len(alphas) > 1 else set()
    return found


def _hidden(adapter: Adapter) -> set[ModuleKey]:
    """A dialog hides such a file from users of its family; nothing is lost."""
    shown = "ss_base_model_version" in adapter.metadata or not adapter.metadata
    return set() if shown or adapter.family in (None, "sd1") else set(adapter.names)


_MOST: tuple[Tool, ...] = ("A1111", "ComfyUI", "InvokeAI", "sd-scripts")
# What some tools do wrong with some files: the tools, the effect, the note in a few words, where
# ``{parts}`` stands for the parts of the layers concerned, and these layers.
_FAULTS: tuple[tuple[tuple[Tool, ...], _Effect, str, _Concerned], ...] = (
    (_MOST, "lost", "the diffusers layout", _in_layout("diffusers")),
    (("Forge",), "all lost", "drops files in this layout whole", _in_layout("diffusers", "peft")),
    (("Forge",), "all lost", "drops files without text_model. whole", _named(_WITHOUT_TEXT_MODEL)),
    ((*_MOST, "diffusers"), "lost", "the PEFT layout", _in_layout("peft")),
    (TOOLS, "lost", "the adapter's name is left in its keys", _named(_ADAPTER_NAME)),
    (_MOST, "lost", "text encoder keys lack text_model.", _named(_WITHOUT_TEXT_MODEL)),
    (("sd-scripts", "InvokeAI"), "lost", "lora_te1_ is SDXL's prefix", _named("^lora_te1_", False)),
    (TOOLS, "lost", "lora_te_ says not which text encoder", _named("^lora_te_", True)),
    (_NO_BLOCKS, "lost", "SGM block names are SDXL's", _block_names_on("sd1")),
    (TOOLS, "lost", "SGM block names are SDXL's", _block_names_on("sd2")),
    ((*_MOST, "Forge"), "lost", _SMALL_NOTE, _sized_otherwise(partly=False)),
    (TOOLS, "lost", "layers of {parts} have the shapes of no such model", _sized_otherwise(True)),
    (TOOLS, "lost", _OTHER_KINDS_NOTE, _other_kinds),
    (("sd-scripts",), "lost", "reads LoHa and LoKr through LyCORIS", _as_trained),
    (("diffusers",), "all lost", "reads no LoHa and LoKr", _as_trained),
    (_BY_SOURCE, "noted", "LoHa and LoKr: by its source, not tried", _as_trained),
    (TOOLS, "lost", "names that were tried nowhere: convert", _in_layout("other")),
    (TOOLS, "inexact", "only LyCORIS reads .scalar: convert", _scaled_apart),
    (("sd-scripts",), "inexact", "takes an alpha of 0 for the rank", _zero_alphas),
    (("InvokeAI", "diffusers"), "all lost", "refuses bundled embeddings", _with_embeddings),
    (_NO_EMBEDDINGS, "noted", "loads the layers, not the embeddings", _with_embeddings),
    (TOOLS, "lost", "two kinds of UNet names in one file", _mixed_unet_names),
    (("A1111",), "lost", _CONVOLUTION_NOTE, _named(_FIRST_UPSAMPLER, True)),
    (("A1111",), "lost", "needs q, k, v and out_proj together", _incomplete_projections),
    (("diffusers",), "all lost", "refuses text encoders without out_proj", _no_out_projection),
    (("diffusers",), "inexact", _ONE_ALPHA, _several_alphas),
    (TOOLS, "inexact", "DoRA: tools differ in what they make of it", _dora),
    (("A1111",), "noted", _HIDDEN_NOTE, _hidden),
)  # fmt: skip
