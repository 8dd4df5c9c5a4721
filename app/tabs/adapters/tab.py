"""The Adapters tab: what an adapter file is, where it works, and new files made from it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from app.files import Upload, as_uploads, file_drop, forget
from app.render import refused
from app.shared import QUIET, Shared, elem, go, says_errors
from app.tabs.adapters import facts as adapterfacts
from app.tabs.adapters import work as adapterwork
from app.tabs.adapters.files import AdapterChoice, find_adapter, list_adapters
from trainer.errors import UserError

Updates = dict[Block, object]
_SHOWN: dict[str, Any] = {"api_visibility": "private"}
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
_MORE = 2  # adapters that can be merged with the chosen one


@dataclass(frozen=True)
class Parts:
    """The tab's components."""

    drop: gr.File
    chosen: gr.Dropdown
    facts: gr.HTML
    chart: gr.HTML
    proof: gr.HTML
    metadata: gr.HTML
    desk: gr.Column
    use: gr.Button
    download: gr.Button
    file: gr.File
    layout: gr.Radio
    precision: gr.Radio
    convert: gr.Button
    rank: gr.Number
    share: gr.Slider
    resize: gr.Button
    strengths: list[gr.Slider]
    others: list[gr.Dropdown]
    merge_rank: gr.Number
    merge: gr.Button
    made: gr.HTML

    @property
    def shown(self) -> list[Block]:
        """What tells of the chosen adapter."""
        return [self.facts, self.chart, self.proof, self.metadata, self.desk, self.file, self.made]

    @property
    def lists(self) -> list[Component]:
        """What the list of adapters stands in."""
        return [self.chosen, *self.others]


def build(shared: Shared) -> None:
    """Puts the tab's components in."""
    parts = _lay_out()
    _wire(parts, shared)
    _expose()


# ------------------------------------------------------------------------------ the parts


def _id(thing: str) -> str:
    return elem("adapters", thing)


def _lay_out() -> Parts:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            chosen = gr.Dropdown(
                choices=_choices(), value=None, label="Adapter", elem_id=_id("chosen"),
                info="Those that were trained here, and those that you brought or made.",
            )  # fmt: skip
            drop = file_drop(
                label="Drop an adapter (.safetensors) here",
                file_types=[".safetensors"],
                height=150,
                elem_id=_id("upload"),
            )
        with gr.Column(scale=3, min_width=320):
            facts = gr.HTML(adapterfacts.NOTHING, elem_id=_id("facts"))
            with gr.Row():
                use = gr.Button(
                    "Draw with it", variant="primary", visible=False, elem_id=_id("use")
                )
                download = gr.Button("Download", visible=False, elem_id=_id("download"))
            file = gr.File(
                label="The adapter, with the text and picture that other tools show",
                visible=False,
                interactive=False,
                elem_id=_id("file"),
            )
    made = gr.HTML(elem_id=_id("made"))
    with gr.Column(visible=False, elem_id=_id("desk")) as desk:
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                chart = gr.HTML(elem_id=_id("chart"), padding=True)
            with gr.Column(scale=3, min_width=320):
                proof = gr.HTML(elem_id=_id("proof"), padding=True)
        work = _work()
        with gr.Accordion("What the file says of itself", open=False, elem_id=_id("more")):
            metadata = gr.HTML(elem_id=_id("metadata"))
    return Parts(
        drop=drop, chosen=chosen, facts=facts, chart=chart, proof=proof, metadata=metadata,
        desk=desk, use=use, download=download, file=file, made=made, **work,
    )  # fmt: skip


