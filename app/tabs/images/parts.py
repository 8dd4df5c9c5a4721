"""How the Images tab is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.files import file_drop
from app.shared import elem
from app.tabs.images import setwords
from app.tabs.images.captions_edit import MAX_TEXT
from app.tabs.images.editing import Session
from app.tabs.images.imagesets import MAX_TITLE, MAX_WORD, list_sets, read_notes
from trainer import places
from trainer.data.captions import MAX_CAPTION_CHARACTERS
from trainer.data.images import PICTURE_SUFFIXES

# A request's number is the time of its typing. What was typed is sent a moment later, so that not
# every key is a request; a number that comes too late tells the server so.
STAMP = """(...values) => {
    window.rarebitStamp = Math.max(Date.now(), (window.rarebitStamp || 0) + 1);
    values[values.length - 1] = window.rarebitStamp;
    return values;
}"""
STAMP_LATER = STAMP.replace(
    "return values;", "return new Promise(done => setTimeout(() => done(values), 300));"
)

# Page Down and Page Up go from picture to picture while a caption or the pictures have the focus.
KEYS = """() => {
    if (window.rarebitKeys) return;
    window.rarebitKeys = true;
    document.addEventListener('keydown', event => {
        const target = {PageDown: 'images-next', PageUp: 'images-previous'}[event.key];
        if (!target || event.ctrlKey || event.altKey || event.metaKey) return;
        if (!event.target.closest('#images-caption, #images-gallery, #images-steps')) return;
        event.preventDefault();
        document.getElementById(target).click();
    });
}"""


@dataclass(frozen=True)
class Parts:
    """The tab's components; what is hidden carries what a request is about."""

    drop: gr.File
    title: gr.Textbox
    into: gr.Checkbox
    remarks: gr.HTML
    chosen: gr.Dropdown
    summary: gr.HTML
    use: gr.Button
    trigger: gr.Textbox
    class_word: gr.Textbox
    verdict: gr.HTML
    suggest: gr.Button
    suggestions: gr.Radio
    desk: gr.Column
    gallery: gr.Gallery
    large: gr.Image
    text: gr.Textbox
    status: gr.HTML
    facts: gr.HTML
    previous: gr.Button
    next: gr.Button
    remove: gr.Button
    remove_row: gr.Row
    remove_now: gr.Button
    remove_not: gr.Button
    clash: gr.Column
    theirs: gr.HTML
    keep_mine: gr.Button
    take_theirs: gr.Button
    kind: gr.Radio
    words: gr.Textbox
    other: gr.Textbox
    whole: gr.Checkbox
    look: gr.Button
    preview: gr.HTML
    apply: gr.Button
    undo: gr.Button
    findings: gr.HTML
    measured: gr.HTML
    measure: gr.Button
    buckets: gr.HTML
    opened: gr.Textbox
    picture: gr.Textbox
    loaded: gr.Textbox
    stamp: gr.Number
    session: gr.State
    remembered: gr.BrowserState


def set_choices() -> list[tuple[str, str]]:
    """(title, id) of every image set, the page's own first."""
    return [
        ((read_notes(one).title if one.owned else "") or one.shown, one.id)
        for one in list_sets(places.DATASETS)
    ]


def _id(thing: str) -> str:
    return elem("images", thing)


