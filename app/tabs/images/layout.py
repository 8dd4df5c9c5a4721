"""How the Images tab is laid out."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from app.files import file_drop
from app.kit import Kit
from app.render import render
from app.tabs.images.captions import CaptionSession
from app.tabs.images.edits import MAX_TEXT
from app.tabs.images.imagesets import MAX_TITLE, MAX_WORD, set_choices
from app.tabs.images.mask_parts import MaskParts
from trainer.captioning.wording import MAX_PROMPT
from trainer.data.captions import MAX_CAPTION_CHARACTERS

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

# Page Down and Page Up go from picture to picture while a caption or the pictures have the focus;
# letters work on the mask while it is painted and nothing is typed. Uploads under way are counted.
KEYS = """() => {
    if (window.rarebitKeys) return;
    window.rarebitKeys = true;
    window.rarebitUploads = 0;
    const plain = window.fetch;
    window.fetch = (...given) => {
        const answer = plain(...given);
        if (!String(given[0]).includes('/upload')) return answer;
        window.rarebitUploads++;
        return answer.finally(() => window.rarebitUploads--);
    };
    const steps = {PageDown: 'images-next', PageUp: 'images-previous'};
    const masks = {i: 'invert', r: 'rectangle', s: 'save', Delete: 'clear'};
    document.addEventListener('keydown', event => {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        const near = places => event.target.closest(places);
        let target = near('#images-caption, #images-gallery, #images-steps') && steps[event.key];
        if (!target && masks[event.key] && !near('input, textarea, [role=listbox]'))
            target = `images-mask-${masks[event.key]}`;
        const button = target && document.getElementById(target);
        if (!button || !button.offsetParent) return;
        event.preventDefault();
        button.click();
    });
}"""

add = Kit("images")
html = partial(render, "images.html")
"""The HTML that a macro of the tab's template makes of some values."""


