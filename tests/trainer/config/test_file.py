"""The configuration as a file: round trip, and every mistake in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.docs import PAGE, configuration_page
from trainer.config.fields import ConfigField, all_fields, get_value
from trainer.config.file import (
    ConfigError,
    apply_overrides,
    format_config,
    parse_config,
    read_config,
    validate,
    with_values,
    write_config,
)
from trainer.config.presets import PRESETS, apply_preset
from trainer.config.schema import TrainingConfig
from trainer.errors import UserError

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


def values_of(field: ConfigField) -> st.SearchStrategy[Any]:
    """Values that fit a field."""
    if field.choices:
        return st.sampled_from(field.choices)
    if field.name == "images.background":
        return st.from_regex(r"#[0-9a-fA-F]{6}", fullmatch=True)
    if field.name in ("base.name", "images.path", "evaluation.scorers"):
        # Not empty, and nothing that a path is tidied by.
        return st.text("abcü'\"\\ \t#=", min_size=1, max_size=60)
    if field.name == "captions.max_tokens":
        return st.sampled_from([75, 150, 225])
    if field.name in ("images.random_crop", "images.variants"):
        return st.sampled_from([0.25, 0.5] if field.name == "images.random_crop" else [None, 2, 64])
    if field.name == "images.resolutions":
        return st.just([])  # images.resolution has to be one of them
    if field.name in ("adapter.ranks", "optimizer.layer_rates"):
        return st.lists(st.just("unet.* = 2"), max_size=3)
    if field.name == "training.stop_text_encoder_after":
        return st.just(1.0)  # less needs adapter.unet
    few = field.name in (
        *("previews.count", "evaluation.board", "base.clip_skip"),
        *("adapter.factor", "adapter.new_tokens"),
    )
    kinds = {
        "integer": st.integers(1, 8) if few else st.integers(32, 75),
        "number": st.floats(1.0, 1.5) if "below" not in field.expected else st.floats(0, 0.9),
        "boolean": st.booleans(),
        "string": TEXT,
        "array": st.lists(TEXT, max_size=3),
        "null": st.none(),
    }
    if (highest := field.schema.get("maximum", 2)) <= 1:
        kinds["number"] = st.floats(0, highest)
    return st.one_of([kinds[kind] for kind in sorted(field.types)])


CONFIGS = st.fixed_dictionaries({}, optional={f.name: values_of(f) for f in all_fields().values()})


@settings(max_examples=25)
@given(CONFIGS)
def test_any_configuration_survives_the_file(values: dict[str, Any]) -> None:
    """FAULTS 25, the file's part."""
    if not values.get("adapter.unet", True):
        values["adapter.text_encoder"] = True
    config = with_values(TrainingConfig(), values)
    assert parse_config(format_config(config)) == config


@pytest.mark.parametrize("name", ["", *PRESETS])
def test_presets_survive_the_file(name: str, tmp_path: Path) -> None:
    config = apply_preset(TrainingConfig(), name) if name else TrainingConfig()
    path = tmp_path / "config.toml"
    write_config(path, config)
    assert read_config(path) == config
    write_config(path, config)  # over the old one
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]


def test_file_is_complete_and_explains_itself() -> None:
    text = format_config(TrainingConfig())
    lines = text.splitlines()
    joined = " ".join(line.removeprefix("# ") for line in lines)
    for field in all_fields().values():
        key = field.name.partition(".")[2]
        start = f"# {key} = (empty)" if field.default is None else f"{key} = "
        assert any(line.startswith(start) for line in lines), field.name
        assert field.description in joined, field.name
    assert all(len(line) <= 100 for line in lines)
    assert text.endswith("\n") and "\n\n\n" not in text


def test_left_out_fields_take_their_defaults() -> None:
    assert parse_config("") == TrainingConfig()
    assert parse_config("[adapter]\nrank = 3\n").adapter.rank == 3
    assert parse_config("adapter.rank = 3\n").adapter.rank == 3
    assert parse_config("[images]\nflip = true\n").images.path == Path()
    assert parse_config("adapter = {rank = 3}\n").adapter.rank == 3


def test_a_run_of_an_earlier_version_keeps_what_it_did() -> None:
    text = format_config(TrainingConfig()).replace("max_tokens = 225", "")
    assert parse_config(text).captions.max_tokens == 225
    assert parse_config(text, of_run=True).captions.max_tokens == 75
    assert parse_config("[captions]\nmax_tokens = 150", of_run=True).captions.max_tokens == 150


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf[adapter]\r\nrank = 3\r\n")
    assert read_config(path).adapter.rank == 3


EVERYTHING_WRONG = """\
[adapter]
rnak = 8
rank = 0
alpha = nan
unet = false
text_encoder = false

[optimizer]
# rank = 3
learning_rate = -1e-4
name = "adamm"

[training]
steps = 1000000000
batch_size = "4"

[previews]
negative = '''
rank = 7
'''
prompts = [
    "a",
    3,
]
every = 2024-01-01

[trianing]
steps = 3
"""


