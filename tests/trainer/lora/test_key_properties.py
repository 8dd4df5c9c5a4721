"""Names of tensors, whatever they are: understood in one way, or not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.lora.layouts import parse_tensor_name
from trainer.lora.names import ModuleKey, from_sgm, kohya_name, parse_kohya_name, to_sgm

PIECES = (
    "lora_unet", "lora_te", "lora_te1", "lora_te2", "unet", "text_encoder", "base_model.model",
    "_", ".", "down_blocks", "mid_block", "input_blocks", "0", "1", "12", "attentions", "resnets",
    "to_q", "to_out", "conv_shortcut", "lora_down.weight", "lora_A.weight", "alpha", "dora_scale",
    "lora_magnitude_vector", "processor", "\0", "é", "",
)  # fmt: skip
NAMES = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
NUMBERS = st.integers(0, 9)


@given(NAMES)
def test_any_name_is_parsed_or_not(name: str) -> None:
    parsed = parse_tensor_name(name)
    if parsed is not None:
        assert parsed.key.path
        assert parsed == parse_tensor_name(name)
    parse_kohya_name(name)
    path = from_sgm(name)
    assert path is None or path


@given(
    st.sampled_from(["down_blocks", "up_blocks"]),
    st.sampled_from(["attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"]),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
def test_paths_come_back_from_kohya_names(side: str, end: str, a: int, b: int, c: int) -> None:
    path = f"{side}.{a}.attentions.{b}.transformer_blocks.{c}.{end}"
    assert parse_kohya_name(kohya_name("sdxl", ModuleKey("unet", path))) == ModuleKey("unet", path)


@given(st.integers(0, 2), st.integers(0, 2), st.sampled_from(["conv1", "conv2", "time_emb_proj"]))
def test_paths_come_back_from_block_names(level: int, place: int, end: str) -> None:
    path = f"up_blocks.{level}.resnets.{place}.{end}"
    name = to_sgm("sdxl", path)
    assert name is not None
    assert from_sgm(name) == path