def lay_out() -> Parts:
    """Makes the components, from top to bottom."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            source = _source()
        with gr.Column(scale=1, min_width=320):
            chosen = _chosen()
    with gr.Column(visible=False, elem_id=_id("desk")) as desk:
        words = _words()
        editor = _editor()
        bulk = _bulk()
        with gr.Accordion("What is wrong or doubtful", elem_id=_id("doubts")):
            findings = gr.HTML(elem_id=_id("findings"))
            measured = gr.HTML(elem_id=_id("measured"))
            measure = gr.Button("Measure the captions", size="sm", elem_id=_id("measure"))
        with gr.Accordion("Sizes, and what is cut off", elem_id=_id("sizes")):
            buckets = gr.HTML(elem_id=_id("buckets"))
    return Parts(
        **source, **chosen, **words, **editor, **bulk, desk=desk, findings=findings,
        measured=measured, measure=measure,
        buckets=buckets, **_hidden(),
    )  # fmt: skip


def _source() -> dict[str, Any]:
    drop = file_drop(
        label="Drop pictures, captions (.txt) or zip files here",
        file_count="multiple",
        file_types=[*PICTURE_SUFFIXES, ".txt", ".caption", ".zip", ".jsonl", ".csv"],
        height=180,
        elem_id=_id("upload"),
    )
    with gr.Row(equal_height=True):
        title = gr.Textbox(
            value="",
            label="Name of the new image set",
            placeholder="my cat",
            max_length=MAX_TITLE,
            elem_id=_id("title"),
            scale=2,
            min_width=200,
        )
        into = gr.Checkbox(
            label="Add to the chosen set instead",
            interactive=False,
            elem_id=_id("into"),
            scale=1,
            min_width=200,
        )
    remarks = gr.HTML(elem_id=_id("remarks"))
    return {"drop": drop, "title": title, "into": into, "remarks": remarks}


def _chosen() -> dict[str, Any]:
    chosen = gr.Dropdown(
        choices=set_choices(),
        value=None,
        label="Image set",
        info="Sets on this machine. Those that came with Rarebit are read only.",
        elem_id=_id("set"),
    )
    summary = gr.HTML(setwords.NO_SET, elem_id=_id("summary"))
    use = gr.Button("Train on these", variant="primary", visible=False, elem_id=_id("use"))
    return {"chosen": chosen, "summary": summary, "use": use}


def _words() -> dict[str, Any]:
    with gr.Group():
        with gr.Row(equal_height=True):
            trigger = gr.Textbox(
                value="",
                label="Trigger word",
                info="A rare word that will stand for what the pictures show.",
                placeholder="ohwx",
                max_length=MAX_WORD,
                elem_id=_id("trigger"),
                min_width=200,
            )
            class_word = gr.Textbox(
                value="",
                label="Class word",
                info="The common word for that kind of thing: dog, person, painting.",
                placeholder="dog",
                max_length=MAX_WORD,
                elem_id=_id("class-word"),
                min_width=200,
            )
        suggest = gr.Button("Suggest trigger words", elem_id=_id("suggest"), size="sm")
        suggestions = gr.Radio(
            choices=[], label="Suggestions", visible=False, elem_id=_id("suggestions")
        )
    verdict = gr.HTML(elem_id=_id("verdict"))
    return {
        "trigger": trigger,
        "class_word": class_word,
        "suggest": suggest,
        "suggestions": suggestions,
        "verdict": verdict,
    }


def _editor() -> dict[str, Any]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            gallery = gr.Gallery(
                label="Pictures",
                columns=4,
                height=500,
                object_fit="contain",
                allow_preview=False,
                buttons=[],
                interactive=False,
                elem_id=_id("gallery"),
            )
        with gr.Column(scale=2, min_width=320, elem_id=_id("editor")):
            large = gr.Image(
                label="Picture",
                visible=False,
                interactive=False,
                buttons=[],
                height=260,
                type="filepath",
                elem_id=_id("large"),
            )
            text = gr.Textbox(
                value="",
                label="Caption",
                lines=5,
                max_lines=12,
                interactive=False,
                max_length=MAX_CAPTION_CHARACTERS,
                info="Saved as you type. Page Down and Page Up go from picture to picture.",
                elem_id=_id("caption"),
            )
            status = gr.HTML(elem_id=_id("status"))
            with gr.Column(visible=False, elem_id=_id("conflict")) as clash:
                theirs = gr.HTML(elem_id=_id("theirs"))
                with gr.Row():
                    keep_mine = gr.Button("Keep mine", elem_id=_id("keep-mine"), min_width=120)
                    take_theirs = gr.Button(
                        "Take the other", elem_id=_id("take-theirs"), min_width=120
                    )
            with gr.Row(elem_id=_id("steps")):
                previous = gr.Button("← Previous", elem_id=_id("previous"), min_width=100)
                following = gr.Button("Next →", elem_id=_id("next"), min_width=100)
                remove = gr.Button("Remove …", elem_id=_id("remove"), min_width=100)
            with gr.Row(visible=False, elem_id=_id("remove-row")) as remove_row:
                remove_now = gr.Button(
                    "Remove this picture", variant="stop", elem_id=_id("remove-now"), min_width=140
                )
                remove_not = gr.Button("Keep it", elem_id=_id("remove-not"), min_width=100)
            facts = gr.HTML(setwords.NO_PICTURE, elem_id=_id("facts"))
    return {
        "gallery": gallery, "large": large, "text": text, "status": status, "facts": facts,
        "previous": previous, "next": following, "remove": remove, "remove_row": remove_row,
        "remove_now": remove_now, "remove_not": remove_not, "clash": clash, "theirs": theirs,
        "keep_mine": keep_mine, "take_theirs": take_theirs,
    }  # fmt: skip


def _bulk() -> dict[str, Any]:
    with gr.Accordion("Change all captions", open=False, elem_id=_id("bulk")):
        kind = gr.Radio(
            [
                ("Add at the front", "front"),
                ("Add at the end", "end"),
                ("Remove", "remove"),
                ("Find and replace", "replace"),
            ],
            value="front",
            label="What to do",
            elem_id=_id("bulk-kind"),
        )
        with gr.Row(equal_height=True):
            words = gr.Textbox(
                value="", label="Text", max_length=MAX_TEXT, elem_id=_id("bulk-text"), min_width=200
            )
            other = gr.Textbox(
                value="",
                label="Replace with",
                max_length=MAX_TEXT,
                visible=False,
                elem_id=_id("bulk-other"),
                min_width=200,
            )
            whole = gr.Checkbox(
                label="Whole words only",
                value=True,
                visible=False,
                elem_id=_id("bulk-whole"),
                min_width=140,
            )
        with gr.Row():
            look = gr.Button("Show what would change", elem_id=_id("bulk-preview"), min_width=160)
            apply = gr.Button(
                "Change them",
                variant="primary",
                interactive=False,
                elem_id=_id("bulk-apply"),
                min_width=140,
            )
        preview = gr.HTML(elem_id=_id("bulk-changes"))
    undo = gr.Button("Nothing to undo", visible=False, elem_id=_id("undo"), size="sm")
    return {
        "kind": kind, "words": words, "other": other, "whole": whole, "look": look,
        "preview": preview, "apply": apply, "undo": undo,
    }  # fmt: skip


def _hidden() -> dict[str, Any]:
    return {
        "opened": gr.Textbox("", visible=False),
        "picture": gr.Textbox("", visible=False),
        "loaded": gr.Textbox("", visible=False),
        "stamp": gr.Number(0, visible=False),
        "session": gr.State(Session()),
        "remembered": gr.BrowserState(
            "", storage_key="rarebit-image-set", secret="no secret: an image set's name"
        ),
    }
