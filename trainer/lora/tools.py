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

from trainer.lora.files import AdapterFile
from trainer.lora.layouts import LayerNames
from trainer.lora.names import PARTS, ModuleKey, Part, shorten
from trainer.models.families import FamilyName

Tool = Literal["A1111", "Forge", "ComfyUI", "InvokeAI", "sd-scripts", "diffusers"]
TOOLS: tuple[Tool, ...] = get_args(Tool)
_PROJECTIONS = frozenset({"q_proj", "k_proj", "v_proj", "out_proj"})
_NAMED = re.compile(r"\.lora_[AB]\.[^.]+\.weight$")
_TEXT_LEVEL = re.compile(r"lora_te[12]?_(?:text_model_|text_projection)")


@dataclass(frozen=True)
class Subject:
    """A file under judgement.

    Attributes:
        names: of each layer the names of its tensors.
        family: what it is for; None where nothing tells, which is judged as SD 1.
    """

    adapter: AdapterFile
    names: Mapping[ModuleKey, LayerNames]
    family: FamilyName | None


@dataclass(frozen=True)
class Finding:
    """What a tool does wrong with a file.

    Attributes:
        note: in a few words.
        lost: the layers that it does not load.
        inexact: whether it loads others with another strength than they were made with.
    """

    note: str
    lost: frozenset[ModuleKey] = frozenset()
    inexact: bool = False


@dataclass(frozen=True)
class ToolVerdict:
    """What a tool makes of a file.

    Attributes:
        matched: of each part the tensors that it loads.
        total: of each part the tensors in the file.
        exact: whether what it loads has the strength that it was made with.
        notes: what is lost or wrong, and why.
    """

    tool: Tool
    matched: dict[Part, int]
    total: dict[Part, int]
    exact: bool
    notes: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether everything is loaded, with its strength."""
        return self.exact and self.matched == self.total

    @property
    def loads(self) -> bool:
        """Whether it loads anything."""
        return any(self.matched.values())


def judge(subject: Subject) -> tuple[ToolVerdict, ...]:
    """What each tool makes of a file, by the table of what was measured."""
    return tuple(_judge(tool, subject) for tool in TOOLS)


def works_in(verdicts: tuple[ToolVerdict, ...]) -> str:
    """In one line, where the file works, and what is wrong elsewhere."""
    good = [verdict.tool for verdict in verdicts if verdict.works]
    lines = [f"works in {', '.join(good) if good else 'none of the usual tools'}"]
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for verdict in verdicts:
        if not verdict.works:
            how = "only in part in" if verdict.loads else "not in"
            by_reason[how, "; ".join(verdict.notes)].append(verdict.tool)
    lines += [f"{how} {', '.join(tools)} ({why})" for (how, why), tools in by_reason.items()]
    return "; ".join(lines)


def _judge(tool: Tool, subject: Subject) -> ToolVerdict:
    findings = [
        found for tools, rule in _RULES if tool in tools and (found := rule(subject)) is not None
    ]
    lost = frozenset[ModuleKey]().union(*(finding.lost for finding in findings))
    return ToolVerdict(
        tool,
        _count(subject, lost),
        _count(subject, frozenset()),
        not any(finding.inexact for finding in findings),
        tuple(finding.note for finding in findings),
    )


def _count(subject: Subject, without: frozenset[ModuleKey]) -> dict[Part, int]:
    tensors: Counter[Part] = Counter()
    for key, names in subject.names.items():
        present = 2 if names.alpha is None else 3
        tensors[key.part] += 0 if key in without else present
    return {part: tensors[part] for part in PARTS if part in tensors}


# -- what goes wrong, one rule a fact


def _diffusers_names(subject: Subject) -> Finding | None:
    lost = frozenset(k for k, n in subject.names.items() if n.layout == "diffusers")
    return Finding("the diffusers layout", lost) if lost else None


def _forge_drops(subject: Subject) -> Finding | None:
    layouts = {names.layout for names in subject.names.values()}
    if layouts & {"diffusers", "peft"}:
        return Finding("drops files in this layout whole", frozenset(subject.names))
    if _without_text_model(subject) is not None:
        return Finding("drops files without text_model. whole", frozenset(subject.names))
    return None


def _peft_names(subject: Subject) -> Finding | None:
    lost = frozenset(k for k, n in subject.names.items() if n.layout == "peft")
    return Finding("the PEFT layout", lost) if lost else None


def _adapter_name_left_in(subject: Subject) -> Finding | None:
    lost = frozenset(k for k, names in subject.names.items() if _NAMED.search(names.down))
    return Finding("the adapter's name is left in its keys", lost) if lost else None


def _without_text_model(subject: Subject) -> Finding | None:
    lost = frozenset(
        key
        for key, names in subject.names.items()
        if key.part != "unet" and names.layout == "kohya" and not _TEXT_LEVEL.match(names.down)
    )
    return Finding("text encoder keys lack text_model.", lost) if lost else None


def _wrong_encoder_prefix(subject: Subject) -> Finding | None:
    """``lora_te1_`` where there is one text encoder."""
    if subject.family == "sdxl":
        return None
    lost = frozenset(k for k, n in subject.names.items() if n.down.startswith("lora_te1_"))
    return Finding("lora_te1_ is SDXL's prefix", lost) if lost else None


def _plain_encoder_prefix(subject: Subject) -> Finding | None:
    """``lora_te_`` where there are two."""
    if subject.family != "sdxl":
        return None
    lost = frozenset(k for k, n in subject.names.items() if n.down.startswith("lora_te_"))
    return Finding("lora_te_ says not which text encoder", lost) if lost else None


def _block_names_beyond_sdxl(subject: Subject) -> Finding | None:
    if subject.family == "sdxl":
        return None
    lost = frozenset(k for k, n in subject.names.items() if n.layout == "kohya-sgm")
    return Finding("SGM block names are SDXL's", lost) if lost else None


def _mixed_unet_names(subject: Subject) -> Finding | None:
    layouts = {n.layout for k, n in subject.names.items() if k.part == "unet"}
    if not layouts >= {"kohya", "kohya-sgm"}:
        return None
    lost = frozenset(k for k, n in subject.names.items() if n.layout == "kohya-sgm")
    return Finding("two kinds of UNet names in one file", lost)


def _sdxl_convolutions(subject: Subject) -> Finding | None:
    """Its table of names puts the first upsampler where SD 1 has it."""
    key = ModuleKey("unet", "up_blocks.0.upsamplers.0.conv")
    if subject.family != "sdxl" or key not in subject.names:
        return None
    if subject.names[key].layout != "kohya":
        return None
    note = "SDXL convolutions by diffusers names lose one module: convert to kohya-sgm"
    return Finding(note, frozenset({key}))


def _incomplete_projections(subject: Subject) -> Finding | None:
    """SD 2 and SDXL's second encoder keep q, k and v in one matrix there."""
    lost = frozenset(
        key
        for part, group in _attentions(subject).items()
        if subject.family == "sd2" or part[0] == "text_encoder_2"
        for key in group
        if {k.path.rsplit(".", 1)[1] for k in group} != _PROJECTIONS
    )
    return Finding("needs q, k, v and out_proj together", lost) if lost else None