def test_all_mistakes_at_once_with_line_and_field(tmp_path: Path) -> None:
    """FAULTS 23."""
    path = tmp_path / "my.toml"
    path.write_text(EVERYTHING_WRONG)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert caught.value.message.splitlines() == [
        f"{path} has 11 mistakes:",
        "  line 2: adapter.rnak: there is no such field; did you mean adapter.rank?",
        "  line 3: adapter.rank: 0 given, expected a whole number from 1 to 1,024",
        "  line 4: adapter.alpha: nan given, expected a number above 0 up to 4,096, or nothing",
        "  line 5: adapter.unet and adapter.text_encoder are both off, so nothing would train: "
        "switch one on",
        "  line 10: optimizer.learning_rate: -0.0001 given, expected a number above 0 up to 100, "
        "or nothing",
        '  line 11: optimizer.name: "adamm" given, expected one of adamw, adamw8bit, prodigy, '
        "lion, adafactor, adamw_schedule_free, came",
        "  line 14: training.steps: 1000000000 given, expected a whole number from 1 to 1,000,000",
        '  line 15: training.batch_size: "4" given, expected a whole number from 1 to 512',
        '  line 21: previews.prompts: 3 given, expected a list of texts, such as ["one", "two"]',
        '  line 25: previews.every: "2024-01-01" given, expected a whole number from 0 upwards',
        "  line 27: trianing: there is no such field; did you mean [training]?",
    ]
    assert "docs/configuration.md" in caught.value.hint
    first, second = [(one.field, one.line) for one in caught.value.mistakes][:2]
    assert (first, second) == (("adapter.rnak", 2), ("adapter.rank", 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[adapter]\nrank = \n", "line 2: the line is not complete"),
        ("[adapter]\nrank = 'x", "line 2: the line is not complete"),
        ("[adapter\nrank = 3\n", "line 1: the line is not complete"),
        ("[adapter]\nrank = 1\nrank = 2\n", "line 3: adapter.rank: given already in line 2"),
        ("[adapter]\n[base]\n[adapter]\n", "line 3: adapter: given already in line 1"),
        ("[adapter]\nrank: 3\n", "line 2: write = in place of the colon"),
        ('[images]\npath = "C:\\Users\\me"\n', "line 2: a \\ in double quotes begins a sign"),
        ('[images]\npath = "C:\\new\\bob"\n', "line 2: images.path: a \\ in double quotes begins"),
        ('[[concepts]]\npath = "D:\\tom"\ntrigger = "x"\n', "concepts 1.path: a \\ in double quo"),
        ("[base]\nname = “sd15”\n", "line 2: curly quotes begin no text"),
        ("[adapter]\nunet = True\n", "line 2: write true or false in small letters"),
        ("[base]\nname = sd15\n", "line 2: text needs quotes"),
        ('[base]\nname = "a\\\\b" x\n', "line 2: Expected newline"),
        ("adapter = 3\n", "line 1: adapter: 3 given, expected a section, [adapter]"),
        ("rank = 3\n", "line 1: rank: there is no such field; did you mean adapter.rank?"),
        ("[[adapter]]\nrank = 3\n", "expected a section, [adapter]"),
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a." * 90_000 + "a = 1", "nested too deeply"),
        ("adapter.rank = 1\nadapter.rank = 2", "line 2: adapter.rank: given already in line 1"),
        ("a.b = 1\n" * 2, "line 2: a.b: given already in line 1"),
        ("x = " + "9" * 9000, "digits"),
        ("[adapter]\nrank = 1 2", "line 2: Expected newline"),
        ("x = [\n1,\n", "the line is not complete"),
        ('[base]\nname = "' + "n" * 70 + '"\nprediction = "' + "p" * 70 + '"', "p…"),
    ],
)
def test_broken_files_are_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "my.toml")
    assert caught.value.message.startswith("my.toml: ")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_config(text, "my.toml")
    except ConfigError as error:
        assert error.mistakes


@given(st.dictionaries(st.sampled_from([*all_fields(), "x", "a.b"]), st.none() | st.integers()))
def test_any_values_are_taken_or_refused(values: dict[str, object]) -> None:
    try:
        with_values(TrainingConfig(), values)
    except ConfigError as error:
        named = {mistake.field for mistake in error.mistakes if mistake.field}
        assert named <= set(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"[adapter]\nrank = '\xff'\n", "line 2: this is not UTF-8 text"),
        (b"#" * 200_001, "over 200 KB"),
    ],
)
def test_unreadable_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_config(path)
    assert str(path) in caught.value.message
    with pytest.raises(UserError, match="cannot read"):
        read_config(tmp_path)


