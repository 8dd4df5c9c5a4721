"""The verbs of the Images tab for scripts; docs/images.md shows how they are called."""

from __future__ import annotations

from typing import TypedDict

import gradio as gr

from app.files import Upload, as_uploads, file_drop, forget
from app.shared import for_scripts, says_errors
from app.tabs.images import captions
from app.tabs.images.imagesets import find_set
from app.tabs.images.setview import look_at
from app.tabs.images.uploads import store_uploads
from app.tabs.images.words import ask_about_words
from trainer import places


class SavedCaption(TypedDict):
    """What ``save_caption`` answers: the caption on the disk, and whether it is the given one."""

    saved: bool
    caption: str
    version: str


def expose() -> None:
    """Makes the verbs known under their names."""
    with gr.Row(visible=False):
        files = file_drop(label="files", file_count="multiple")
        title, into = gr.Textbox(label="title"), gr.Textbox(label="image_set")
        answer = gr.JSON(label="stored", visible=False)
        gr.Button().click(
            says_errors(upload_images), [files, title, into], answer, api_name="upload_images"
        )
    gr.api(for_scripts(check_images), api_name="check_images")
    gr.api(for_scripts(save_caption), api_name="save_caption")
    gr.api(for_scripts(suggest_triggers), api_name="suggest_triggers")


def upload_images(files: list[Upload], title: str, into: str) -> dict[str, object]:
    """Store pictures, captions and zip files as a new image set, or add them to one.

    Args:
        files: the uploaded files.
        title: of the new set.
        into: id of the page's own set to add to; "" for a new one.
    """
    files = as_uploads(files)
    try:
        folder = find_set(places.DATASETS, into) if into else None
        stored = store_uploads(places.DATASETS, files, title=title or "", into=folder)
    finally:
        forget(files)
    return {
        "image_set": stored.image_set.id,
        "pictures": stored.pictures,
        "captions": stored.captions,
        "masks": stored.masks,
        "remarks": list(stored.remarks),
    }


def check_images(image_set: str, base: str = "tiny-emoji") -> dict:
    """Everything wrong or doubtful in an image set, as ``check-images --json`` has it.

    Besides: ``captions_by_picture``, and for ``save_caption`` the ``versions`` of the captions.
    """
    view = look_at(find_set(places.DATASETS, image_set), base)
    report = {} if view.report is None else view.report.as_dict()
    report.pop("path", None)
    return {
        **report,
        "trouble": view.trouble,
        "captions_by_picture": {picture.name: picture.caption for picture in view.pictures},
        "versions": {one.name: captions.version_of(one.caption) for one in view.pictures},
    }


def save_caption(
    image_set: str, picture: str, caption: str, version: str = captions.NOTHING
) -> SavedCaption:
    """Save a caption in one of the page's own sets, if it is still the one of the given version."""
    folder = find_set(places.DATASETS, image_set)
    try:
        there, saved = captions.save_caption(folder, picture, caption, version), True
    except captions.CaptionConflict as conflict:
        there, saved = conflict.saved, False
    return SavedCaption(saved=saved, caption=there, version=captions.version_of(there))


def suggest_triggers(
    image_set: str = "", base: str = "tiny-emoji", class_word: str = ""
) -> list[str]:
    """Rare words that could be the trigger word."""
    return [one["word"] for one in ask_about_words("suggest", base, class_word, image_set)]
