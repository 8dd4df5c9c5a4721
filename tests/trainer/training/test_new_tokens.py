"""Pivotal tuning: new tokens that learn beside the adapter, and stand for the trigger word."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Embedding

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import make_images, never, session_for, small_config, train_small
from trainer.diffusion import encode
from trainer.generation.stack import AdapterStack, AdapterUse
from trainer.lora.adapter import Adapter
from trainer.lora.attach import disabled
from trainer.lora.changes import compare
from trainer.lora.loading import collect
from trainer.lora.reading import read_adapter
from trainer.lora.verify import verify_file
from trainer.lora.words import new_words, write_embeddings
from trainer.models.base import BaseModel
from trainer.models.load import load_base
from trainer.models.text import token_ids
from trainer.training.checkpoints import read_checkpoint_adapter
from trainer.training.export import export_adapter, keep_adapter
from trainer.training.session import Session
from trainer.training.step import training_step

PROMPTS = ("a photo of ohwx thing", "OHWX_thing", "a photo of a thing, ohwxs")
"""The first two name the trigger word, as `contains_word` reads captions."""


def features(base: BaseModel) -> list[Tensor]:
    with torch.no_grad():
        return list(encode(base, PROMPTS, "cpu").hidden)


def tables(base: BaseModel) -> list[Tensor]:
    return [cast(Embedding, one.get_input_embeddings()).weight for one in base.text_encoders]


def session_with(base: Path, place: Path, **changes: Any) -> Session:
    changes = {"adapter__new_tokens": 3, **changes}
    return session_for(base, make_images(place / "images"), place / "run", **changes)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_they_begin_as_the_class_word(tiny_base: TinyBase, family: str) -> None:
    base = load_base(str(tiny_base(family)))
    words = new_words(base, {"ohwx": "red thing", "<bnha>": ""}, 3, None)
    for tokenizer, table, *found in zip(
        base.tokenizers, tables(base), *words.values(), strict=True
    ):
        red, thing, own = (token_ids(tokenizer, word) for word in ("red", "thing", "<bnha>"))
        assert torch.equal(found[0], table[[*red, *red, *thing]])
        assert torch.equal(found[1], table[[own[row * len(own) // 3] for row in range(3)]])
    assert not new_words(base, {"ohwx": "thing"}, 0, None)
    assert not new_words(base, {"": "thing"}, 3, None)


def test_each_word_has_a_file_of_its_own(tmp_path: Path) -> None:
    words = {
        word: {"clip_l": torch.full((1, 2), value)} for word, value in (("a b", 1.0), ("a-b", 2.0))
    }
    files = write_embeddings(Adapter({}, embeddings=words), tmp_path / "new", "fp32")
    assert [file.name for file in files] == ["a-b.safetensors", "a-b-2.safetensors"]
    assert [float(load_file(file)["emb_params"][0, 0]) for file in files] == [1.0, 2.0]


@pytest.mark.parametrize(("family", "text_encoder"), [("sd1", False), ("sdxl", True)])
def test_only_prompts_with_the_trigger_word_see_them(
    tiny_base: TinyBase, tmp_path: Path, family: str, text_encoder: bool
) -> None:
    session = session_with(tiny_base(family), tmp_path, adapter__text_encoder=text_encoder)
    base = session.base
    plain = features(load_base(str(tiny_base(family))))
    before = {name: one.detach().clone() for name, one in session.parameters.items()}
    training_step(session, never)
    vectors = [name for name in before if name.endswith("ohwx.new_tokens")]
    assert len(vectors) == len(base.text_encoders)
    assert not any(torch.equal(before[name], session.parameters[name]) for name in vectors)
    base.unet.eval()
    found = [torch.equal(*pair) for pair in zip(features(base), plain, strict=True)]
    assert found == [False, False, not text_encoder]
    with disabled(base):
        assert all(torch.equal(*pair) for pair in zip(features(base), plain, strict=True))
    teacher = session.text.teacher(PROMPTS).hidden
    assert all(torch.equal(*pair) for pair in zip(teacher, plain, strict=True))


def test_the_share_of_the_run_that_trains_text_holds_for_them(
    tiny_base: TinyBase, tmp_path: Path
) -> None:
    """Whether or not the text encoder's own adapter trains."""
    session = session_with(
        tiny_base("sd1"), tmp_path,
        adapter__text_encoder=False, training__stop_text_encoder_after=0.25,
    )  # fmt: skip
    kept: list[Tensor] = []
    for _ in range(2):
        training_step(session, never)
        kept.append(session.attachment.words["ohwx"][0].detach().clone())
    assert torch.equal(*kept)


