"""A finished run for others: what will be public, a zip for model sites, and the upload."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from app import client as service
from app import jobs
from app.kit import Kit
from app.render import refused, render
from app.shared import PRIVATE, QUIET, says_errors
from trainer.errors import UserError
from trainer.runs.layout import RunFolder
from trainer.runs.publishing import publication, write_zip

UPLOAD_SECONDS = 3600.0  # a slow line, and an adapter of some hundred MB
add = Kit("runs")


class PublishParts:
    """The components, put in where it is made; `wire` lets them work."""

    def __init__(self) -> None:
        with add.question("publishing", "publish", "Upload to the hub") as self.question:
            self.contents = add.html("contents")
            self.tags = add.check("tags", "Leave the tags of my captions in the adapter's file")
            with gr.Row():
                self.repository = add.text(
                    "repository", "Name on the Hugging Face hub", placeholder="OWNER/NAME",
                    max_length=200,
                )  # fmt: skip
                self.token = add.text(
                    "token", "Access token that may write",
                    "Used once, neither kept nor logged. Empty: that of this machine's login.",
                    type="password", max_length=200,
                )  # fmt: skip
            self.public = add.check("public", "Everyone may see it")

    def wire(self, button: gr.Button, name: gr.Radio) -> None:
        """Lets a button show them for the run that is chosen."""
        shown = [self.contents, self.question.group]
        for event in (button.click, self.tags.input):
            event(says_errors(_open), [name, self.tags], shown, **QUIET)
        fields = [name, self.repository, self.token, self.public, self.tags]
        self.question.yes.click(_upload, fields, [self.contents, self.token], **PRIVATE)
        self.question.close(name.input)


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
