"""Strings that break programs, as captions, trigger words, class words and names of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.corpus.names import NAUGHTY
from trainer.config.file import ConfigError, read_config, validate, write_config
from trainer.config.schema import CaptionsConfig, TrainingConfig
from trainer.data.captions import clean_caption, compose_caption, contains_word, decode_caption
from trainer.models.load import load_base
from trainer.models.text import count_chunks
from trainer.runs.layout import create_run, open_run

LONGEST = CaptionsConfig.model_fields["trigger"].metadata[0].max_length


@pytest.mark.parametrize("text", NAUGHTY)
def test_as_a_caption(text: str) -> None:
    """What is trained is one line, and with the trigger word the trigger is in it."""
    data = text.encode("utf-8", "surrogateescape")
    caption = decode_caption(data)
    assert caption == caption.strip()
    words = CaptionsConfig(trigger="ohwx", class_word="thing", dropout=0.0)
    composed = compose_caption(caption, words, seed=1, step=1, image_id="x")
    assert contains_word(composed, "ohwx")
    assert "\n" not in composed


@pytest.mark.parametrize("text", NAUGHTY)
def test_as_trigger_and_class_word(text: str, tmp_path: Path) -> None:
    """It is taken, survives the file, and is in every caption; or it is refused by its field."""
    values = {"captions": {"trigger": text, "class_word": text}}
    try:
        config = validate(values)
        write_config(tmp_path / "config.toml", config)
    except ConfigError as refusal:
        assert {mistake.field for mistake in refusal.mistakes} <= {
            "captions.trigger",
            "captions.class_word",
        }
        assert len(text) > LONGEST or not text.isprintable()
        return
    assert read_config(tmp_path / "config.toml") == config
    composed = compose_caption("a photo", config.captions, seed=1, step=1, image_id="x")
    assert contains_word(composed, clean_caption(text)) or not clean_caption(text)


@pytest.mark.parametrize("text", NAUGHTY)
def test_as_the_name_of_a_run(text: str, tmp_path: Path) -> None:
    """A folder of one plain name right below the others, which is found again."""
    first, second = (create_run(tmp_path / "runs", text) for _ in range(2))
    assert first.path.parent == second.path.parent == tmp_path / "runs"
    assert first.path != second.path
    write_config(first.config, TrainingConfig())
    assert open_run(tmp_path / "runs" / first.name).path == first.path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_the_text_encoder_takes_them_all(tiny_base: TinyBase) -> None:
    base = load_base(str(tiny_base("sd1")))
    for text in NAUGHTY:
        caption = decode_caption(text.encode("utf-8", "surrogateescape"))
        assert count_chunks(base.tokenizers, caption) >= 1
