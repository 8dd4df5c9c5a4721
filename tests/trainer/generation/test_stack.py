"""Several adapters on one base: what it gives depends on what is set, not on what was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from tests.trainer.lora.conftest import BaseOf
from tests.trainer.lora.helpers import all_equal, equal, outputs, random_adapter, random_tensor
from trainer.diffusion import encode
from trainer.errors import UserError
from trainer.generation.stack import AdapterStack, AdapterUse
from trainer.lora.attach import attached, detach, disabled, set_strength
from trainer.lora.changes import compare
from trainer.lora.layers import find_targets
from trainer.lora.layouts import bundled_embeddings
from trainer.lora.loading import collect, load_into
from trainer.lora.reading import read_adapter
from trainer.lora.writing import write_adapter
from trainer.models.base import BaseModel

FAMILIES = ("sd1", "sd2", "sdxl")


def write(base: BaseModel, path: Path, seed: int) -> Path:
    scales = {key: (2 + seed % 3, 1.5) for key in find_targets(base)}
    write_adapter(random_adapter(base, scales, seed), path, precision="fp32")
    return path


@pytest.fixture
def files(base_of: BaseOf, tmp_path: Path) -> dict[str, Path]:
    return {name: write(base_of("sd1"), tmp_path / name, seed) for seed, name in enumerate("abc")}


def choices(files: dict[str, Path], text: str) -> list[AdapterUse]:
    return [AdapterUse(files[name], 0.7 + 0.1 * place) for place, name in enumerate(text)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_has_its_own_strength(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    base = base_of(family)
    stack, file = AdapterStack(base), write(base, tmp_path / "a", 0)
    plain = outputs(base)
    stack.set([AdapterUse(file, 0.5)])
    both = outputs(base)
    stack.set([AdapterUse(file, 0.5, 0.0)])
    unet = outputs(base)
    assert equal(unet, plain) == {part: part != "unet" for part in plain}
    assert equal(unet, both) == {part: part == "unet" for part in plain}
    stack.set([AdapterUse(file, 0.0, 0.5)])
    assert equal(outputs(base), both) == {part: part != "unet" for part in plain}
    stack.set([AdapterUse(file, 0.0)])
    assert all_equal(outputs(base), plain)


@pytest.mark.parametrize(
    ("history", "last"),
    [
        *((["a", "ab", "abc"], "abc"), (["abc", "cb"], "acb"), (["ab"], "ba"), (["b"], "ab")),
        *((["abc"], last) for last in ("bc", "ac", "c", "")),
        *((["aa"], "a"), (["a"], "aa")),
    ],
)
def test_only_what_is_set_counts(
    base_of: BaseOf, files: dict[str, Path], history: list[str], last: str
) -> None:
    base = base_of("sd1")
    fresh = AdapterStack(base)
    fresh.set(choices(files, last))
    expected = outputs(base)
    fresh.clear()
    assert not attached(base)
    stack = AdapterStack(base)
    for text in history:
        stack.set(choices(files, text))
    stack.set(choices(files, last))
    assert len(last) == len(attached(base))
    assert all_equal(outputs(base), expected)
    stack.clear()


def test_what_stays_is_not_read_again(
    base_of: BaseOf, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of("sd1")
    stack = AdapterStack(base)
    stack.set(choices(files, "abc"))
    with monkeypatch.context() as patched:
        patched.setattr("trainer.generation.stack.read_any_adapter", None)
        stack.set(choices(files, "bc"))
        stack.set([AdapterUse(files["b"], 0.1), AdapterUse(files["c"], -2, 0)])
    write(base, files["b"], seed=7)
    stack.set(choices(files, "bc"))
    replaced = outputs(base)
    stack.clear()
    stack.set(choices(files, "bc"))
    assert all_equal(outputs(base), replaced)
    stack.clear()


@pytest.mark.parametrize("wrong", ["strength", "missing", "family"])
def test_a_mistake_changes_nothing(
    base_of: BaseOf, files: dict[str, Path], tmp_path: Path, wrong: str
) -> None:
    base = base_of("sd1")
    stack = AdapterStack(base)
    stack.set(choices(files, "ab"))
    before = outputs(base)
    choice = {
        "strength": AdapterUse(files["a"], float("nan")),
        "missing": AdapterUse(tmp_path / "none"),
        "family": AdapterUse(write(base_of("sdxl"), tmp_path / "xl", 0)),
    }[wrong]
    with pytest.raises(UserError):
        stack.set([AdapterUse(files["c"]), choice])
    assert all_equal(outputs(base), before)
    stack.set(choices(files, "ab"))
    assert all_equal(outputs(base), before)
    stack.clear()


def test_a_stack_is_the_adapters_one_by_one(base_of: BaseOf, files: dict[str, Path]) -> None:
    base = base_of("sd1")
    for choice in choices(files, "ca"):
        load_into(base, read_adapter(choice.file), choice.file.name, choice.strength)
    expected = outputs(base)
    detach(base)
    AdapterStack(base).set(choices(files, "ca"))
    assert all_equal(outputs(base), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0, None)),
        ("a.safetensors:0.5", ("a.safetensors", 0.5, None)),
        ("a.safetensors:0.5:0", ("a.safetensors", 0.5, 0.0)),
        ("a.safetensors:-1", ("a.safetensors", -1.0, None)),
        ("a:0.1:0.2:0.3", ("a:0.1", 0.2, 0.3)),
        ("C:/x/a.safetensors", ("C:/x/a.safetensors", 1.0, None)),
        ("C:/x/a.safetensors:0.25", ("C:/x/a.safetensors", 0.25, None)),
        ("C:/x/a.safetensors:0.25:1", ("C:/x/a.safetensors", 0.25, 1.0)),
        (":1", (":1", 1.0, None)),
    ],
)
def test_choices_on_the_command_line(text: str, expected: tuple[str, float, float | None]) -> None:
    assert AdapterUse.parse(text) == AdapterUse(Path(expected[0]), *expected[1:])


def test_a_file_whose_name_ends_in_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a:0.5"
    path.touch()
    assert AdapterUse.parse(str(path)) == AdapterUse(path)
    assert AdapterUse.parse(f"{path}:2") == AdapterUse(path, 2.0)


# -- embeddings that are bundled with an adapter


def with_embeddings(base: BaseModel, path: Path, words: dict[str, int]) -> Path:
    """An adapter of the UNet with learned vectors, so many for each word."""
    keys = [key for key in find_targets(base) if key.part == "unet"]
    adapter = random_adapter(base, dict.fromkeys(keys, (2, 1.0)))
    names = ("clip_l", "clip_g") if base.family.name == "sdxl" else ("string_to_param.*",)
    embeddings = {
        word: {
            name: random_tensor(seed, count, encoder.config.hidden_size)
            for name, encoder in zip(names, base.text_encoders, strict=True)
        }
        for seed, (word, count) in enumerate(words.items(), start=40)
    }
    write_adapter(replace(adapter, embeddings=embeddings), path, precision="fp32")
    return path


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_bundled_embeddings_stand_for_their_words(
    base_of: BaseOf, tmp_path: Path, family: str
) -> None:
    """As if the word's own tokens had these vectors; without the word nothing changes."""
    base = base_of(family)
    prompts = ["a photo of fox1", "a photo, fox12", "a fox2, fox1"]
    plain = encode(base, [*prompts, "a photo of cat, a red dog"], "cpu")
    file = with_embeddings(base, tmp_path / "a", {"fox1": 1, "<fox-2>": 3})
    stack = AdapterStack(base)
    stack.set([AdapterUse(file)])
    found = encode(base, prompts, "cpu")
    assert [torch.equal(one, other) for one, other in zip(found.hidden, plain.hidden, strict=False)
            ] == [False, True, False]  # fmt: skip
    # The same in any case, and with ComfyUI's mark before it.
    for text in ("a photo of FOX1", "a photo of embedding:fox1"):
        assert torch.equal(encode(base, [text], "cpu").hidden[0], found.hidden[0])
    # One vector, in the vocabulary instead.
    learned, ids, kept = base.embeddings["fox1"], [], []
    tables = [cast(Tensor, encoder.get_input_embeddings().weight) for encoder in base.text_encoders]
    for tokenizer, table, vectors in zip(base.tokenizers, tables, learned, strict=True):
        ids += tokenizer("cat", add_special_tokens=False)["input_ids"]
        kept.append(table[ids[-1]].clone())
        table[ids[-1]] = vectors[0]
    expected = encode(base, ["a photo of cat"], "cpu")
    for table, number, vector in zip(tables, ids, kept, strict=True):
        table[number] = vector
    torch.testing.assert_close(expected.hidden[0], found.hidden[0])
    if expected.pooled is not None and found.pooled is not None:
        torch.testing.assert_close(expected.pooled[0], found.pooled[0])
    long = "a <fox-2> " * 40  # of 160 tokens
    assert encode(base, [long], "cpu").hidden.shape[1] == 3 * 77
    stack.clear()


