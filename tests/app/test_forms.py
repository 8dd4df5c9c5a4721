"""Form -> configuration -> file -> form is the same form, for every preset and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.forms import (
    Shown,
    explanation,
    field_names,
    form_values,
    kind_of,
    label_of,
    make_component,
    mistakes_by_field,
    preset_values,
    read_form,
    to_plain,
    to_shown,
)
from trainer.config.fields import ConfigField, all_fields, sections
from trainer.config.file import ConfigError, format_config, parse_config, with_values
from trainer.config.presets import PRESETS, apply_preset
from trainer.config.schema import TrainingConfig

FIELDS = list(all_fields().values())

# A value that differs from the default, for the fields where `other_value` finds none.
OTHER: dict[str, Shown] = {
    "base.name": "stabilityai/stable-diffusion-xl-base-1.0",
    "images.path": "police-car",
    "images.background": "#00ff7f",
    "training.ema_decay": 0.99,
    "captions.max_tokens": 300,
    "images.resolutions": "512\n768",
    "adapter.dropout": 0.25,
    "adapter.ranks": "unet.mid_block.* = 8",
    "optimizer.layer_rates": "unet.mid_block.* = 0.5",
    "training.stop_text_encoder_after": 0.5,
}


def other_value(field: ConfigField) -> Shown:
    """What someone may have put into a field instead of its default."""
    if field.name in OTHER:
        return OTHER[field.name]
    shown = to_shown(field, field.default)
    kind = kind_of(field)
    if kind == "switch":
        return not shown
    if kind == "choice":
        return next(choice for choice in field.choices if choice != shown)
    if kind == "whole":
        return "64" if shown == "" else int(shown or 0) + 1
    if kind == "number":
        return "5e-05" if shown == "" else float(shown or 0) * 1.5 or 0.125
    if kind == "lines":
        return 'a red apple, 3d emoji\n""\n\\(parentheses\\) & "quotes" <b>'
    return "größer <&> \"'"


def through_a_file(shown: list[Shown]) -> list[Shown]:
    return form_values(parse_config(format_config(read_form(shown)), "test"))


@pytest.mark.parametrize("name", ["", *PRESETS])
def test_every_preset_comes_back_from_its_file(name: str) -> None:
    config = apply_preset(TrainingConfig(), name) if name else TrainingConfig()
    shown = form_values(config)
    assert read_form(shown) == config
    assert through_a_file(shown) == shown


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_comes_back_from_its_file(field: ConfigField) -> None:
    shown = form_values(TrainingConfig())
    place = FIELDS.index(field)
    assert shown[place] != other_value(field)
    shown[place] = other_value(field)
    if field.name == "adapter.unet":
        assert shown[place] is False
    again = through_a_file(shown)
    assert again == shown
    assert [type(value) for value in again] == [type(value) for value in shown]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_has_a_component_that_shows_it_whole(field: ConfigField) -> None:
    component = make_component(field.name, to_shown(field, field.default))
    assert component.elem_id == f"train-{field.name.replace('.', '-').replace('_', '-')}"
    assert getattr(component, "label", "") == label_of(field.name)
    said = getattr(component, "info", "")
    assert said == explanation(field.name)
    assert said
    # Gradio 6.31 reads it as Markdown that knows no escapes: what is between two stars is slanted.
    assert said.count("*") < 2
    assert not re.search(r"[`\\]|(?<!\w)_.+_(?!\w)", said)
    by_name = [name for name in all_fields() if re.search(rf"(?<![\w.]){re.escape(name)}\b", said)]
    assert by_name == []  # but by their labels
    for shown in (to_shown(field, field.default), other_value(field)):
        assert component.preprocess(component.postprocess(shown)) == shown


def test_a_field_of_a_new_type_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    field = all_fields()["adapter.rank"]
    monkeypatch.setattr(type(field), "types", frozenset({"object"}))
    with pytest.raises(TypeError, match=r"adapter\.rank"):
        kind_of(field)


def test_labels_are_unlike() -> None:
    assert [section.title() for section in sections().values()][:2] == ["Base model", "Pictures"]
    labels = [label_of(name) for name in all_fields()]
    assert sorted(labels) == sorted(set(labels))


def test_a_preset_leaves_the_base_model_that_was_chosen() -> None:
    """An artist's own SDXL file is not exchanged for one that would be downloaded."""
    theirs = {base: "base.name" in preset_values("sdxl-11gb", base) for base in ("my.safetensors",
              "", "tiny-emoji", str(PRESETS["sd1-6gb"].values["base.name"]))}  # fmt: skip
    assert [*theirs.values()] == [False, True, True, True]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_the_components_of_its_fields(name: str) -> None:
    whole = form_values(apply_preset(TrainingConfig(), name))
    assert preset_values(name).items() <= dict(zip(field_names(), whole, strict=True)).items()
    assert set(preset_values(name)) == set(PRESETS[name].values)


