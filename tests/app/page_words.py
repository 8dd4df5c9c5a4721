"""Every word that the page may show, gathered from what makes it: the components, templates, code.

A word is a text as the page shows it, with ``{}`` for what is filled in; `shorn` of the signs
around it. ``python -m tests.app.page_words`` prints those that a language lacks.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections import Counter
from collections.abc import Container, Iterator
from html.parser import HTMLParser
from typing import Any, get_args

import gradio as gr
import jinja2
from jinja2 import nodes

from app.languages import LANGUAGES, catalogue
from app.page import build_page
from trainer.config.fields import all_fields
from trainer.config.presets import PRESETS
from trainer.events import Phase
from trainer.places import PROJECT
from trainer.runs.meters import METERS

ELSEWHERE = {"__main__", "server", "theme"}
"""Modules of the app whose words a terminal or a script reads."""
SPOKEN = (
    "evaluation/verdicts", "evaluation/overall", "evaluation/listening", "triggers/judgement",
    "data/checks", "data/report", "data/duplicates", "data/colours", "data/findings", "data/sets",
    "data/scan", "data/folders", "data/pairing", "data/images", "data/masks",
    "data/caption_files", "runs/charts", "runs/publishing", "config/concepts", "models/hub",
    "training/resume", "lora/tools",
)  # fmt: skip
"""Modules of the trainer whose sentences the page shows every day."""
UNHEARD = (
    "__main__", "api", "system", "config/docs", "lora/baking", "memory/prediction",
    "evaluation/target", "training/processes", "commands/adapter", "commands/caption",
    "commands/check_images", "commands/cli", "commands/command", "commands/doctor",
    "commands/evaluate", "commands/fit", "commands/generate", "commands/import_settings",
    "commands/mask", "commands/progress", "commands/prove", "commands/resume", "commands/train",
    "commands/trigger", "commands/tune", "training/cluster",
)  # fmt: skip
"""Modules of the trainer whose words only a terminal shows. What all others refuse and warn of
reaches the page, also that of modules to come, with the whole sentences that go into it."""
ASIDE = (
    "captioning/wording", "commands/adapter_files", "commands/adapter_repair",
    "commands/publish", "config/glossary", "evaluation/repair", "lora/editing", "runs/report",
    "tuning/result",
)  # fmt: skip
"""Of these only what they refuse: their other sentences are a terminal's, a model's or a file's."""
_TELLING = {
    "UserError", "ConfigError", "Mistake", "ImageProblem", "Warned", "Ended", "Prepared", "warn",
    "out_of_memory", "notice",
}  # fmt: skip
SINGLE = (
    "learns", "from", "verdict", "steps", "and", "Pause", "Resume", "Queue", "Send or publish …",
    "there is no such field",
    "Uploaded", "Delete", "Delete …", "Loss", "Log", "Report", "step {}", "seed {}", "once",
    "{} times", "on", "off", "{} × {} pixels", "its settings", "its log", "Layers", "File",
    "Enough", "Metadata", "{} in text encoder", "{} in UNet", "Undone{}: {}.",
    "the run {} is at step {} of {}", "for this command",
    "Good", "Weak", "It works in {}", "Error", "Zoom in", "Zoom out",
    "select the draw tool to start", "{} to {}",
    "strength exact", "strength wrong",
    "{} adapter", "{} adapters", "{} strength", "{} strengths",
    "{} prompt", "{} prompts", "Unsuitable", "doubtful", "unusable", "{} and {} more",
    "taken", "weak", "{} s", "{} min", "{} h", "{} min {} s", "{} h {} min", "about {} s",
    "about {} min", "about {} h", "about {} h {} min", "{} more",
    # Of gradio's editor, galleries, drop zones, messages and lists:
    "Warning", "Info", "Close", "Invalid file type: {}. Only {} allowed.", "Remove {}",
    "Remove {} from the list", "undo", "redo", "processing |", "queue: {} |", "queue: {}/{} |",
    "common.complete",
    "Brush", "Brush Size", "Clear canvas", "Color", "Erase", "Pan", "Redo", "File upload",
    "Click to upload or drop files", "More tabs", "Reset to default value", "Thumbnail {} of {}",
)  # fmt: skip
"""Single words in code, which look like names of things, and those that gradio lacks in German."""
LOGGED = (
    "trains {}: {} parameters, {} % of {}, with {} at {}", "and {} (text encoder)", "UNet layers",
    "text-encoder layers", "{} UNet and {} text-encoder layers",
    "{}, {} steps of {}: each picture is seen about {}",
    "{} kept out of training to measure by, {} steps of {}: each picture is seen about {}",
    "{} kept out of training, though nothing is measured (evaluation.validation = 0 trains on "
    "all), {} steps of {}: each picture is seen about {}",
    "Goes on from step {}: {}", "{} changed from {} to {}",
    "The learning-rate schedule now spans {} steps: after step {} the rate goes on at {} of its "
    "peak",
    "Images: {}", "Use {} at strength {}: {}", "finished: {}", "failed: {}",
    "the file, read back, holds {} to within {} of the adapter's change {}", "works in {}",
    "It works in {}", "It works in none of the usual tools", "only in part in {} ({})",
    "It is {} pieces ({})", "not in {} ({})",
    "it is for the built-in base model or another small one: train on Stable Diffusion for these",
)  # fmt: skip
"""What a run's log and verdict say, put together by several modules."""
SLOT = "{}"
_PART = "\x1e"
_ATTRIBUTES = ("title", "alt", "aria-label", "placeholder")
_NAME = re.compile(r"[a-z_]+|\d\w\w")  # an argument's
_WHOLE = re.compile(r"[A-Z{].*[.!?…]", re.DOTALL)
_SENTENCE = re.compile(r"[A-Za-z]{2,}.* [A-Za-z]", re.DOTALL)
_SHOWN = re.compile(rf"{_SENTENCE.pattern}|^[A-Z][a-z]+$", re.DOTALL)  # in a template
_CODE = re.compile(
    r"=>|\breturn\b|^<|default-src|max-age|^\s*\(|__|^role=|^tuple|(across|last|like) (name|stem)$"
)
_NUMBER = re.compile(r"(?<!\w)-?\d(?:[\d,.]*\d)?")
_NO_TEXT = re.compile(r"no secret|no component|No such|Not logged|ohwx")  # for scripts
_UNSHOWN = {
    "a photo of", "in a garden", "my cat", "all lost", "blue, red lights", "{}. It {}.", "It is",
    "ohwx, ohwx car", "an ohwx car",
}  # fmt: skip
"""Prompts, examples, and what only scripts read or joins other words."""