class Parts:
    """The tab's components, from top to bottom; what is hidden carries what a request is about."""

    def __init__(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                self._lay_out_source()
            with gr.Column(scale=1, min_width=320):
                self._lay_out_chosen()
        with add(gr.Column, "desk", visible=False) as self.desk:
            self._lay_out_words()
            with gr.Row(equal_height=False):
                with add(gr.Column, "beside", scale=3, min_width=320):
                    self._lay_out_gallery()
                with add(gr.Column, "editor", scale=2, min_width=320):
                    self._lay_out_editor()
            with add.fold("captioning", "Captions by a model") as self.captioning:
                self._lay_out_captioning()
            with add.fold("bulk", "Change all captions"):
                self._lay_out_bulk()
            self.undo = add.button("undo", "Nothing to undo", visible=False, size="sm")
            with add.fold("doubts", "What is wrong or doubtful", open=True):
                self.findings, self.measured = add.html("findings"), add.html("measured")
                self.measure = add.button("measure", "Measure the captions", size="sm")
            with add.fold("tags", "Tags, and how often they occur"):
                self.tags = add.html("tag-list")
            with add.fold("sizes", "Sizes, and what is cut off", open=True):
                self.buckets = add.html("buckets")
            with add.fold("manage", "Rename or delete this set") as self.manage:
                self._lay_out_manage()
        self.opened, self.picture, self.loaded = (gr.Textbox("", visible=False) for _ in range(3))
        self.listed, self.stamp = gr.JSON([], visible=False), gr.Number(0, visible=False)
        self.session = gr.State(CaptionSession())
        self.previewed, self.proposed = gr.State(None), gr.State(None)
        self.remembered = gr.BrowserState(
            "", storage_key="rarebit-image-set", secret="no secret: an image set's name"
        )

    def _lay_out_source(self) -> None:
        wide: dict[str, Any] = {"min_width": 200}
        with gr.Row(equal_height=True):
            self.title = add.text(
                "title", "Name of the new image set", placeholder="my cat", max_length=MAX_TITLE,
                scale=2, **wide,
            )  # fmt: skip
            self.into = add.check(
                "into", "Add to the chosen set instead", interactive=False, scale=1, **wide
            )
        self.drop = add(
            file_drop, "upload", label="Drop pictures, captions (.txt) or zip files here",
            file_count="multiple",  # of any type: what is not stored is named beside what is
            height=180,
        )  # fmt: skip
        self.remarks = add.html("remarks")

    def _lay_out_chosen(self) -> None:
        self.chosen = add.choice(
            "set", "Image set", set_choices(),
            info="Sets on this machine. Those that came with Rarebit are read only.",
        )  # fmt: skip
        self.summary = add.html("summary", html("no_set"))
        self.try_it = add.button("try", "Try it with the police car", size="md")
        self.use = add.button("use", "Train on these", variant="primary", visible=False)

    def _lay_out_words(self) -> None:
        word: dict[str, Any] = {"max_length": MAX_WORD, "min_width": 200}
        with gr.Group():
            with gr.Row(equal_height=True):
                self.trigger = add.text(
                    "trigger", "Trigger word",
                    "A rare word that will stand for what the pictures show.",
                    placeholder="ohwx", **word,
                )  # fmt: skip
                self.class_word = add.text(
                    "class-word", "Class word",
                    "The common word for that kind of thing: dog, person, painting.",
                    placeholder="dog", **word,
                )  # fmt: skip
            self.suggest = add.button("suggest", "Suggest trigger words", size="sm")
            self.suggestions = add.radio("suggestions", "Suggestions", [], visible=False)
        self.verdict = add.html("verdict")

    def _lay_out_gallery(self) -> None:
        self.tag = add.choice("tag", "Show those with the tag", [], visible=False)
        self.gallery = add(
            gr.Gallery, "gallery", label="Pictures", columns=4, height=500, object_fit="contain",
            allow_preview=False, buttons=[], interactive=False,
            visible=False,  # gradio's gallery brings a video player of 160 kB
        )  # fmt: skip

    def _lay_out_editor(self) -> None:
        self.large = add(
            gr.Image, "large", label="Picture: click on what should be in the middle of the crop",
            visible=False, interactive=False, buttons=[], height=260, type="filepath",
        )  # fmt: skip
        self.text = add.text(
            "caption", "Caption",
            "Saved as you type. Of several lines one is the caption at each step. Page Down and "
            "Page Up go from picture to picture.",
            lines=5, max_lines=12, interactive=False, max_length=MAX_CAPTION_CHARACTERS,
        )  # fmt: skip
        self.status = add.html("status")
        with add(gr.Column, "conflict", visible=False) as self.clash:
            self.theirs = add.html("theirs")
            clash = {"keep-mine": "Keep mine", "take-theirs": "Take the other"}
            self.keep_mine, self.take_theirs = add.row(clash, size="lg", min_width=120)
        steps = {"previous": "← Previous", "next": "Next →", "remove": "Remove\u00a0…"}
        with add(gr.Column, "steps"):
            self.previous, self.next, self.remove = add.row(steps)
        with add.question(
            "remove-row", "remove", "Remove this picture", "Keep it", "stop"
        ) as self.removal:
            pass
        self.facts = add.html("facts", html("no_picture"))
        with add.fold("frame", "Crop, turn, mask", visible=False) as self.frame:
            with gr.Row():
                place: dict[str, Any] = {"minimum": 0, "maximum": 100, "step": 1, "min_width": 120}
                self.across = add.number("across", "Middle, from left (%)", **place)
                self.down = add.number("down", "Middle, from top (%)", **place)
            crops = {"middle": "Crop in the middle", "around": "Crop to the mask"}
            self.middle, self.around = add.row(crops)
            turns = {"turn-left": "Turn left", "turn-right": "Turn right", "flip": "Mirror"}
            self.left, self.right, self.flip = add.row(turns)
            self.zoom = add.slider("zoom", "Zoom in", (1, 4, 0.05), 1, "How many times as large")
            self.mask = MaskParts()

    def _lay_out_manage(self) -> None:
        self.new_title = add.text("new-title", "Name", max_length=MAX_TITLE)
        buttons = {"rename": "Rename", "delete": "Delete this set\u00a0…"}
        self.rename, self.delete = add.row(buttons)
        with add.question("question", "delete", "Delete it", "Keep it", "stop") as self.deletion:
            self.asked = add.html("asked")

    def _lay_out_bulk(self) -> None:
        kinds = {
            "Add at the front": "front", "Add at the end": "end",
            "Remove": "remove", "Find and replace": "replace",
        }  # fmt: skip
        text: dict[str, Any] = {"max_length": MAX_TEXT, "min_width": 200}
        self.kind = add.radio("bulk-kind", "What to do", [*kinds.items()], "front")
        with gr.Row(equal_height=True):
            self.words = add.text("bulk-text", "Text", **text)
            self.other = add.text("bulk-other", "Replace with", visible=False, **text)
            self.whole = add.check(
                "bulk-whole", "Whole words only", True, visible=False, min_width=140
            )
        with gr.Row():
            self.look = add.button("bulk-preview", "Show what would change", min_width=160)
            self.apply = add.button(
                "bulk-apply", "Change them", variant="primary", interactive=False, min_width=140
            )
        self.preview = add.html("bulk-changes")

    def _lay_out_captioning(self) -> None:
        purposes = {"A thing": "thing", "A person": "person", "A style": "style"}
        which = {"Without a caption": "empty", "All": "all", "This picture": "one"}
        with gr.Row(equal_height=True):
            self.captioner = add.choice(
                "captioner", "Who looks at the pictures", [("The base model itself", "base")],
                "base", "Servers are captioning programs that this machine's owner has set up.",
            )  # fmt: skip
            self.purpose = add.radio(
                "purpose", "What the set is to teach", [*purposes.items()], "thing",
                "What all pictures share is left to the trigger word and the class word.",
            )  # fmt: skip
            self.which = add.radio("which", "Which pictures", [*which.items()], "empty")
        with gr.Row(equal_height=True):
            self.leave_out = add.text(
                "leave-out", "Leave out", "Words that no caption may have, with commas between "
                "them.", placeholder="blue, red lights", max_length=2000, min_width=200,
            )  # fmt: skip
            self.instruction = add.text(
                "instruction", "Instruction for a server's model",
                "{class} is the class word. The base model takes no instructions.",
                placeholder="as is usual for what the set is to teach", max_length=MAX_PROMPT,
                min_width=200,
            )  # fmt: skip
        wide: dict[str, Any] = {"min_width": 160}
        with gr.Row():
            self.propose = add.button("propose", "Propose captions", **wide)
            self.caption_stop = add.button("caption-stop", "Stop", visible=False, min_width=90)
            self.check_words = add.button("check-words", "Check the words of the captions", **wide)
        self.caption_progress = add.html("caption-progress")
        self.made, self.word_report = add.html("proposals"), add.html("word-report")
        with gr.Row():
            self.take_out = add.button("take-out", "Take out", visible=False, **wide)
            self.keep_captions = add.button(
                "write-captions", "Write them", variant="primary", visible=False, **wide
            )
