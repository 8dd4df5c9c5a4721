"""The Adapters tab: what an adapter file is, where it works, and new files made from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from app.files import Upload, as_uploads, file_drop, forget, to_show
from app.kit import Kit
from app.render import refused
from app.shared import PRIVATE, QUIET, Shared, for_scripts, go, says_errors
from app.tabs.adapters import facts, files
from app.tabs.adapters.files import ListedAdapter, find_adapter, list_adapters
from app.tabs.images.imagesets import set_choices
from trainer.errors import UserError

Updates = dict[Block, object]
# One press downloads: the link of the file that was packed is pressed as soon as it stands there.
_FETCH = """(files) => {
    const [packed] = [files].flat().filter(Boolean);
    if (!packed) return;
    const fetchIt = (tries) => {
        const link = [...document.querySelectorAll("#adapters-file a[download]")]
            .find((one) => decodeURI(one.href).includes(packed.path));
        if (link) link.click();
        else if (tries) setTimeout(fetchIt, 100, tries - 1);
    };
    fetchIt(50);
}"""
# What a button far below gives, or refuses, stands at the top.
_LOOK = "() => document.querySelector('#adapters-made').scrollIntoView({block: 'center'})"
_MORE = 2  # adapters that can be merged with the chosen one
_WHOLE: dict[str, Any] = {"value": 0, "precision": 0, "minimum": 0}

add = Kit("adapters")


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    desk = Desk()
    _wire(desk, shared)
    _expose()


# ------------------------------------------------------------------------------ the parts


class Desk:
    """The tab's components, put in where it is made."""

    def __init__(self) -> None:
        hidden: dict[str, Any] = {"visible": False}
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.chosen = add.choice(
                    "chosen", "Adapter", _choices(),
                    info="Those that were trained here, and those that you brought or made.",
                )  # fmt: skip
                self.drop = add(
                    file_drop, "upload", label="Drop an adapter (.safetensors) here",
                    file_types=[".safetensors"], height=150,
                )  # fmt: skip
            with gr.Column(scale=3, min_width=320):
                self.facts = add.html("facts", facts.nothing())
                with gr.Row():
                    self.use = add.button("use", "Draw with it", variant="primary", **hidden)
                    self.download = add.button("download", "Download (zip)", **hidden)
                self.file = add(
                    gr.File, "file", interactive=False, **hidden,
                    label="The adapter, with the text and picture that other tools show",
                )  # fmt: skip
        self.made = add.html("made")
        self.board = add(
            gr.Image, "board", label="Before and after", interactive=False, visible=False
        )
        with add(gr.Column, "desk", **hidden) as self.column:
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=320):
                    self.chart = add.html("chart", padding=True)
                with gr.Column(scale=3, min_width=320):
                    self.proof = add.html("proof", padding=True)
            self._lay_out_convert()
            self._lay_out_resize()
            self._lay_out_merge()
            self._lay_out_tune()
            with add.fold("more", "What the file says of itself"):
                self.metadata = add.html("metadata")

    @property
    def shown(self) -> list[Block]:
        """What tells of the chosen adapter, and the lists that it stands in."""
        shown: list[Block] = [self.facts, self.chart, self.proof, self.metadata, self.column]
        return [*shown, self.file, self.made, self.board, self.use, self.download, *self.lists]

    @property
    def lists(self) -> list[Component]:
        """What the list of adapters stands in."""
        return [self.chosen, *self.others, self.images]

    def _lay_out_convert(self) -> None:
        layouts = {
            "kohya: read by every tool": "kohya",
            "kohya with SGM names (full SDXL)": "kohya-sgm",
            "diffusers only": "diffusers",
        }
        precisions = {"as it is": "", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
        with add.fold("convert-fold", "Convert"):
            self.layout = add.radio("layout", "Layout", [*layouts.items()], "kohya")
            self.precision = add.radio("precision", "Numbers", [*precisions.items()], "")
            self.convert = add.button("convert", "Convert")

    def _lay_out_resize(self) -> None:
        wide: dict[str, Any] = {"min_width": 260}
        with add.fold("resize-fold", "Make it smaller"):
            with gr.Row(equal_height=True):
                self.rank = add.number(
                    "rank", "Rank of every layer, at most", "0: what the share asks for.",
                    **_WHOLE, **wide,
                )  # fmt: skip
                self.share = add.slider(
                    "share", "Share of each layer's change to keep", (0.5, 0.999, 0.001), 0.99,
                    "Of its square: 0.99 changes the adapter by up to 10 %.", **wide,
                )  # fmt: skip
            self.keep = add.slider(
                "keep", "Or share of its likeness to keep", (0, 1, 0.01), 0,
                "A rank for each layer, measured on the pictures chosen below; 0: as above.",
            )  # fmt: skip
            self.resize = add.button("resize", "Make a smaller one")

    def _lay_out_merge(self) -> None:
        wide: dict[str, Any] = {"min_width": 260}
        span = (-2.0, 2.0, 0.05)
        with add.fold("merge-fold", "Merge with others"):
            own = add.slider("strength-0", "Strength of the chosen adapter", span, 1.0, **wide)
            self.others, self.strengths = list[gr.Dropdown](), [own]
            for n in range(1, _MORE + 1):
                name, strength = f"Adapter {n + 1}", f"Strength of adapter {n + 1}"
                with gr.Row(equal_height=True):
                    self.others.append(add.choice(f"other-{n}", name, _others(), "", **wide))
                    self.strengths.append(add.slider(f"strength-{n}", strength, span, 1.0, **wide))
            self.merge_rank = add.number(
                "merge-rank", "Reduce to rank", "0: the ranks added up, which is exact.", **_WHOLE
            )
            self.merge = add.button("merge", "Merge")
            self.together = add.button(
                "together", "Measure, and merge so that each keeps most of its likeness"
            )

    def _lay_out_tune(self) -> None:
        parts = {"all of it": "", "subject only (SDXL)": "subject", "style only (SDXL)": "style"}
        with add.fold("tune-fold", "Repair by measurement"):
            self.images = add.choice(
                "images", "Pictures", _sets(), "",
                "Some of its subject. Best are those that it was not trained on.",
            )  # fmt: skip
            with gr.Row(equal_height=True):
                words = {"trigger": "Trigger word", "class-word": "Class word"}
                self.trigger, self.class_word = (
                    add.text(thing, label, "Empty: what the file says.", max_length=60)
                    for thing, label in words.items()
                )
            self.only = add.radio("only", "Keep", [*parts.items()], "")
            self.measured_by = [self.images, self.trigger, self.class_word, self.only]
            self.tune = add.button(
                "tune", "Choose the strength of each block so that it leaks least"
            )
            self.train_on = add.button(
                "on", "Fill the Train form to train on from it, with the rest held"
            )


def _choices() -> list[tuple[str, str]]:
    return [(choice.title, choice.id) for choice in list_adapters()]


def _sets() -> list[tuple[str, str]]:
    return [("those of its run", ""), *set_choices()]


def _others() -> list[tuple[str, str]]:
    return [("no adapter", ""), *_choices()]


# ------------------------------------------------------------------------------ handlers


def _wire(desk: Desk, shared: Shared) -> None:
    def choose(choice: ListedAdapter) -> Updates:
        return _show(desk, choice)

    def bring(sent: list[Upload]) -> Updates:
        uploads = as_uploads(sent)
        try:
            shown = _show(desk, files.take_in(uploads[0]), listed=True) if uploads else {}
            return {**shown, desk.drop: None}
        except UserError as error:
            return {desk.made: refused(error), desk.drop: None}
        finally:
            forget(uploads)

    def train_on(choice: ListedAdapter, *given: str) -> Updates:
        text = files.settings_to_train_on(choice, *given)
        return {shared.settings: (text, time.time()), shared.tabs: go("train"), desk.made: ""}

    def download(choice: ListedAdapter) -> Updates:
        path = files.download(choice)
        return {desk.file: gr.File(value=str(path), visible=True), desk.made: ""}

    entered = shared.rooms["adapters"].select
    entered(says_errors(lambda one: _lists(desk, one)), desk.chosen, desk.lists, **QUIET)
    makers: dict[gr.Button, tuple[Callable[..., files.Made], list[Component]]] = {
        desk.convert: (files.convert, [desk.layout, desk.precision]),
        desk.resize: (files.resize, [desk.rank, desk.share, desk.images, desk.keep]),
        desk.tune: (files.tune, desk.measured_by),
        desk.together: (files.together, [*desk.others]),
        desk.merge: (files.merge, [desk.merge_rank, *desk.others, *desk.strengths]),
    }
    here: dict[str, Any] = {"show_progress_on": [desk.made], **PRIVATE}
    shown = [desk.drop, *desk.shown]
    desk.chosen.input(_of_chosen(desk, choose), desk.chosen, shown, **here)
    desk.drop.upload(says_errors(bring), desk.drop, shown, **here)
    for button, (make, inputs) in makers.items():
        made = button.click(_making(desk, make), [desk.chosen, *inputs], shown, **here)
        made.then(None, None, None, js=_LOOK, **PRIVATE)
    packed = desk.download.click(_of_chosen(desk, download), desk.chosen, shown, **here)
    packed.success(None, desk.file, None, js=_FETCH, **PRIVATE)
    desk.train_on.click(
        _of_chosen(desk, train_on),
        [desk.chosen, desk.images, desk.trigger, desk.class_word, shared.base],
        [shared.settings, shared.tabs, desk.made], **QUIET,
    )  # fmt: skip
    desk.use.click(
        lambda chosen: (chosen, go("generate")), desk.chosen, [shared.adapter, shared.tabs], **QUIET
    )


def _lists(desk: Desk, chosen: str | None) -> Updates:
    """What may be chosen, here and as others to merge."""
    known = _choices()
    value = chosen if chosen in [identity for _, identity in known] else None
    return {
        desk.chosen: gr.Dropdown(choices=known, value=value),
        **{one: gr.Dropdown(choices=_others()) for one in desk.others},
        desk.images: gr.Dropdown(choices=_sets()),
    }


def _show(
    desk: Desk, choice: ListedAdapter, made: str = "", listed: bool = False, board: str = ""
) -> Updates:
    """One adapter; `made` says how it came to be, and `listed` puts a new one into the lists."""
    found, verified = files.inspect(choice), files.verify(choice)
    return {
        desk.facts: facts.what_it_is(choice, found),
        desk.chart: facts.chart(found),
        desk.proof: facts.proof(verified),
        desk.metadata: facts.metadata(found),
        desk.column: gr.Column(visible=True),
        desk.use: gr.Button(visible=True),
        desk.download: gr.Button(visible=True),
        desk.file: gr.File(value=None, visible=False),
        desk.made: made,
        desk.board: gr.Image(value=board or None, visible=bool(board)),
        **(_lists(desk, choice.id) if listed else {}),
    }


def _making(desk: Desk, make: Callable[..., files.Made]) -> Callable[..., Updates]:
    """A handler that shows a file that is made from the chosen adapter."""

    def new(choice: ListedAdapter, *given: Any) -> Updates:
        made, answer = make(choice, *given)
        board = to_show(Path(answer["board"])) if "board" in answer else ""
        return _show(desk, made, facts.result(answer), listed=True, board=board)

    return _of_chosen(desk, new)


def _of_chosen(desk: Desk, handler: Callable[..., Updates]) -> Callable[..., Updates]:
    """A handler for the chosen adapter, whose refusals stand where its results would."""

    def told_here(chosen: str | None, *given: Any) -> Updates:
        try:
            return handler(find_adapter(chosen or ""), *given)
        except UserError as error:
            return {desk.made: refused(error)}

    return says_errors(told_here)


# ------------------------------------------------------------------------------ for scripts


def _expose() -> None:
    gr.api(for_scripts(inspect_adapter), api_name="inspect_adapter")
    with gr.Row(visible=False):
        adapter, file = gr.Textbox(label="adapter"), gr.File(label="file")
        gr.Button().click(for_scripts(download_adapter), adapter, file, api_name="download_adapter")


def inspect_adapter(adapter: str) -> dict:
    """What is in an adapter file, and in which tools it works.

    Args:
        adapter: a run's name, or the id of a file, such as ``file/my-cat.safetensors``.
    """
    choice = find_adapter(adapter)
    return {**files.inspect(choice), "tools": files.verify(choice)["tools"]}


def download_adapter(adapter: str) -> str:
    """A zip file with an adapter, and the text and picture that other tools show beside it."""
    return str(files.download(find_adapter(adapter)))
