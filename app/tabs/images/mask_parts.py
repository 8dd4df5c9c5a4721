"""The part of the Images tab in which a mask is painted, and what comes into it."""

from __future__ import annotations

import gradio as gr
from gradio.components.base import server
from gradio.data_classes import FileData
from PIL import Image

from app.tabs.images.parts import part
from app.tabs.images.setview import PictureView
from trainer.data.colours import WHITE
from trainer.data.decoder import load_rgb
from trainer.data.images import ImageProblem

PAINT = (255, 80, 0)
"""The brush's colour; its red channel on black is what a mask is read from."""
OPACITY = 128
"""Of 255, so that the picture shows through."""

SIDE = 768
"""Pixels of the longer side that is painted on; a latent stands for 8 of what is trained."""

FINDERS = [
    ("What differs in the box (GrabCut)", "grabcut"),
    ("A background of one colour", "background"),
    ("Transparency", "alpha"),
]
"""(label, value) of what finds a subject without a model."""


def as_mask(
    editor: gr.ImageEditor, file: FileData | bytes | None, flatten_on_white: bool = False
) -> Image.Image | None:
    """What was painted on a layer of the editor, mode L, white; None for what is no picture.

    The picture below the painting, which is flattened on white, is not taken back.
    """
    if flatten_on_white or not isinstance(file, FileData):
        return None
    try:
        red = load_rgb(file.path, "#000000").getchannel(0)
    except ImageProblem:
        return None
    return red.point([min(255, round(level * 255 / (OPACITY - 1))) for level in range(256)])


@server
def _refuse(editor: gr.ImageEditor, data: object) -> None:
    """What comes in by another way than uploads do, which has no bounds, is dropped."""


# Gradio would open what a browser sends with any of Pillow's decoders. Of a subclass it would write
# an interface file into this folder.
for name, method in (("convert_and_format_image", as_mask), ("accept_blobs", _refuse)):
    setattr(gr.ImageEditor, name, method)


def canvas_of(picture: PictureView) -> Image.Image:
    """A picture as it is painted on."""
    background = picture.entry.background(WHITE) if picture.entry else WHITE
    small = load_rgb(picture.read(), background)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return small


def mask_of(picture: PictureView, size: tuple[int, int]) -> Image.Image:
    """A picture's mask at a size; black where there is none.

    Raises:
        ImageProblem: it cannot be read.
    """
    mask = picture.entry.mask if picture.entry else None
    if mask is None:
        return Image.new("L", size)
    whole = load_rgb(mask.read(), "#000000").convert("L")
    return whole.resize(size, Image.Resampling.BOX)


class MaskParts:
    """The components, from top to bottom; what is hidden says whose mask is painted."""

    def __init__(self) -> None:
        self.open = part(gr.Button, "mask-open", "Paint its mask", visible=False, size="sm")
        small = {"size": "sm", "min_width": 90}
        with part(gr.Column, "mask", visible=False) as self.column:
            self.title = part(gr.HTML, "mask-title")
            self.editor = part(
                gr.ImageEditor,
                "mask-editor",
                label="Mask",
                show_label=False,  # it would lie under the tools
                type="pil",
                sources=(),
                transforms=(),
                layers=False,
                buttons=[],
                visible=False,  # its scripts, 190 kB, come when it is opened first
                height=420,
                brush=gr.Brush(
                    colors=[(f"rgb{PAINT}", OPACITY / 255)],
                    color_mode="fixed",
                ),
            )
            with gr.Row():
                self.rectangle = part(gr.Button, "mask-rectangle", "Rectangle (R)", **small)
                self.invert = part(gr.Button, "mask-invert", "Invert (I)", **small)
                self.clear = part(gr.Button, "mask-clear", "Clear (Del)", **small)
            self.finder = part(
                gr.Dropdown,
                "mask-finder",
                choices=FINDERS,
                value="grabcut",
                label="Found by",
                info="GrabCut and SAM look around what you painted, or everywhere.",
            )
            self.text = part(
                gr.Textbox,
                "mask-text",
                label="What to find (CLIPSeg)",
                placeholder="as the class word",
                max_length=200,
            )
            self.find = part(gr.Button, "mask-find", "Find the subject", size="sm")
            self.soft = part(
                gr.Slider,
                "mask-soft",
                label="Soft edge (% of the shorter side)",
                info="Made when the mask is saved.",
                minimum=0,
                maximum=10,
                step=0.5,
                value=0,
            )
            with gr.Row():
                self.save = part(gr.Button, "mask-save", "Save (S)", variant="primary", **small)
                self.remove = part(gr.Button, "mask-remove", "Remove the mask", **small)
                self.close = part(gr.Button, "mask-close", "Discard", **small)
        show = "() => ({__type__: 'update', visible: true})"
        self.open.click(None, None, self.editor, js=show, api_visibility="private")
        self.status = part(gr.HTML, "mask-status")
        self.about = gr.JSON([], visible=False)
        self.states = gr.State(None)
