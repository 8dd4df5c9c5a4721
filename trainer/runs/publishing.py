"""A finished run as others see it: its adapter, pictures that it drew, and a card about both.

What is published is made here and nowhere else, so that what is said to become public is what does:
no picture or caption of the image set, no path of this machine.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trainer.config.concepts import class_words_of, concepts_of, subject_of, triggers_of
from trainer.config.fields import all_fields, get_value, public_values, shown
from trainer.config.file import read_config
from trainer.config.schema import TrainingConfig
from trainer.data.captions import contains_word
from trainer.errors import UserError
from trainer.events import Ended
from trainer.runs.atomic import replacing
from trainer.runs.board import preview_records, read_png
from trainer.runs.layout import RunFolder, safe_name
from trainer.runs.log import read_events
from trainer.runs.meters import read_measured
from trainer.runs.report import base_kind, page_templates

MOST_PICTURES = 6
_MOST_BYTES = 12_000_000  # of a picture
_OF_CAPTIONS = ("ss_tag_frequency", "ss_dataset_dirs")
"""Metadata with words of the captions and names of folders."""
_LARGEST_HEADER = 16 * 2**20


@dataclass(frozen=True)
class Publication:
    """What becomes public."""

    name: str  # of the adapter's file, without a suffix
    files: dict[str, bytes]  # contents by the name that each gets, the adapter's aside
    adapter: Path  # the run's
    keep_tags: bool  # whether its metadata keep words of the captions
    prompts: tuple[str, ...]  # those that the card shows with its pictures
    doubt: str = ""  # the verdict, where the adapter does not work as it should

    def says(self) -> list[str]:
        """What will be public, a line each."""
        pictures = sum(name.endswith(".png") for name in self.files)
        embeddings = sum(name.endswith(".safetensors") for name in self.files)
        tags = "with the tags" if self.keep_tags else "without the tags"
        doubt = [f"Look again before you send it. {self.doubt}"] if self.doubt else []
        return [
            *doubt,
            f"{self.name}.safetensors: the adapter, {tags} of your captions.",
            "README.md: a card with trigger word, verdict and settings, without folders.",
            f"{pictures} of the pictures that the adapter drew, with their prompts, which may "
            f"repeat a caption: {'; '.join(self.prompts)}"
            if pictures
            else "No pictures: the run has no previews.",
            *["The new tokens, as embeddings for tools that do not read them there."]
            * bool(embeddings),
            "Not: the pictures and captions of your image set.",
        ]


def publication(run: RunFolder, keep_tags: bool = False) -> Publication:
    """What a run publishes.

    Raises:
        UserError: it has no adapter yet, or its settings cannot be read.
    """
    if not run.adapter.is_file():
        raise UserError(f"{run.name} has no adapter yet.", "Let it train to its end first.")
    config = read_config(run.config, of_run=True)
    name = safe_name(config.output.name or run.name)
    pictures = _pictures(run, config)
    numbered = [(f"images/{at}.png", prompt) for at, (prompt, _) in enumerate(pictures, 1)]
    files = {file: data for (file, _), (_, data) in zip(numbered, pictures, strict=True)}
    embeddings = sorted(run.embeddings.glob("*.safetensors"))
    files |= {f"embeddings/{file.name}": file.read_bytes() for file in embeddings}
    files["README.md"] = _card(run, config, name, numbered, bool(embeddings)).encode()
    prompts = tuple(dict.fromkeys(prompt for prompt, _ in pictures))
    measured = read_measured(run)
    doubt = "" if measured.works else measured.verdict
    return Publication(name, files, run.adapter, keep_tags, prompts, doubt)


def _pictures(run: RunFolder, config: TrainingConfig) -> list[tuple[str, bytes]]:
    """(prompt, PNG) of the newest previews, those with a trigger word first."""
    steps, triggers = run.preview_steps(), triggers_of(config)
    found: list[tuple[str, bytes]] = []
    for record in preview_records(run, steps[-1]) if steps else []:
        prompt = str(record["prompt"])
        file = run.preview(steps[-1]) / Path(str(record["file"])).name
        if data := read_png(file, _MOST_BYTES):
            found.append((prompt, data))
    found.sort(key=lambda one: not any(contains_word(one[0], word) for word in triggers))
    return found[:MOST_PICTURES]


def _card(
    run: RunFolder,
    config: TrainingConfig,
    name: str,
    pictures: list[tuple[str, str]],
    embeddings: bool,
) -> str:
    """A model card: front matter that the hub reads, and the same for people."""
    measured, base = read_measured(run), config.base.name
    public, kind = public_values(config), base_kind(base)
    ends = [one.works_in for one in read_events(run) if isinstance(one, Ended)]
    tools = ends[-1] if ends else None  # not known of runs of earlier versions
    usual = ("A1111", "Forge", "ComfyUI", "InvokeAI")
    folders = [tool for tool in usual if tools is None or tool in tools]
    in_diffusers = tools is None or "diffusers" in tools
    front: dict[str, Any] = {
        "base_model": base if kind == "hub" else None,
        "instance_prompt": ", ".join(triggers_of(config)) or None,
        "license": config.output.license or None,
        "library_name": "diffusers" if in_diffusers else None,
        "tags": [
            *("text-to-image", "stable-diffusion", "lora", "rarebit"),
            *["diffusers"] * in_diffusers,
        ],
        "widget": [{"text": prompt, "output": {"url": file}} for file, prompt in pictures] or None,
    }
    settings = [
        (field.title, shown(get_value(config, field.name)))
        for field in all_fields().values()
        if field.key in public.get(field.section, {})
        and not field.place
        and field.section not in ("output", "base")
        and get_value(config, field.name) != field.default
    ]
    return (
        page_templates()
        .get_template("card.md")
        .render(
            # JSON is YAML, and escapes whatever a prompt may hold.
            front={key: json.dumps(value) for key, value in front.items() if value},
            name=name,
            subjects=[subject_of(concept) for concept in concepts_of(config)],
            triggers=triggers_of(config),
            class_words=class_words_of(config),
            base=base if kind == "hub" else Path(base.replace("\\", "/")).name,
            pictures=pictures,
            verdict=measured.verdict.replace(run.adapter.name, f"{name}.safetensors"),
            findings=[one.says for one in measured.findings],
            description=config.output.description,
            author=config.output.author,
            settings=settings,
            clip_skip=config.base.clip_skip,
            prediction=config.base.prediction,
            folders=" or ".join(filter(None, (", ".join(folders[:-1]), *folders[-1:]))),
            in_diffusers=in_diffusers,
            whole=len(folders) == len(usual) and in_diffusers,
            embeddings=embeddings,
        )
    )


def write_adapter(one: Publication, target: IO[bytes]) -> None:
    """The adapter, byte for byte but for the words of captions in its metadata."""
    with one.adapter.open("rb") as source:
        size = int.from_bytes(source.read(8), "little")
        if size > _LARGEST_HEADER:
            raise UserError(f"{one.adapter.name} is no adapter file.", "Train the run again.")
        header = json.loads(source.read(size))
        if not one.keep_tags:
            for key in _OF_CAPTIONS:
                header.get("__metadata__", {}).pop(key, None)
        data = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        data += b" " * (-len(data) % 8)  # tensors begin at a multiple of 8
        target.write(len(data).to_bytes(8, "little") + data)
        while block := source.read(2**20):
            target.write(block)


def contents(one: Publication) -> dict[str, bytes]:
    """Every file with its name."""
    adapter = io.BytesIO()
    write_adapter(one, adapter)
    return {**one.files, f"{one.name}.safetensors": adapter.getvalue()}


def write_zip(one: Publication, target: Path) -> Path:
    """A zip for model sites: adapter, pictures, card.

    Raises:
        UserError: the file is there already.
    """
    if target.exists():
        raise UserError(f"{target} is there already.", "Give another name, or remove it.")
    with replacing(target) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, data in contents(one).items():
            archive.writestr(name, data)
    return target
