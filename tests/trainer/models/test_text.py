"""Text conditioning equals what diffusers' own pipelines compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES, TinyName
from trainer import diffusion
from trainer.memory.layers import lean_layers
from trainer.models import text
from trainer.models.load import BaseModel, load_base

LONG = " ".join(["tree"] * 76)
PROMPTS = ["a photo of a sks dog!", "", "naïve café №5 — 東京 🐸", " ".join(["tree"] * 75)]


@pytest.fixture(scope="module")
def loaded(tiny_base: TinyBase) -> Any:
    """Gives a loaded tiny base; each is loaded once."""
    known: dict[str, BaseModel] = {}

    def load(name: str) -> BaseModel:
        if name not in known:
            known[name] = load_base(str(tiny_base(name)))
        return known[name]

    return load


def encode_with_diffusers(base: BaseModel, prompts: list[str]) -> tuple[Any, ...]:
    pipeline: Any = base.pipeline()
    return pipeline.encode_prompt(
        prompt=prompts,
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )


@pytest.mark.parametrize("name", TINY_NAMES)
def test_encoding_equals_the_pipelines(name: TinyName, loaded: Any) -> None:
    base: BaseModel = loaded(name)
    found = diffusion.encode(base, PROMPTS, "cpu")
    expected = encode_with_diffusers(base, PROMPTS)
    assert found.hidden.shape == (len(PROMPTS), 77, base.unet.config["cross_attention_dim"])
    assert torch.equal(found.hidden, expected[0])
    if name == "sdxl":
        assert found.pooled is not None
        assert torch.equal(found.pooled, expected[2])
    else:
        assert found.pooled is None


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_number_format_is_the_encoders(name: str, tiny_base: TinyBase) -> None:
    base = load_base(str(tiny_base(name)), dtype=torch.bfloat16)
    found = diffusion.encode(base, ["a dog"], "cpu")
    expected = encode_with_diffusers(base, ["a dog"])
    assert found.hidden.dtype == torch.bfloat16
    assert torch.equal(found.hidden, expected[0])


@pytest.mark.parametrize("name", TINY_NAMES)
def test_gradients_reach_every_used_layer_of_every_text_encoder(
    name: TinyName, tiny_base: TinyBase
) -> None:
    base = load_base(str(tiny_base(name)))
    for encoder in base.text_encoders:
        encoder.requires_grad_(True)
    found = diffusion.encode(base, ["a sks dog"], "cpu")
    outputs = [found.hidden] if found.pooled is None else [found.hidden, found.pooled]
    sum(output.square().sum() for output in outputs).backward()  # type: ignore[union-attr]
    without = {
        f"{number}.{key}"
        for number, encoder in enumerate(base.text_encoders)
        for key, parameter in encoder.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    # A key bias shifts all scores of a query alike; SDXL's first encoder stops before its last
    # layer and final norm.
    skipped = ("0.encoder.layers.1.", "0.final_layer_norm") if name == "sdxl" else ()
    assert not [key for key in without if "k_proj.bias" not in key and not key.startswith(skipped)]


def test_nothing_is_recorded_when_nothing_is_trained(loaded: Any) -> None:
    assert not diffusion.encode(loaded("sd1"), ["a dog"], "cpu").hidden.requires_grad


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("prompt", "count"),
    [("", 0), ("sks", 1), ("a sks dog", 3), ("2024", 4), ("xxy5syt00", 7), (LONG, 76)],
)
def test_tokens_are_counted_without_start_and_end(
    name: str, prompt: str, count: int, loaded: Any
) -> None:
    base: BaseModel = loaded(name)
    assert text.count_tokens(base.tokenizers, prompt) == count
    assert text.count_chunks(base.tokenizers, prompt) == (1 if count <= 75 else 2)


@pytest.mark.parametrize("name", TINY_NAMES)
def test_each_chunk_is_encoded_as_a_prompt_of_its_own(name: TinyName, loaded: Any) -> None:
    base: BaseModel = loaded(name)
    parts = [" ".join([word] * count) for word, count in (("tree", 75), ("dog", 75), ("red", 9))]
    found = diffusion.encode(base, [" ".join(parts), "a dog"], "cpu")
    expected = encode_with_diffusers(base, parts)
    assert found.lengths == (3 * 77, 77)
    torch.testing.assert_close(found.hidden[0], expected[0].flatten(0, 1))
    assert not found.hidden[1, 77:].any()
    if found.pooled is not None:
        torch.testing.assert_close(found.pooled[0], expected[2][0])


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "lengths"),
    [
        ("", None, [0]),
        (" ".join(["tree"] * 75), None, [75]),
        (LONG, None, [75, 1]),
        (LONG, 75, [75]),
        (" ".join(["tree"] * 400), 225, [75, 75, 75]),
        # A word of three tokens begins the next chunk, but not where nothing more is read.
        (" ".join([*["tree"] * 73, "ohwxman", "dog"]), None, [73, 4]),
        (" ".join([*["tree"] * 73, "ohwxman", "dog"]), 75, [75]),
        (" ".join([*["tree"] * 74, "learned", "ohwxman"]), None, [75, 3]),
        ("xxy5syt00" * 30, None, [75, 75, 60]),
    ],
)
def test_where_chunks_end(
    prompt: str, max_tokens: int | None, lengths: list[int], loaded: Any
) -> None:
    (tokenizer,) = loaded("sd1").tokenizers
    places = {"learned": [-1]}
    chunks = text.token_chunks(tokenizer, prompt, max_tokens, places)
    assert [len(chunk) for chunk in chunks] == lengths
    ids = text.with_embeddings(tokenizer, prompt, places)
    assert [number for chunk in chunks for number in chunk] == ids[: sum(lengths)]


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_what_a_prompt_means_does_not_depend_on_its_batch(
    name: TinyName, lean: bool, tiny_base: TinyBase
) -> None:
    base = load_base(str(tiny_base(name)))
    if lean:
        lean_layers(base.unet)
    prompts = ("a dog", LONG, "a cat", " ".join(["tree"] * 160))
    points = diffusion.Points(
        prompts, torch.randn(4, 4, 8, 8), torch.full((4,), 500), (((64, 64), (0, 0), (64, 64)),) * 4
    )
    together = diffusion.encode(base, prompts, "cpu")
    with torch.no_grad():
        found = diffusion.call_unet(base, points, together)
        for row, prompt in enumerate(prompts):
            alone = diffusion.encode(base, [prompt], "cpu")
            assert torch.equal(together[[row]].hidden, alone.hidden)
            expected = diffusion.call_unet(base, points[[row]], alone)
            torch.testing.assert_close(found[[row]], expected, rtol=1e-4, atol=1e-5)


def test_size_conditioning_equals_the_pipelines(loaded: Any) -> None:
    base: BaseModel = loaded("sdxl")
    pipeline: Any = base.pipeline()
    seen: list[dict[str, torch.Tensor]] = []
    hook = base.unet.register_forward_pre_hook(
        lambda _module, _arguments, options: seen.append(options["added_cond_kwargs"]),
        with_kwargs=True,
    )
    sizes: dict[str, Any] = {
        "original_size": (40, 64),
        "crops_coords_top_left": (3, 5),
        "target_size": (32, 48),
    }
    pipeline("a dog", height=32, width=48, num_inference_steps=1, guidance_scale=1.0, **sizes)
    hook.remove()
    pooled = diffusion.encode(base, ["a dog"], "cpu").pooled
    found = diffusion.added_conditioning(pooled, [tuple(sizes.values())])
    assert found is not None
    assert found.keys() == seen[0].keys()
    for key, value in found.items():
        assert torch.equal(value, seen[0][key])
        assert value.dtype == seen[0][key].dtype


def test_size_conditioning_has_a_row_for_each_picture_and_keeps_odd_sizes(
    tiny_base: TinyBase,
) -> None:
    base = load_base(str(tiny_base("sdxl")), dtype=torch.bfloat16)
    pooled = diffusion.encode(base, ["a", "b"], "cpu").pooled
    found = diffusion.added_conditioning(
        pooled, [((1023, 1025), (0, 1), (64, 32)), ((7, 9), (2, 3), (32, 64))]
    )
    assert found is not None
    assert found["time_ids"].tolist() == [[1023, 1025, 0, 1, 64, 32], [7, 9, 2, 3, 32, 64]]
    latents = torch.zeros(2, 4, 16, 16, dtype=torch.bfloat16)
    hidden = diffusion.encode(base, ["a", "b"], "cpu").hidden
    output = base.unet(latents, 5, hidden, added_cond_kwargs=found).sample
    assert output.dtype == torch.bfloat16
    assert diffusion.added_conditioning(None, [((1, 1), (0, 0), (1, 1))]) is None  # SD 1 and SD 2