@pytest.mark.parametrize(
    ("family", "names", "averages"),
    [("sd1", ["clip_l"], {"training__ema_decay": 0.5}), ("sdxl", ["clip_g", "clip_l"], {})],
)
def test_what_is_written_is_what_was_trained(
    tiny_base: TinyBase, tmp_path: Path, family: str, names: list[str], averages: dict[str, Any]
) -> None:
    """Bundled with the adapter, as an embedding, and in what is left of each step."""
    folder = tiny_base(family)
    session = session_with(folder, tmp_path, captions__trigger="<oh wx>", **averages)
    training_step(session, never)
    exported = export_adapter(session, session.run.adapter)
    assert exported.exact
    assert "the vectors of <oh wx> to within" in exported.summary
    assert "oh-wx.safetensors" in exported.summary
    with session.averaged():
        live = collect(session.base)
        session.base.unet.eval()
        prompts = ["a photo of <oh wx>, red"]
        with torch.no_grad():
            expected = encode(session.base, prompts, "cpu").hidden
    saved = read_adapter(session.run.adapter)
    assert sorted(saved.embeddings["<oh wx>"]) == names
    assert verify_file(session.run.adapter, load_base(str(folder))).embeddings == ("<oh wx>",)
    for path in (session.run.adapter, session.run.adapter_at(1)):
        keep_adapter(session, path)
        assert compare(live, read_adapter(path)).exact
    alone = load_file(session.run.embeddings / "oh-wx.safetensors")
    bundled = saved.embeddings["<oh wx>"]
    assert sorted(alone) == (names if len(names) > 1 else ["emb_params"])
    pairs = zip(sorted(alone.items()), sorted(bundled.items()), strict=True)
    assert all(torch.equal(one[1], other[1]) for one, other in pairs)
    stack = AdapterStack(load_base(str(folder)))
    stack.set([AdapterUse(session.run.adapter)])
    with torch.no_grad():
        found = encode(stack.base, prompts, "cpu").hidden
    torch.testing.assert_close(found, expected)


def test_diffusers_loads_the_embedding(tiny_base: TinyBase, tmp_path: Path) -> None:
    session = session_with(tiny_base("sdxl"), tmp_path, adapter__text_encoder=False)
    training_step(session, never)
    export_adapter(session, session.run.adapter)
    ours = encode(session.base, PROMPTS[:1], "cpu")
    alone = load_file(session.run.embeddings / "ohwx.safetensors")
    pipeline = load_base(str(tiny_base("sdxl"))).pipeline()
    load = cast(Any, pipeline).load_textual_inversion
    encoders = (
        ("clip_l", "text_encoder", "tokenizer"),
        ("clip_g", "text_encoder_2", "tokenizer_2"),
    )
    for name, encoder, tokenizer in encoders:
        given = {"text_encoder": getattr(pipeline, encoder)}
        load({"ohwx": alone[name]}, **given, tokenizer=getattr(pipeline, tokenizer))
    theirs = cast(Any, pipeline).encode_prompt(PROMPTS[0], do_classifier_free_guidance=False)
    torch.testing.assert_close(theirs[0], ours.hidden)


def test_a_checkpoint_is_an_adapter_with_them(tiny_base: TinyBase, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    config = small_config(
        tiny_base("sd1"), images,
        adapter__new_tokens=1, training__ema_decay=0.5, training__steps=2, checkpoints__every=2,
    )  # fmt: skip
    result, _ = train_small(config, tmp_path / "run")
    checkpoint = read_checkpoint_adapter(result.run.checkpoint(2))
    assert compare(checkpoint, read_adapter(result.run.adapter)).exact


@pytest.mark.parametrize("trigger", ["ohwx", "bnha"])
def test_a_training_goes_on_from_them(tiny_base: TinyBase, tmp_path: Path, trigger: str) -> None:
    """Those of a file are taken over, whatever the settings say; others get new ones."""
    first = session_with(tiny_base("sd1"), tmp_path)
    training_step(first, never)
    export_adapter(first, first.run.adapter)
    session = session_for(
        tiny_base("sd1"), tmp_path / "images", tmp_path / "on",
        adapter__start_from=str(first.run.adapter), captions__trigger=trigger,
    )  # fmt: skip
    assert list(session.attachment.words) == list(dict.fromkeys(["ohwx", trigger]))
    assert torch.equal(session.attachment.words["ohwx"][0], first.attachment.words["ohwx"][0])
    assert session.config.adapter.new_tokens == 3
    assert session.trains_text


@pytest.mark.parametrize("lost", ["the word", "a vector", "a number"])
def test_vectors_that_are_not_written_are_noticed(
    tiny_base: TinyBase, tmp_path: Path, lost: str
) -> None:
    adapter = collect(session_with(tiny_base("sd1"), tmp_path).base)
    vectors = adapter.embeddings["ohwx"]["clip_l"]
    other = {"a vector": vectors[:2], "a number": vectors * 1.01}.get(lost)
    words = {} if other is None else {"ohwx": {"clip_l": other}}
    report = compare(adapter, Adapter(adapter.layers, embeddings=words))
    assert not report.exact and "not the vectors of ohwx" in report.summary()