def _no_out_projection(subject: Subject) -> Finding | None:
    kohya = any(names.layout in ("kohya", "kohya-sgm") for names in subject.names.values())
    for group in _attentions(subject).values():
        present = {key.path.rsplit(".", 1)[1] for key in group}
        if kohya and present & {"q_proj", "v_proj"} and "out_proj" not in present:
            note = "refuses text encoders without out_proj"
            return Finding(note, frozenset(subject.names))
    return None


def _mixed_alphas(subject: Subject) -> Finding | None:
    alphas: dict[Part, set[float]] = defaultdict(set)
    for key, names in subject.names.items():
        # What has no alpha gets the commonest of the others too.
        if names.layout in ("kohya", "kohya-sgm"):
            alphas[key.part].add(subject.adapter.layers[key].alpha)
    mixed = [part for part, values in alphas.items() if len(values) > 1]
    if not mixed:
        return None
    return Finding(f"gives all layers one alpha: {shorten(mixed)} has several", inexact=True)


def _half_without_alpha(subject: Subject) -> Finding | None:
    """Layers without alpha beside layers with one, in a part."""
    if _mixed_alphas(subject) is not None:
        return None
    for part in PARTS:
        present = {
            names.alpha is None
            for key, names in subject.names.items()
            if key.part == part and names.layout in ("kohya", "kohya-sgm")
        }
        if len(present) == 2:
            return Finding(f"gives all layers one alpha: some of {part} have none", inexact=True)
    return None


def _dora(subject: Subject) -> Finding | None:
    """Its magnitudes mean rows to some tools and columns to others; diffusers drops them."""
    if not subject.adapter.is_dora:
        return None
    return Finding("DoRA: tools differ in what they make of it", inexact=True)


def _hidden(subject: Subject) -> Finding | None:
    """Nothing is lost, but the dialog hides the file from users of its family."""
    metadata = subject.adapter.metadata
    if metadata and "ss_base_model_version" not in metadata and subject.family not in (None, "sd1"):
        return Finding("without ss_base_model_version it is listed as for SD 1")
    return None


def _attentions(subject: Subject) -> dict[tuple[Part, str], list[ModuleKey]]:
    """The projections of each attention of the text encoders."""
    groups: dict[tuple[Part, str], list[ModuleKey]] = defaultdict(list)
    for key in subject.names:
        parent, _, name = key.path.rpartition(".")
        if key.part != "unet" and name in _PROJECTIONS:
            groups[key.part, parent].append(key)
    return groups


Rule = Callable[[Subject], Finding | None]
_RULES: tuple[tuple[tuple[Tool, ...], Rule], ...] = (
    (("A1111", "ComfyUI", "InvokeAI", "sd-scripts"), _diffusers_names),
    (("Forge",), _forge_drops),
    (("A1111", "ComfyUI", "InvokeAI", "sd-scripts", "diffusers"), _peft_names),
    (TOOLS, _adapter_name_left_in),
    (("A1111", "ComfyUI", "InvokeAI", "sd-scripts"), _without_text_model),
    (("sd-scripts", "InvokeAI"), _wrong_encoder_prefix),
    (TOOLS, _plain_encoder_prefix),
    (TOOLS, _block_names_beyond_sdxl),
    (TOOLS, _mixed_unet_names),
    (("A1111",), _sdxl_convolutions),
    (("A1111",), _incomplete_projections),
    (("diffusers",), _no_out_projection),
    (("diffusers",), _mixed_alphas),
    (("diffusers",), _half_without_alpha),
    (TOOLS, _dora),
    (("A1111",), _hidden),
)
