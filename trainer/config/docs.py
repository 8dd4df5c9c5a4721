"""Writes docs/configuration.md from the configuration itself.

Run ``python -m trainer.config.docs`` after a change of a field or a preset; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.config.fields import ConfigField, all_fields, concept_fields, sections, shown
from trainer.config.presets import PRESETS, Preset
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.runs.atomic import write_text

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

_INTRODUCTION = """\
# Configuration

<!-- Made by `python -m trainer.config.docs` from trainer/config/. -->

Every run folder holds a complete `config.toml`: copy it, change it, and give it to
`python launch.py train --config FILE.toml`. Single fields are set on the command line with
`--set section.key=value`, as often as needed. Later sources win: the defaults, the file
(`--config`), presets (`--preset`, in their order), options such as `--steps`, and `--set`. A file
may leave out what it does not change. A misspelt key or an unfit value is refused, with its line.
"""


def configuration_page() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_section_lines(), *_preset_lines()]) + "\n"


def _section_lines() -> Iterator[str]:
    for section_name, section in sections().items():
        yield f"## [{section_name}]\n"
        yield (section.__doc__ or "").strip() + "\n"
        yield "| field | default | may be | meaning |"
        yield "| --- | --- | --- | --- |"
        for field in all_fields().values():
            if field.section == section_name:
                yield _row(field)
        yield ""
    yield "## [[concepts]]\n"
    yield (ConceptConfig.__doc__ or "").strip()
    yield " ".join((TrainingConfig.model_fields["concepts"].description or "").split()) + "\n"
    yield "| field | default | may be | meaning |"
    yield "| --- | --- | --- | --- |"
    yield from map(_row, concept_fields().values())
    yield ""


def _row(field: ConfigField) -> str:
    meaning = [field.description]
    if field.flag:
        meaning.append(f"Option: `{' '.join(filter(None, (field.flag, field.metavar)))}`.")
    if field.resume:
        what = "Its place may" if field.place else "May"
        meaning.append(f"{what} change when a run goes on.")
    cells = [f"`{field.key}`", shown(field.default), field.expected, " ".join(meaning)]
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _preset_lines() -> Iterator[str]:
    yield "## Presets\n"
    yield "A preset sets some fields and leaves the others as they are.\n"
    yield "| preset | when | sets |"
    yield "| --- | --- | --- |"
    for preset in PRESETS.values():
        yield f"| `{preset.name}` | {_escape(preset.reason)} | {_escape(_settings(preset))} |"


def _settings(preset: Preset) -> str:
    return ", ".join(f"{name} = {shown(value)}" for name, value in preset.values.items())


def _escape(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    write_text(PAGE, configuration_page())