def _work() -> dict[str, Any]:
    with gr.Accordion("Convert", open=False, elem_id=_id("convert-fold")):
        layout = gr.Radio(
            [
                ("kohya: read by every tool", "kohya"),
                ("kohya with SGM names (full SDXL)", "kohya-sgm"),
                ("diffusers only", "diffusers"),
            ],
            value="kohya",
            label="Layout",
            elem_id=_id("layout"),
        )
        precision = gr.Radio(
            [("as it is", ""), ("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "bf16")],
            value="",
            label="Numbers",
            elem_id=_id("precision"),
        )
        convert = gr.Button("Convert", elem_id=_id("convert"))
    with gr.Accordion("Make it smaller", open=False, elem_id=_id("resize-fold")):
        with gr.Row(equal_height=True):
            rank = gr.Number(
                0,
                label="Rank of every layer, at most",
                info="0: what the share asks for.",
                precision=0,
                minimum=0,
                elem_id=_id("rank"),
            )
            share = gr.Slider(
                0.5, 0.999, 0.99, step=0.001,
                label="Share of each layer's change to keep", elem_id=_id("share"),
            )  # fmt: skip
        resize = gr.Button("Make a smaller one", elem_id=_id("resize"))
    strengths, others = [], []
    with gr.Accordion("Merge with others", open=False, elem_id=_id("merge-fold")):
        strengths.append(_strength("Strength of the chosen adapter", "strength-0"))
        for number in range(1, _MORE + 1):
            with gr.Row(equal_height=True):
                others.append(
                    gr.Dropdown(
                        choices=["", *_choices()],  # type: ignore[list-item]
                        value="",
                        label=f"Adapter {number + 1}",
                        elem_id=_id(f"other-{number}"),
                    )
                )
                strengths.append(
                    _strength(f"Strength of adapter {number + 1}", f"strength-{number}")
                )
        merge_rank = gr.Number(
            0, label="Reduce to rank", info="0: the ranks added up, which is exact.",
            precision=0, minimum=0, elem_id=_id("merge-rank"),
        )  # fmt: skip
        merge = gr.Button("Merge", elem_id=_id("merge"))
    return {
        "layout": layout, "precision": precision, "convert": convert, "rank": rank,
        "share": share, "resize": resize, "strengths": strengths, "others": others,
        "merge_rank": merge_rank, "merge": merge,
    }  # fmt: skip


def _strength(label: str, thing: str) -> gr.Slider:
    return gr.Slider(-2.0, 2.0, 1.0, step=0.05, label=label, elem_id=_id(thing))


def _choices() -> list[tuple[str, str]]:
    return [(choice.title, choice.id) for choice in list_adapters()]


# ------------------------------------------------------------------------------ handlers


def _lists(parts: Parts, chosen: str | None) -> Updates:
    """What may be chosen, here and as others to merge."""
    known = _choices()
    ids = [identity for _, identity in known]
    return {
        parts.chosen: gr.Dropdown(choices=known, value=chosen if chosen in ids else None),
        **{one: gr.Dropdown(choices=[("none", ""), *known]) for one in parts.others},
    }


def _show(parts: Parts, choice: AdapterChoice, made: str = "") -> Updates:
    """One adapter on the desk; `made` says how it came to be."""
    found, verified = adapterfacts.inspect(choice), adapterfacts.verify(choice)
    return {
        parts.facts: adapterfacts.what_it_is(choice, found),
        parts.chart: adapterfacts.chart(found),
        parts.proof: adapterfacts.proof(verified),
        parts.metadata: adapterfacts.metadata(found),
        parts.desk: gr.Column(visible=True),
        parts.use: gr.Button(visible=True),
        parts.download: gr.Button(visible=True),
        parts.file: gr.File(value=None, visible=False),
        parts.made: made,
    }


def _told(parts: Parts, handler: Callable[..., Updates]) -> Callable[..., Updates]:
    """A handler whose refusals stand in the page, where its results would."""

    @functools.wraps(handler)
    def wrapped(*values: Any) -> Updates:
        try:
            return handler(*values)
        except UserError as error:
            return {parts.made: refused(error)}

    return says_errors(wrapped)


def _wire(parts: Parts, shared: Shared) -> None:
    p = parts
    told = functools.partial(_told, p)

    def lists(chosen: str | None) -> Updates:
        return _lists(p, chosen)

    def choose(chosen: str | None) -> Updates:
        return _show(p, find_adapter(chosen or ""))

    def bring(uploads: list[Upload]) -> Updates:
        uploads = as_uploads(uploads)
        if not uploads:
            return {p.drop: None}
        try:
            choice = adapterwork.bring_in(uploads[0])
        except UserError as error:
            return {p.made: refused(error), p.drop: None}
        finally:
            forget(uploads)
        return {**_lists(p, choice.id), **_show(p, choice), p.drop: None}

    def new(made: tuple[AdapterChoice, str]) -> Updates:
        choice, words = made
        return {**_lists(p, choice.id), **_show(p, choice, words)}

    def convert(chosen: str | None, layout: str, precision: str) -> Updates:
        return new(adapterwork.convert(find_adapter(chosen or ""), layout, precision))

    def resize(chosen: str | None, rank: float | None, share: float) -> Updates:
        return new(adapterwork.resize(find_adapter(chosen or ""), _whole(rank), share))

    def merge(chosen: str | None, rank: float | None, *rows: Any) -> Updates:
        others, strengths = rows[:_MORE], rows[_MORE:]
        ids = [chosen or "", *others]
        picked = [
            (find_adapter(identity), float(strength))
            for identity, strength in zip(ids, strengths, strict=True)
            if identity
        ]
        return new(adapterwork.merge(picked, _whole(rank)))

    def download(chosen: str | None) -> Updates:
        path = adapterwork.download(find_adapter(chosen or ""))
        return {p.file: gr.File(value=str(path), visible=True), p.made: ""}

    on = {**_SHOWN, "show_progress_on": [p.made]}
    shown = [*p.lists, *p.shown, p.use, p.download]
    entered = [shared.rooms["adapters"].select, shared.page.load]
    gr.on(entered, says_errors(lists), p.chosen, p.lists, **QUIET)
    p.chosen.input(told(choose), p.chosen, shown, **on)
    p.drop.upload(told(bring), p.drop, [p.drop, *shown], **on)
    p.convert.click(told(convert), [p.chosen, p.layout, p.precision], shown, **on)
    p.resize.click(told(resize), [p.chosen, p.rank, p.share], shown, **on)
    rows = [*p.others, *p.strengths]
    p.merge.click(told(merge), [p.chosen, p.merge_rank, *rows], shown, **on)
    p.use.click(
        lambda chosen: (chosen, go("generate")), p.chosen, [shared.adapter, shared.tabs], **QUIET
    )
    packed = p.download.click(told(download), p.chosen, [p.file, p.made], **on)
    packed.success(None, p.file, None, js=_FETCH, api_visibility="private")


def _whole(number: float | None) -> int | None:
    if not number:
        return None
    if number < 1:
        raise UserError(f"A rank of {number:g} makes no adapter.", "Give 1 or more.")
    return int(number)


# ------------------------------------------------------------------------------ for scripts


def _expose() -> None:
    gr.api(says_errors(inspect_adapter), api_name="inspect_adapter")
    with gr.Row(visible=False):
        adapter, file = gr.Textbox(label="adapter"), gr.File(label="file")
        gr.Button().click(says_errors(download_adapter), adapter, file, api_name="download_adapter")


def inspect_adapter(adapter: str) -> dict:
    """What is in an adapter file, and in which tools it works.

    Args:
        adapter: a run's name, or the id of a file, such as ``file/my-cat.safetensors``.
    """
    choice = find_adapter(adapter)
    return {**adapterfacts.inspect(choice), "tools": adapterfacts.verify(choice).get("tools")}


def download_adapter(adapter: str) -> str:
    """A zip file with an adapter, and the text and picture that other tools show beside it."""
    return str(adapterwork.download(find_adapter(adapter)))
