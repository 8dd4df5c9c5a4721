"""How the Images tab is laid out."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.files import file_drop
from app.tabs.images.captions import CaptionSession
from app.tabs.images.edits import MAX_TEXT
from app.tabs.images.imagesets import MAX_TITLE, MAX_WORD, set_choices
from app.tabs.images.mask_parts import MaskParts
from app.tabs.images.parts import html, part
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


class Parts:
    """The tab's components, from top to bottom; what is hidden carries what a request is about."""

    def __init__(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                self._lay_out_source()
            with gr.Column(scale=1, min_width=320):
                self._lay_out_chosen()
        with part(gr.Column, "desk", visible=False) as self.desk:
            self._lay_out_words()
            with gr.Row(equal_height=False):
                with part(gr.Column, "beside", scale=3, min_width=320):
                    self._lay_out_gallery()
                with part(gr.Column, "editor", scale=2, min_width=320):
                    self._lay_out_editor()
            self.captioning = part(gr.Accordion, "captioning", "Captions by a model", open=False)
            with self.captioning:
                self._lay_out_captioning()
            with part(gr.Accordion, "bulk", "Change all captions", open=False):
                self._lay_out_bulk()
            self.undo = part(gr.Button, "undo", "Nothing to undo", visible=False, size="sm")
            with part(gr.Accordion, "doubts", "What is wrong or doubtful"):
                self.findings = part(gr.HTML, "findings")
                self.measured = part(gr.HTML, "measured")
                self.measure = part(gr.Button, "measure", "Measure the captions", size="sm")
            with part(gr.Accordion, "tags", "Tags, and how often they occur", open=False):
                self.tags = part(gr.HTML, "tag-list")
            with part(gr.Accordion, "sizes", "Sizes, and what is cut off"):
                self.buckets = part(gr.HTML, "buckets")
            with part(
                gr.Accordion, "manage", "Rename or delete this set", open=False
            ) as self.manage:
                self._lay_out_manage()
        self.opened = gr.Textbox("", visible=False)
        self.picture = gr.Textbox("", visible=False)
        self.loaded = gr.Textbox("", visible=False)
        self.listed = gr.JSON([], visible=False)
        self.stamp = gr.Number(0, visible=False)
        self.session = gr.State(CaptionSession())
        self.previewed = gr.State(None)
        self.proposed = gr.State(None)
        self.remembered = gr.BrowserState(
            "", storage_key="rarebit-image-set", secret="no secret: an image set's name"
        )

    def _lay_out_source(self) -> None:
        with gr.Row(equal_height=True):
            self.title = part(
                gr.Textbox,
                "title",
                value="",
                label="Name of the new image set",
                placeholder="my cat",
                max_length=MAX_TITLE,
                scale=2,
                min_width=200,
            )
            self.into = part(
                gr.Checkbox,
                "into",
                label="Add to the chosen set instead",
                interactive=False,
                scale=1,
                min_width=200,
            )
        self.drop = part(
            file_drop,
            "upload",
            label="Drop pictures, captions (.txt) or zip files here",
            file_count="multiple",  # of any type: what is not stored is named beside what is
            height=180,
        )
        self.remarks = part(gr.HTML, "remarks")

    def _lay_out_chosen(self) -> None:
        self.chosen = part(
            gr.Dropdown,
            "set",
            choices=set_choices(),
            value=None,
            label="Image set",
            info="Sets on this machine. Those that came with Rarebit are read only.",
        )
        self.summary = part(gr.HTML, "summary", html("no_set"))
        self.try_it = part(gr.Button, "try", "Try it with the police car", size="md")
        self.use = part(gr.Button, "use", "Train on these", variant="primary", visible=False)

    def _lay_out_words(self) -> None:
        word: dict[str, Any] = {"value": "", "max_length": MAX_WORD, "min_width": 200}
        with gr.Group():
            with gr.Row(equal_height=True):
                self.trigger = part(
                    gr.Textbox,
                    "trigger",
                    label="Trigger word",
                    info="A rare word that will stand for what the pictures show.",
                    placeholder="ohwx",
                    **word,
                )
                self.class_word = part(
                    gr.Textbox,
                    "class-word",
                    label="Class word",
                    info="The common word for that kind of thing: dog, person, painting.",
                    placeholder="dog",
                    **word,
                )
            self.suggest = part(gr.Button, "suggest", "Suggest trigger words", size="sm")
            self.suggestions = part(
                gr.Radio, "suggestions", choices=[], label="Suggestions", visible=False
            )
        self.verdict = part(gr.HTML, "verdict")

    def _lay_out_gallery(self) -> None:
        self.tag = part(
            gr.Dropdown,
            "tag",
            choices=[],
            value=None,
            label="Show those with the tag",
            visible=False,
        )
        self.gallery = part(
            gr.Gallery,
            "gallery",
            label="Pictures",
            columns=4,
            height=500,
            object_fit="contain",
            allow_preview=False,
            buttons=[],
            interactive=False,
            visible=False,  # gradio's gallery brings a video player of 160 kB
        )

    def _lay_out_editor(self) -> None:
        self.large = part(
            gr.Image,
            "large",
            label="Picture: click on what should be in the middle of the crop",
            visible=False,
            interactive=False,
            buttons=[],
            height=260,
            type="filepath",
        )
        self.text = part(
            gr.Textbox,
            "caption",
            value="",
            label="Caption",
            lines=5,
            max_lines=12,
            interactive=False,
            max_length=MAX_CAPTION_CHARACTERS,
            info="Saved as you type. Of several lines one is the caption at each step. Page Down "
            "and Page Up go from picture to picture.",
        )
        self.status = part(gr.HTML, "status")
        with part(gr.Column, "conflict", visible=False) as self.clash:
            self.theirs = part(gr.HTML, "theirs")
            with gr.Row():
                self.keep_mine = part(gr.Button, "keep-mine", "Keep mine", min_width=120)
                self.take_theirs = part(gr.Button, "take-theirs", "Take the other", min_width=120)
        with part(gr.Row, "steps"):
            small: dict[str, Any] = {"size": "sm", "min_width": 90}
            self.previous = part(gr.Button, "previous", "← Previous", **small)
            self.next = part(gr.Button, "next", "Next →", **small)
            self.remove = part(gr.Button, "remove", "Remove\u00a0…", **small)
        with part(gr.Row, "remove-row", visible=False) as self.remove_row:
            self.remove_now = part(
                gr.Button, "remove-now", "Remove this picture", variant="stop", **small
            )
            self.remove_not = part(gr.Button, "remove-not", "Keep it", **small)
        self.facts = part(gr.HTML, "facts", html("no_picture"))
        with part(
            gr.Accordion, "frame", "Crop, turn, mask", open=False, visible=False
        ) as self.frame:
            with gr.Row():
                place: dict[str, Any] = {"minimum": 0, "maximum": 100, "step": 1, "min_width": 120}
                self.across = part(gr.Number, "across", label="Middle, from left (%)", **place)
                self.down = part(gr.Number, "down", label="Middle, from top (%)", **place)
            with gr.Row():
                self.middle = part(gr.Button, "middle", "Crop in the middle", **small)
                self.around = part(gr.Button, "around", "Crop to the mask", **small)
            with gr.Row():
                self.left = part(gr.Button, "turn-left", "Turn left", **small)
                self.right = part(gr.Button, "turn-right", "Turn right", **small)
                self.flip = part(gr.Button, "flip", "Mirror", **small)
            self.zoom = part(
                gr.Slider,
                "zoom",
                label="Zoom in",
                info="How many times as large",
                minimum=1,
                maximum=4,
                step=0.05,
                value=1,
            )
            self.mask = MaskParts()

    def _lay_out_manage(self) -> None:
        self.new_title = part(gr.Textbox, "new-title", label="Name", max_length=MAX_TITLE)
        with gr.Row():
            self.rename = part(gr.Button, "rename", "Rename", size="sm")
            self.delete = part(gr.Button, "delete", "Delete this set\u00a0…", size="sm")
        with part(gr.Group, "question", visible=False) as self.question:
            self.asked = part(gr.HTML, "asked")
            with gr.Row():
                self.delete_now = part(
                    gr.Button, "delete-now", "Delete it", variant="stop", size="sm"
                )
                self.delete_not = part(gr.Button, "delete-not", "Keep it", size="sm")

    def _lay_out_bulk(self) -> None:
        kinds = {
            "Add at the front": "front",
            "Add at the end": "end",
            "Remove": "remove",
            "Find and replace": "replace",
        }
        text: dict[str, Any] = {"value": "", "max_length": MAX_TEXT, "min_width": 200}
        self.kind = part(
            gr.Radio, "bulk-kind", list(kinds.items()), value="front", label="What to do"
        )
        with gr.Row(equal_height=True):
            self.words = part(gr.Textbox, "bulk-text", label="Text", **text)
            self.other = part(gr.Textbox, "bulk-other", label="Replace with", visible=False, **text)
            self.whole = part(
                gr.Checkbox,
                "bulk-whole",
                label="Whole words only",
                value=True,
                visible=False,
                min_width=140,
            )
        with gr.Row():
            self.look = part(gr.Button, "bulk-preview", "Show what would change", min_width=160)
            self.apply = part(
                gr.Button,
                "bulk-apply",
                "Change them",
                variant="primary",
                interactive=False,
                min_width=140,
            )
        self.preview = part(gr.HTML, "bulk-changes")

    def _lay_out_captioning(self) -> None:
        with gr.Row(equal_height=True):
            self.captioner = part(
                gr.Dropdown,
                "captioner",
                choices=[("The base model itself", "base")],
                value="base",
                label="Who looks at the pictures",
                info="Servers are captioning programs that this machine's owner has set up.",
            )
            self.purpose = part(
                gr.Radio,
                "purpose",
                [("A thing", "thing"), ("A person", "person"), ("A style", "style")],
                value="thing",
                label="What the set is to teach",
                info="What all pictures share is left to the trigger word and the class word.",
            )
            self.which = part(
                gr.Radio,
                "which",
                [("Without a caption", "empty"), ("All", "all"), ("This picture", "one")],
                value="empty",
                label="Which pictures",
            )
        with gr.Row(equal_height=True):
            text: dict[str, Any] = {"value": "", "min_width": 200}
            self.leave_out = part(
                gr.Textbox,
                "leave-out",
                label="Leave out",
                placeholder="blue, red lights",
                info="Words that no caption may have, with commas between them.",
                max_length=2000,
                **text,
            )
            self.instruction = part(
                gr.Textbox,
                "instruction",
                label="Instruction for a server's model",
                placeholder="as is usual for what the set is to teach",
                info="{class} is the class word. The base model takes no instructions.",
                max_length=MAX_PROMPT,
                **text,
            )
        with gr.Row():
            self.propose = part(gr.Button, "propose", "Propose captions", min_width=160)
            self.caption_stop = part(gr.Button, "caption-stop", "Stop", visible=False, min_width=90)
            self.check_words = part(
                gr.Button, "check-words", "Check the words of the captions", min_width=160
            )
        self.caption_progress = part(gr.HTML, "caption-progress")
        self.made = part(gr.HTML, "proposals")
        self.word_report = part(gr.HTML, "word-report")
        with gr.Row():
            self.take_out = part(gr.Button, "take-out", "Take out", visible=False, min_width=160)
            self.keep_captions = part(
                gr.Button,
                "write-captions",
                "Write them",
                variant="primary",
                visible=False,
                min_width=160,
            )