@pytest.mark.parametrize("field", ["images.path", "captions.trigger", "previews.prompts"])
def test_stray_bytes_are_refused_beside_other_mistakes(field: str) -> None:
    section, _, name = field.partition(".")
    value = ["a \udcff"] if name == "prompts" else "a \udcff"
    tree: dict[str, dict[str, object]] = {section: {name: value}}
    tree.setdefault("adapter", {})["rank"] = 0
    with pytest.raises(ConfigError) as caught:
        validate(tree)
    assert {mistake.field for mistake in caught.value.mistakes} == {field, "adapter.rank"}
    concepts = {"concepts": [{"path": "x", "trigger": "\udcff"}]}
    with pytest.raises(ConfigError, match="no UTF-8"):
        validate(concepts)


@pytest.mark.parametrize("names", ["a.b{}", "a.b.b.c{}", "a.b.c{0}.d.e{0}"])
def test_thousands_of_dotted_names_are_read_to_their_end(names: str) -> None:
    """A parser in cubic time needs minutes for a hundred of them, and would for these a year."""
    text = "".join(names.format(number) + " = 1\n" for number in range(8000))
    with pytest.raises(ConfigError, match="no such field"):
        parse_config(text)


@pytest.mark.parametrize(
    ("override", "dotted", "value"),
    [
        ("adapter.rank=8", "adapter.rank", 8),
        (" adapter.rank = 8 ", "adapter.rank", 8),
        ("adapter.unet=false", "adapter.unet", False),
        ("optimizer.learning_rate=2e-4", "optimizer.learning_rate", 2e-4),
        ("optimizer.learning_rate=", "optimizer.learning_rate", None),
        ("optimizer.name=prodigy", "optimizer.name", "prodigy"),
        ("captions.trigger=1984", "captions.trigger", "1984"),
        ("captions.trigger=true", "captions.trigger", "true"),
        ("captions.trigger=", "captions.trigger", ""),
        ('captions.prefix="a, b "', "captions.prefix", "a, b "),
        ("captions.class_word=a cat", "captions.class_word", "cat"),
        ("captions.class_word=The", "captions.class_word", "The"),
        ("captions.prefix=a = b", "captions.prefix", "a = b"),
        ("captions.prefix=[x]", "captions.prefix", "[x]"),
        ("images.path=/a b/c", "images.path", Path("/a b/c")),
        ('previews.prompts=["a", "b"]', "previews.prompts", ("a", "b")),
    ],
)
def test_overrides(override: str, dotted: str, value: object) -> None:
    start = with_values(TrainingConfig(), {"optimizer.learning_rate": 1e-3, "training.steps": 7})
    found = apply_overrides(start, [f"{dotted}=", override])  # the later one wins
    assert (get_value(found, dotted), found.training.steps) == (value, 7)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["rank"], ['--set: "rank" is not of the form section.key=value']),
        (["=3"], ["--set: there is no such field"]),
        (["adapter.rnak=3"], ["--set: adapter.rnak: there is no such field; did you mean"]),
        (
            ["adapter.rnak=3", "adapter.rank=x", "training.steps=1.5"],
            ["--set has 3 mistakes", "adapter.rnak", 'adapter.rank: "x" given', "training.steps"],
        ),
        (["adapter.unet=false", "adapter.text_encoder=false"], ["adapter.unet and adapter.text"]),
        (["previews.prompts=hello"], ['expected a list of texts, such as ["one", "two"]']),
        (['optimizer.layer_rates=["unet.* = 0"]'], ["optimizer.layer_rates: 'unet.* = 0' given"]),
        (['optimizer.layer_rates=["unet.*: 2"]'], ["'unet.*: 2' is not PATTERN = NUMBER"]),
        (['adapter.ranks=["unet.* = 0"]'], ["adapter.ranks: 'unet.* = 0' given, expected a whole"]),
    ],
)
def test_mistaken_overrides(overrides: list[str], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(TrainingConfig(), overrides)
    for message in messages:
        assert message in caught.value.message


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_say_why(name: str) -> None:
    preset = PRESETS[name]
    config = apply_preset(TrainingConfig(), name)
    assert preset.name == name and 30 < len(preset.reason) < 110
    assert config != TrainingConfig()
    for dotted, value in preset.values.items():
        assert get_value(config, dotted) == value
    unset = set(all_fields()) - set(preset.values)
    assert all(get_value(config, dotted) == all_fields()[dotted].default for dotted in unset)


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UserError, match='no preset "fast"') as caught:
        apply_preset(TrainingConfig(), "fast")
    assert "quick" in caught.value.hint


def test_configuration_page_is_current() -> None:
    hint = "run python -m trainer.config.docs"
    assert PAGE.read_text(encoding="utf-8") == configuration_page(), hint


def test_tomlkit_keeps_the_comments_of_a_written_file() -> None:
    """A file that was written, and edited by a program, still explains itself."""
    document = tomlkit.parse(format_config(TrainingConfig()))
    document["adapter"]["rank"] = 4  # type: ignore[index]
    text = tomlkit.dumps(document)
    assert parse_config(text).adapter.rank == 4
    assert text.count("#") == format_config(TrainingConfig()).count("#")