def test_what_a_browser_sends_is_taken_as_it_is_meant() -> None:
    rank = all_fields()["adapter.rank"]
    assert to_plain(rank, 8.0) == 8 and isinstance(to_plain(rank, 8.0), int)
    assert to_plain(rank, 8.5) == 8.5  # refused by the configuration, never rounded


def changed(**values: Shown) -> list[Shown]:
    names = list(all_fields())
    shown = form_values(with_values(TrainingConfig(), {"captions.trigger": "ohwx"}))
    for name, value in values.items():
        shown[names.index(name.replace("__", "."))] = value
    return shown


def test_all_mistakes_are_found_at_once_each_at_its_field() -> None:
    shown = changed(
        adapter__rank=8.5,
        adapter__dropout=1.5,
        optimizer__learning_rate="fast",
        optimizer__text_encoder_learning_rate="-1",
        training__steps=None,
        training__batch_size=0,
        images__background="red",
        base__name="",
    )
    with pytest.raises(ConfigError) as caught:
        read_form(shown)
    assert set(mistakes_by_field(caught.value)) == {
        "adapter.rank",
        "adapter.dropout",
        "optimizer.learning_rate",
        "optimizer.text_encoder_learning_rate",
        "training.steps",
        "training.batch_size",
        "images.background",
        "base.name",
    }


def test_a_contradiction_stands_at_both_fields_by_their_labels() -> None:
    with pytest.raises(ConfigError) as caught:
        read_form(changed(adapter__unet=False, adapter__text_encoder=False))
    found = mistakes_by_field(caught.value)
    assert set(found) == {"adapter.unet", "adapter.text_encoder"}
    assert "“Train the UNet”" in found["adapter.unet"]
    assert "adapter." not in found["adapter.unet"]


def test_a_folder_elsewhere_is_kept_and_an_image_set_is_called_by_its_id(tmp_path: Path) -> None:
    field = all_fields()["images.path"]
    assert to_shown(field, tmp_path) == str(tmp_path)
    assert to_plain(field, str(tmp_path)) == tmp_path.as_posix()
    assert to_shown(field, Path("datasets/police-car")) == "police-car"
    assert to_plain(field, "police-car") == "datasets/police-car"
    assert to_plain(field, "") == "."
    for path in (Path("cats"), Path("datasets/gone"), Path("far/datasets/police-car")):
        assert to_plain(field, to_shown(field, path)) == path.as_posix()


CONCEPTS = """police-car | ohwx | car | 2
teddy-and-peacock | sks | toy | | 0.5
datasets/elsewhere | xyz | |"""


def test_several_subjects_come_back_from_their_file() -> None:
    shown = [*form_values(TrainingConfig())[:-1], CONCEPTS]
    config = read_form(shown)
    assert [concept.trigger for concept in config.concepts] == ["ohwx", "sks", "xyz"]
    assert [concept.repeats for concept in config.concepts] == [2, 1, 1]
    assert [concept.loss_weight for concept in config.concepts] == [1, 0.5, 1]
    assert config.concepts[0].path == Path("datasets/police-car")
    again = through_a_file(shown)
    assert read_form(again) == config
    assert through_a_file(again) == again


def test_mistakes_of_subjects_stand_at_their_field() -> None:
    shown = [*form_values(TrainingConfig())[:-1], "police-car | | car\nflat-paper | b | | many"]
    with pytest.raises(ConfigError) as caught:
        read_form(shown)
    found = mistakes_by_field(caught.value)
    assert list(found) == ["concepts"]
    assert "ine 1, trigger" in found["concepts"]
