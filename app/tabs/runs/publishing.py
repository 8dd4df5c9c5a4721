"""A finished run for others: what will be public, a zip for model sites, and the upload."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from app import client as service
from app import jobs
from app.render import refused, render
from app.shared import HIDE, PRIVATE, QUIET, elem, says_errors
from trainer.errors import UserError
from trainer.runs.layout import RunFolder
from trainer.runs.publishing import publication, write_zip

UPLOAD_SECONDS = 3600.0  # a slow line, and an adapter of some hundred MB
_id = partial(elem, "runs")


class PublishParts:
    """The components, put in where it is made; `wire` lets them work."""

    def __init__(self) -> None:
        with gr.Group(visible=False, elem_id=_id("publishing")) as self.group:
            self.contents = gr.HTML(elem_id=_id("contents"))
            self.tags = gr.Checkbox(
                label="Leave the tags of my captions in the adapter's file", elem_id=_id("tags")
            )
            with gr.Row():
                self.repository = gr.Textbox(
                    label="Name on the Hugging Face hub", placeholder="OWNER/NAME",
                    max_length=200, elem_id=_id("repository"),
                )  # fmt: skip
                self.token = gr.Textbox(
                    label="Access token that may write", type="password", max_length=200,
                    info="Used once, neither kept nor logged. Empty: that of this machine's login.",
                    elem_id=_id("token"),
                )  # fmt: skip
            self.public = gr.Checkbox(label="Everyone may see it", elem_id=_id("public"))
            with gr.Row():
                self.upload = gr.Button(
                    "Upload to the hub", variant="primary", size="sm", elem_id=_id("publish-yes")
                )
                self.close = gr.Button("Cancel", size="sm", elem_id=_id("publish-no"))

    def wire(self, button: gr.Button, name: gr.Radio) -> None:
        """Lets a button show them for the run that is chosen."""
        shown = [self.contents, self.group]
        button.click(says_errors(_open), [name, self.tags], shown, **QUIET)
        self.tags.input(says_errors(_open), [name, self.tags], shown, **QUIET)
        fields = [name, self.repository, self.token, self.public, self.tags]
        self.upload.click(_upload, fields, [self.contents, self.token], **PRIVATE)
        gr.on([self.close.click, name.input], None, None, self.group, js=HIDE, **QUIET)


def _open(name: str, tags: bool) -> tuple[str, gr.Group]:
    return _contents(name, tags), gr.Group(visible=True)


def _contents(name: str, tags: bool, address: str = "") -> str:
    one = publication(jobs.run_folder(name), tags)
    link = f"files/{quote(name)}/{quote(name)}.zip{'?tags=1' if tags else ''}"
    return render("runs.html", "publishing", one.says(), link, address)


def _upload(name: str, repository: str, token: str, public: bool, tags: bool) -> tuple[str, str]:
    """Says where it is now, or why not; the token leaves the page in any case."""
    shown = ""
    try:
        shown = _contents(name, tags)
        given = {"to": repository.strip(), "token": token, "public": public, "keep_tags": tags}
        run = str(jobs.run_folder(name).path)
        answer = service.call("publish", {"place": run, **given}, UPLOAD_SECONDS)
        return _contents(name, tags, answer["address"]), ""
    except UserError as error:
        return f"{refused(error)}{shown}", ""


def zip_response(run: RunFolder, tags: bool) -> Response:
    """The zip as a download; it is removed when it was sent."""
    folder = tempfile.TemporaryDirectory(prefix="publish-")
    try:
        archive = write_zip(publication(run, tags), Path(folder.name) / f"{run.name}.zip")
    except UserError as error:
        folder.cleanup()
        return Response(str(error), 404)
    task = BackgroundTask(folder.cleanup)
    return FileResponse(archive, filename=f"{run.name}.zip", background=task)