def shorn(text: str) -> str:
    """A text without the signs around it that belong to what stands beside it."""
    text = " ".join(text.split())
    return re.sub(r"^[\s,.;:·()+…✕!]+|[\s,;:·(+]+$", "", text)


def words() -> set[str]:
    """All of them."""
    found = {*_components(), *_templates(), *_literals(), *_refusals()}
    found |= {*SINGLE, *LOGGED, *get_args(Phase), *_languages()}
    found |= {one.reason for one in PRESETS.values()}
    expected = (_NUMBER.sub(SLOT, one.expected) for one in all_fields().values())
    found |= {re.sub("^one of .*", f"one of {SLOT}", one) for one in expected}
    for meter in METERS:
        found |= {meter.title, meter.direction, meter.explanation}
    found = {text.replace("{parts}", SLOT) for text in found}
    texts = {text for text in map(shorn, found) if re.search(r"[A-Za-z]{2}", text)}
    return {text for text in texts - _UNSHOWN if not _NO_TEXT.match(text)}


def _languages() -> Iterator[str]:
    """Those of the word lists by their names; the module itself would load torch."""
    tree = ast.parse((PROJECT / "trainer" / "triggers" / "words.py").read_text("utf-8"))
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="LANGUAGES")], value=value):
                yield from ast.literal_eval(value).values()
            case _:
                pass


class _Texts(HTMLParser):
    """The texts of some HTML, and those of its attributes; of class "whole" each as one, with
    slots for the elements in it."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.sentence: list[str] = []
        self.depth = 0  # in an element of that class, itself counted
        self.feed(markup)
        self.close()

    def handle_data(self, data: str) -> None:
        (self.sentence if self.depth == 1 else self.texts).append(data)

    def handle_endtag(self, tag: str) -> None:
        self.depth = max(0, self.depth - 1)
        if not self.depth:
            self.texts.append("".join(self.sentence))
            self.sentence = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.depth:
            self.sentence.append(SLOT)
        if self.depth or "whole" in (dict(attrs).get("class") or "").split():
            self.depth += 1
        self.texts += [value for name, value in attrs if name in _ATTRIBUTES and value]


def _components() -> Iterator[str]:
    """What the page's components show at first."""
    shown: list[Any] = [build_page()]
    while shown:
        one = shown.pop()
        shown += getattr(one, "children", [])
        for name in ("label", "info", "placeholder"):
            text = getattr(one, name, None)
            if isinstance(text, str) and not (_NAME.fullmatch(text) or _CODE.search(text)):
                yield from text.split("`")
        if isinstance(one, (gr.Button, gr.Markdown, gr.HTML)) and isinstance(one.value, str):
            yield from _Texts(one.value).texts
        if isinstance(one, (gr.Radio, gr.CheckboxGroup, gr.Dropdown)):
            names = [str(name) for name, value in one.choices if name != value]
            yield from (name for name in names if name.partition(":")[0] not in PRESETS)


