"""The verbs of the Images tab for scripts; docs/images.md shows how they are called."""

from __future__ import annotations

from typing import TypedDict

import gradio as gr

from app.files import Upload, as_uploads, file_drop, forget
from app.shared import escape, image_set_path, says_errors
from app.tabs.images import triggerwords
from app.tabs.images.captionfiles import NOTHING, CaptionConflict, version_of
from app.tabs.images.captionfiles import save_caption as save_file
from app.tabs.images.frames import frame_of
from app.tabs.images.imagesets import find_set
from app.tabs.images.setview import look_at
from app.tabs.images.uploads import Stored, store_uploads
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
        answer = gr.JSON(label="stored")
        gr.Button().click(
            says_errors(upload_images), [files, title, into], answer, api_name="upload_images"
        )
    gr.api(says_errors(check_images), api_name="check_images")
    gr.api(says_errors(save_caption), api_name="save_caption")
    gr.api(says_errors(suggest_triggers), api_name="suggest_triggers")


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
        "remarks": list(stored.remarks),
    }


def check_images(image_set: str, base: str = "tiny-emoji") -> dict:
    """Everything wrong or doubtful in an image set, as ``check-images --json`` has it.

    Besides: ``captions_by_picture``, and for ``save_caption`` the ``versions`` of the captions.
    """
    view = look_at(find_set(places.DATASETS, image_set), frame_of(base))
    report = {} if view.report is None else view.report.as_dict()
    report.pop("path", None)
    return {
        **report,
        "trouble": view.trouble,
        "captions_by_picture": {picture.name: picture.caption for picture in view.pictures},
        "versions": {picture.name: version_of(picture.caption) for picture in view.pictures},
    }


def save_caption(
    image_set: str, picture: str, caption: str, version: str = NOTHING
) -> SavedCaption:
    """Save a caption in one of the page's own sets, if it is still the one of the given version."""
    folder = find_set(places.DATASETS, image_set)
    try:
        saved = save_file(folder, picture, caption, version)
    except CaptionConflict as conflict:
        there = conflict.saved
        return SavedCaption(saved=False, caption=there.text, version=there.version)
    return SavedCaption(saved=True, caption=saved.text, version=saved.version)


def suggest_triggers(
    image_set: str = "", base: str = "tiny-emoji", class_word: str = ""
) -> list[str]:
    """Rare words that could be the trigger word."""
    folder = str(places.PROJECT / image_set_path(image_set)) if image_set else None
    found = triggerwords.suggest(base, class_word.strip(), folder)
    return [one.word for one in found]


def stored_in_words(stored: Stored, title: str) -> str:
    """What became of an upload, as HTML."""
    pictures = "1 picture" if stored.pictures == 1 else f"{stored.pictures:,} pictures"
    name = escape(title or stored.image_set.id)
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in stored.remarks[:10])
    doubts = f'<ul class="findings">{remarks}</ul>' if remarks else ""
    captions = f", {stored.captions:,} with a caption" if stored.captions else ""
    return (
        f'<p role="status"><span class="tag good">Stored</span> {pictures}{captions}, in '
        f"<b>{name}</b>. Your own files are not changed.</p>{doubts}"
    )
