"""Writes docs/configuration.md, moving.md and glossary.md from the tables that the code reads.

Run ``python -m trainer.config.docs`` after a change of a field or a preset; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.config.fields import ConfigField, all_fields, concept_fields, sections, shown
from trainer.config.glossary import glossary_page
from trainer.config.moving.moved import table
from trainer.config.moving.theirs import NAMES
from trainer.config.presets import PRESETS, Preset
from trainer.config.schema import ConceptConfig, TrainingConfig
from trainer.runs.atomic import write_text

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
MOVING_PAGE = PAGE.with_name("moving.md")

_INTRODUCTION = """\
# Configuration

<!-- Made by `python -m trainer.config.docs` from trainer/config/. -->

Every run folder holds a complete `config.toml`: copy it, change it, and give it to
`python launch.py train --config FILE.toml`. Single fields are set on the command line with
`--set section.key=value`, as often as needed. Later sources win: the defaults, the file
(`--config`), presets (`--preset`, in their order), options such as `--steps`, and `--set`. A file
may leave out what it does not change. A misspelt key or an unfit value is refused, with its line.
"""


_MOVING = """\
# From another trainer

<!-- Made by `python -m trainer.config.docs` from trainer/config/moving/. -->

```sh
python launch.py import kohya.toml dataset.toml --out mine.toml
```

reads settings of [sd-scripts](https://github.com/kohya-ss/sd-scripts) (trainer and dataset files,
TOML or JSON), of the window [kohya_ss](https://github.com/bmaltais/kohya_ss) (JSON), of
[OneTrainer](https://github.com/Nerogar/OneTrainer) (JSON, with its list of concepts) and of
[ai-toolkit](https://github.com/ostris/ai-toolkit) (YAML or JSON). It writes ours, and says in
sentences what was taken, what is a little different here and why, and what has no counterpart.
*Load settings* in the page's Train tab does the same. `--json` prints it for scripts.

What a file leaves out is set as its trainer does then, not as it is by itself here: in sd-scripts
alpha is 1, nothing is preserved, every timestep counts the same, no pictures are kept out. Epochs
become steps where the pictures are on this machine.

Tried on what the projects ship (November 2026): all LoRA presets of kohya_ss, and OneTrainer's for
SD 1.5, 2.1 and SDXL, are taken. ai-toolkit ships examples for other models alone; settings for
these (Flux and the like), for whole models and for embeddings are refused by name.
"""


def moving_page() -> str:
    """docs/moving.md: every setting of other trainers that is known, in Markdown."""
    lines = [_MOVING]
    for trainer, name in NAMES.items():
        lines += [f"## {name[0].upper()}{name[1:]}\n", "| setting | unless given | here | |"]
        lines.append("| --- | --- | --- | --- |")
        for row in table(trainer).values():
            ours = row.field.partition(" ")[2] if row.field.startswith("@") else row.field
            ours = {"done": "always so, or not needed", "": "none"}.get(ours, ours)
            ours = f"not {ours[1:]}" if ours.startswith("!") else ours
            cells = (f"`{row.key}`", row.unless_given, ours, row.note)
            lines.append(f"| {' | '.join(map(_escape, cells))} |")
        lines.append("")
    return "\n".join(lines)


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
    write_text(MOVING_PAGE, moving_page())
    write_text(PAGE.with_name("glossary.md"), glossary_page())