def _templates() -> Iterator[str]:
    """The texts of app/templates/, and those that they give to each other."""
    environment = jinja2.Environment()
    for path in sorted((PROJECT / "app" / "templates").glob("*.html")):
        tree = environment.parse(path.read_text("utf-8"))
        for macro in tree.find_all(nodes.Macro):
            # What is there at times parts texts, but not the attributes of an element.
            markup = re.sub(
                r"<[^<>]*>", lambda m: m[0].replace(_PART, ""), "".join(_markup(macro.body))
            )
            markup = re.sub(rf"({re.escape(SLOT)})+", SLOT, markup)
            for text in _Texts(markup).texts:
                yield from text.split(_PART)
        joined = [node.nodes for node in tree.find_all(nodes.Concat)]
        for parts in (*joined, *([one] for one in tree.find_all(nodes.Const))):
            values = [getattr(one, "value", SLOT) for one in parts]
            text = "".join(one for one in values if isinstance(one, str))
            in_another = len(parts) == 1 and any(parts[0] in one for one in joined)
            if _SHOWN.search(text) and not in_another:
                yield re.sub(r"%%", "%", re.sub(r"%(?:\.\d)?[dsf]", SLOT, text))


def _markup(body: list[Any]) -> Iterator[str]:
    """A template's text with slots for values. What is there at times stands apart."""
    for node in body:
        match node:
            case nodes.TemplateData():
                yield node.data
            case nodes.Output():
                yield from _markup(node.nodes)
            case nodes.If() | nodes.For() | nodes.CallBlock():
                for inner in (node.body, getattr(node, "elif_", []), getattr(node, "else_", [])):
                    yield from (_PART, *_markup(inner), _PART)
            case nodes.CondExpr():
                yield from (_PART, *_markup([node.expr1]), _PART)
                yield from (*_markup([node.expr2] if node.expr2 else []), _PART)
            case nodes.Const(value=str(text)):
                yield text
            case nodes.Expr():
                yield SLOT
            case _:
                pass


def _literals() -> Iterator[str]:
    """The sentences in the code of the app, and in some of the trainer's."""
    paths = [path for path in (PROJECT / "app").rglob("*.py") if path.stem not in ELSEWHERE]
    paths += [PROJECT / "trainer" / f"{name}.py" for name in SPOKEN]
    for path in sorted(paths):
        tree = ast.parse(path.read_text("utf-8"))
        yield from _sentences(tree)
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="counted"), args=[_, ast.Constant(value=str(noun))]):
                    yield from (f"{SLOT} {noun}", f"{SLOT} {noun}s")
                case _:
                    pass


def _refusals() -> Iterator[str]:
    """What the modules of the trainer refuse and warn of, and whole sentences that go into it."""
    trainer = PROJECT / "trainer"
    for path in sorted(trainer.rglob("*.py")):
        name = path.relative_to(trainer).with_suffix("").as_posix()
        if name in (*UNHEARD, *SPOKEN):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        if name not in ASIDE:
            yield from filter(_WHOLE.fullmatch, _sentences(tree))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        telling = (
            call
            for call in calls
            if getattr(call.func, "id", getattr(call.func, "attr", "")) in _TELLING
        )
        yield from _sentences(tree, {node for call in telling for node in ast.walk(call)})


def _sentences(tree: ast.AST, within: Container[ast.AST] | None = None) -> Iterator[str]:
    """Those in code; `within`: in these parts of it alone."""
    quiet: set[ast.AST] = set()
    scopes: dict[ast.AST, dict[str, ast.IfExp]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=value):
                quiet.add(value)
            case ast.JoinedStr(values=values):
                quiet.update(values)
            case ast.FunctionDef():
                scopes |= dict.fromkeys(ast.walk(node), _choices(node))
            case _:
                pass
    for node in ast.walk(tree):
        if node in quiet or (within is not None and node not in within):
            continue
        for text in _texts(node, scopes.get(node, {})):
            if _SENTENCE.search(text) and not _CODE.search(text):
                yield from text.split("\n")


def _choices(function: ast.AST) -> dict[str, ast.IfExp]:
    """The names in a function that are put once, to one thing or another."""
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    puts = Counter(node.id for node in nodes if isinstance(node.ctx, ast.Store))
    found: dict[str, ast.IfExp] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name() as name], value=value):
                pairs = [(name, value)]
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                pairs = zip(names, values, strict=False)
            case _:
                continue
        for name, value in pairs:
            if isinstance(name, ast.Name) and isinstance(value, ast.IfExp) and puts[name.id] == 1:
                found[name.id] = value
    return found


def _texts(node: ast.AST, known: dict[str, ast.IfExp]) -> list[str]:
    """What a text in code may say: each of two ways for a part that is one thing or another."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            parts = [_filled(one.value, known) if isinstance(one, ast.FormattedValue)
                     else _texts(one, known) for one in values]  # fmt: skip
            return ["".join(one) for one in itertools.product(*parts)]
        case _:
            return []


def _filled(node: ast.AST, known: dict[str, ast.IfExp]) -> list[str]:
    if isinstance(node, ast.Name) and node.id in known:
        node = known[node.id]
    if not isinstance(node, ast.IfExp):
        return [SLOT]
    ways = [_texts(one, {}) or _filled(one, {}) for one in (node.body, node.orelse)]
    return [text for way in ways for text in way]


if __name__ == "__main__":
    everything = words()
    for language in LANGUAGES:
        missing = sorted(everything - set(catalogue(language)))
        print(json.dumps(dict.fromkeys(missing, ""), indent=0, ensure_ascii=False))