def test_embeddings_go_with_their_adapter(base_of: BaseOf, tmp_path: Path) -> None:
    base = base_of("sd1")
    file, stack = with_embeddings(base, tmp_path / "a", {"fox1": 2}), AdapterStack(base)
    plain = encode(base, ["a fox1"], "cpu").hidden
    for choices_, same in (
        ([AdapterUse(file, 0.0)], True),
        ([AdapterUse(file, 0.0, 1.0)], False),
        ([AdapterUse(file, 0.5)], False),
        ([], True),
    ):
        stack.set(choices_)
        assert torch.equal(encode(base, ["a fox1"], "cpu").hidden, plain) == same


@torch.no_grad()
def test_whoever_loads_an_adapter_has_its_embeddings(base_of: BaseOf, tmp_path: Path) -> None:
    """As the meters do, `adapter tune` and `adapter together`; words are found as in captions."""
    base = base_of("sd1")
    adapter = read_adapter(with_embeddings(base, tmp_path / "a", {"fox1": 2}))

    def features() -> list[Tensor]:
        return list(encode(base, ["a fox1", "a FOX1_dog", "a fox12"], "cpu").hidden)

    def same(others: list[Tensor]) -> list[bool]:
        return [torch.equal(*pair) for pair in zip(features(), others, strict=True)]

    plain = features()
    load_into(base, adapter, "it", 0.5)
    assert same(plain) == [False, False, True]
    with disabled(base):
        assert same(plain) == [True] * 3
    loaded = features()
    set_strength(base, "it", 0.0)
    assert same(plain) == [True] * 3
    set_strength(base, "it", 1.0)
    assert same(loaded) == [True] * 3
    assert compare(adapter, replace(collect(base, "it"), precision="fp32")).worst < 1e-6
    detach(base, "it")
    assert same(plain) == [True] * 3


def test_output_vectors_are_named() -> None:
    names = ["bundle_emb.a.clip_l", "bundle_emb.a.clip_l_out", "bundle_emb.b.clip_l", "x.alpha"]
    assert bundled_embeddings(names) == ["a (without its output vectors)", "b"]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"clip_l": torch.ones(2, 7)}, "clip_l 2 x 7"),
        ({"clip_g": torch.ones(2, 1280)}, "clip_g 2 x 1280"),
        ({"clip_l_out": torch.ones(16)}, "clip_l_out 16"),
    ],
)
def test_an_embedding_for_another_base_is_refused(
    base_of: BaseOf, tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    base, path = base_of("sd1"), tmp_path / "a"
    adapter = random_adapter(base, dict.fromkeys(find_targets(base), (2, 1.0)))
    write_adapter(replace(adapter, embeddings={"fox1": tensors}), path)
    stack, before = AdapterStack(base), outputs(base)
    with pytest.raises(UserError, match=f"embedding, fox1, that does not fit .*{words}"):
        stack.set([AdapterUse(path)])
    assert all_equal(outputs(base), before) and attached(base) == []
