"""What the documentation says is what the code does."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.config.fields import all_fields, concept_fields, sections, shown
from trainer.config.glossary import glossary_page
from trainer.config.moving.moved import table
from trainer.data.images import FORMATS
from trainer.data.sniffing import READ
from trainer.lora.names import ModuleKey, family_layers
from trainer.models.families import FamilyName
from trainer.places import PROJECT

PAGES = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("datasets/*/*.md")]
)
README = PROJECT / "README.md"
DOCS = PROJECT / "docs"
REFERENCE = {DOCS / name for name in ("configuration.md", "faults.md", "glossary.md", "moving.md")}
"""Tables that are generated, or compared line by line by a test of their own."""
GUIDE = [page for page in sorted(DOCS.glob("*.md")) if page not in REFERENCE]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_links(page: Path) -> None:
    """Files are there, and so are the headings that a link names."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    links = [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_found() -> None:
    assert len(PAGES) > 10
    assert LINK.findall("[a](b.md#c) ![d](e.png)") == ["b.md#c", "e.png"]


@pytest.mark.parametrize("page", [README, *GUIDE], ids=lambda page: page.name)
def test_every_setting_that_is_named_is_a_field(page: Path) -> None:
    """In code, ``section.key`` of our sections is one of the configuration's fields."""
    known = {*all_fields(), *(f"concepts.{key}" for key in concept_fields())}
    ours = re.compile(rf"(?<![\w./-])(?:{'|'.join([*sections(), 'concepts'])})\.[a-z_]+(?![\w/(])")
    text = re.sub(r"```python.*?```", "", text_of(page), flags=re.DOTALL)
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    named = {name for part in code for name in ours.findall(part)}
    files = (".toml", ".py", ".json", ".safetensors")
    assert {name for name in named if not name.endswith(files)} <= known


def test_every_variable_of_the_environment_is_told() -> None:
    sources = [
        *PROJECT.glob("app/**/*.py"),
        *PROJECT.glob("trainer/**/*.py"),
        PROJECT / "launch.py",
    ]
    used = {name for file in sources for name in re.findall(r"RAREBIT_[A-Z]+", text_of(file))}
    of_processes = {
        "RAREBIT_LAUNCHER",
        "RAREBIT_REFUSALS",
        "RAREBIT_ON",
        "RAREBIT_RAY",
        "RAREBIT_PATIENCE",
    }  # our own
    told = {name for page in GUIDE for name in re.findall(r"RAREBIT_[A-Z]+", text_of(page))}
    assert used - of_processes == told


def test_the_formats_of_pictures_are_those_that_are_read() -> None:
    named = re.search(r"Pictures may be ([A-Z, a-z]+) files", text_of(DOCS / "images.md"))
    assert named is not None
    told = set(re.split(", | OR ", named[1].upper()))
    assert told == {{"HEIF": "HEIC"}.get(name, name) for name in FORMATS} - {"DIB"}
    assert told == set(READ.upper().split(", "))  # as messages have them


def kind_of(key: ModuleKey) -> str:
    """Which choice of `adapter.targets` brings a layer; empty where none does."""
    path = key.path
    if key.part != "unet":
        kinds = {".self_attn.": "attention", ".mlp.": "feed-forward"}
    else:
        kinds = {".attn1.": "attention", ".attn2.": "attention", ".ff.": "feed-forward"}
        kinds |= {".proj_in": "feed-forward", ".proj_out": "feed-forward"}
        kinds |= {"resnets": "convolution", "samplers": "convolution"}
    return next((kind for mark, kind in kinds.items() if mark in path), "")


@pytest.mark.parametrize(
    ("family", "half", "convolution"), [("sd1", 2.2, 2.1), ("sd2", 2.2, 1.7), ("sdxl", 1.9, 1.1)]
)
def test_how_large_a_file_is_by_its_layers(
    family: FamilyName, half: float, convolution: float
) -> None:
    """What `adapter.targets` and the page for movers say, from the numbers of a low-rank pair."""
    size: Counter[str] = Counter()
    for key, shape in family_layers(family).items():
        size[kind_of(key)] += shape[0] + math.prod(shape[1:])
    default = size["attention"] + size["feed-forward"]
    assert round(default / size["attention"], 1) == half
    assert round((default + size["convolution"]) / default, 1) == convolution


def test_the_guide_is_short() -> None:
    """What is added has to be worth what it displaces; numbers and reasons go into docs/notes."""
    count = {page.name: len(text_of(page).split()) for page in (README, *GUIDE)}
    assert count.pop("README.md") < 700
    assert sum(count.values()) <= 10_350


def test_defaults_that_differ_from_other_trainers() -> None:
    """The first table for who comes from kohya: our defaults are those of the fields."""
    page = text_of(DOCS / "coming-from-kohya.md")
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| ([^|]+) \| [^|]+ \|.*\|$", page, re.MULTILINE)
    assert len(rows) > 12
    for name, default in rows:
        assert default == shown(all_fields()[name].default), name


def test_defaults_of_sd_scripts_are_those_that_import_takes() -> None:
    page = text_of(DOCS / "coming-from-kohya.md")
    told = dict(re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \|.*\|$", page, re.MULTILINE))
    compared = 0
    for row in table("kohya").values():
        theirs = row.unless_given if not row.field.startswith(("@", "!")) else ""
        if row.field in told and theirs:
            assert told[row.field] == {"False": "off", "True": "on"}.get(theirs, theirs), row
            compared += 1
    assert compared >= 5


def test_tools_and_where_a_file_goes() -> None:
    """The first adapter's table names every tool that `verify` knows, and the report's places."""
    rows = dict(
        re.findall(
            r"^\| ([\w-]+) \| ([^|]+) \| .*\|$", text_of(DOCS / "first-adapter.md"), re.MULTILINE
        )
    )
    tools = re.search(
        r"^Tool = Literal\[(.*)\]$", text_of(PROJECT / "trainer/lora/tools.py"), re.MULTILINE
    )
    assert tools is not None
    assert set(re.findall(r'"([^"]+)"', tools[1])) <= set(rows)
    report = text_of(PROJECT / "trainer/runs/templates/report.html")
    for tool in ("A1111", "Forge", "ComfyUI"):
        assert rows[tool].strip("`").removeprefix("ComfyUI/") in report


def messages() -> Iterator[tuple[str, str]]:
    """What is said to the user: refusals, options and next steps by their place, and fields."""
    for field in all_fields().values():
        yield field.name, f"{field.title}. {field.description}"
    sayings = {"UserError", "ImageProblem", "option", "NextStep", "AdapterFinding"}
    for file in (*PROJECT.glob("app/**/*.py"), *PROJECT.glob("trainer/**/*.py")):
        for call in ast.walk(ast.parse(text_of(file))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in sayings:
                texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
                place = f"{file.relative_to(PROJECT).as_posix()}:{call.lineno}"
                yield place, " ".join(text for text in texts if isinstance(text, str))


def test_messages_have_one_name_for_one_thing() -> None:
    """The trigger word is called so, and no word stands there that only its writers know."""
    named = re.compile(r"(?<![\w.{-])[Tt]rigger\b(?! ?words?|[}_]| ohwx)")
    private = re.compile(
        r"\b(keeper|rung|kin|spoken|told|held|resting|network dim|concept token)\b"
    )
    found = list(messages())
    assert len(found) > 400
    assert [where for where, text in found if named.search(text) or private.search(text)] == []


def test_the_glossary_is_that_of_the_page() -> None:
    assert text_of(DOCS / "glossary.md") == glossary_page()
