"""The part of the Images tab in which a mask is painted, and what comes into it."""

from __future__ import annotations

import gradio as gr
from gradio.components.base import server
from gradio.data_classes import FileData
from PIL import Image

from app.kit import Kit
from app.shared import PRIVATE, update
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
        add = Kit("images-mask")
        self.open = add.button("open", "Paint its mask", visible=False, size="sm")
        with Kit("images")(gr.Column, "mask", visible=False) as self.column:
            self.title = add.html("title")
            self.editor = add(
                gr.ImageEditor, "editor", label="Mask",
                show_label=False,  # it would lie under the tools
                type="pil", sources=(), transforms=(), layers=False, buttons=[], height=420,
                visible=False,  # its scripts, 190 kB, come when it is opened first
                brush=gr.Brush(colors=[(f"rgb{PAINT}", OPACITY / 255)], color_mode="fixed"),
            )  # fmt: skip
            tools = {"rectangle": "Rectangle (R)", "invert": "Invert (I)", "clear": "Clear (Del)"}
            self.rectangle, self.invert, self.clear = add.row(tools)
            self.finder = add.choice(
                "finder", "Found by", FINDERS, "grabcut",
                "GrabCut and SAM look around what you painted, or everywhere.",
            )  # fmt: skip
            self.text = add.text(
                "text", "What to find (CLIPSeg)", placeholder="as the class word",
                max_length=200,
            )  # fmt: skip
            self.find = add.button("find", "Find the subject", size="sm")
            self.soft = add.slider(
                "soft", "Soft edge (% of the shorter side)", (0, 10, 0.5), 0,
                "Made when the mask is saved.",
            )  # fmt: skip
            ends = {"save": "Save (S)", "remove": "Remove the mask", "close": "Discard"}
            self.save, self.remove, self.close = add.row(ends, bright="save")
        self.open.click(None, None, self.editor, js=update(visible=True), **PRIVATE)
        self.status = add.html("status")
        self.about = gr.JSON([], visible=False)
        self.states = gr.State(None)
