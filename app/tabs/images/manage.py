"""Image sets as things: renamed, deleted, and closed when they are gone."""

from __future__ import annotations

import gradio as gr
from gradio.blocks import Block
from markupsafe import escape

from app import jobs
from app.shared import QUIET, Shared, says_errors
from app.tabs.images.imagesets import (
    SetFolder,
    delete_set,
    find_set,
    rename_set,
    set_choices,
    title_of,
)
from app.tabs.images.layout import Parts, html
from trainer import places
from trainer.config.concepts import concepts_of
from trainer.config.file import read_config
from trainer.errors import UserError

Updates = dict[Block, object]


def wire(parts: Parts, shared: Shared, shown: list[Block]) -> None:
    """Connects renaming and deleting.

    Args:
        shown: what the whole tab shows of a set.
    """
    p = parts

    def rename(opened: str, title: str) -> tuple[object, str]:
        rename_set(places.DATASETS, find_set(places.DATASETS, opened), title)
        return gr.Dropdown(choices=set_choices(), value=opened), ""

    def ask(opened: str) -> tuple[object, str]:
        folder = find_set(places.DATASETS, opened)
        _check_unused(folder)
        folder.check_owned()
        return gr.Group(visible=True), html("delete_question", title_of(folder))

    def delete(opened: str) -> Updates:
        folder = find_set(places.DATASETS, opened)
        _check_unused(folder)
        title = title_of(folder)
        delete_set(folder)
        gr.Info(f"{escape(title)} is deleted.")
        return {**closed(p, shared), p.deletion.group: gr.Group(visible=False)}

    p.rename.click(says_errors(rename), [p.opened, p.new_title], [p.chosen, p.new_title], **QUIET)
    p.delete.click(says_errors(ask), p.opened, [p.deletion.group, p.asked], **QUIET)
    p.deletion.yes.click(says_errors(delete), p.opened, [*shown, p.deletion.group], **QUIET)


def closed(parts: Parts, shared: Shared) -> Updates:
    """No set is open any more."""
    p = parts
    return {
        p.chosen: gr.Dropdown(choices=set_choices(), value=None),
        p.opened: "",
        p.remembered: "",
        p.picture: "",
        p.remarks: "",
        p.summary: html("no_set"),
        p.desk: gr.Column(visible=False),
        p.use: gr.Button(visible=False),
        p.try_it: gr.Button(visible=True),
        shared.image_set: "",
    }


def _check_unused(image_set: SetFolder) -> None:
    """Raises `UserError` while a run learns from the set, or waits to."""
    for run in jobs.runs():
        if not run.alive and not run.place:
            continue
        config = read_config(jobs.run_folder(run.name).config)
        if any(
            (places.PROJECT / one.path).is_relative_to(image_set.path)
            for one in concepts_of(config)
        ):
            raise UserError(
                f"{run.name} learns from {title_of(image_set)}.",
                "Stop it, or let it finish, first.",
            )
