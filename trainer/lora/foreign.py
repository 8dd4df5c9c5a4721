"""Files that are no adapter for SD 1, SD 2 or SDXL, by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence

_START = r"^(?:lora_unet_|lora_transformer_|transformer\.|diffusion_model\.|base_model\.model\.)*"
# What is closest to the point comes first: the first mark that any name bears names the file.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"motion_modules|motion_module|temporal_transformer\.", "an AnimateDiff motion module"),
    (r"temporal_transformer_blocks|temporal_res_block", "an adapter for Stable Video Diffusion"),
    (r"controlnet|^control_model\.|zero_convs|input_hint_block|lllite", "a ControlNet"),
    (r"^(?:image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"^(?:adapter\.)?body\.\d+\.", "a T2I-Adapter"),
    (r"^\d{3,4}\.\d\.|^\d{3,4}\.linear|layer_structure", "a hypernetwork"),
    (r"^emb_params$|^clip_[gl]$|string_to_param|^<[^<>]+>$", "a textual-inversion embedding"),
    (r"\.on_input$|\.ia3_l", "an IA3 adapter, which scales layers and adds nothing to them"),
    (r"\.oft_[RS]\b|\.boft_", "OFT in PEFT's form"),
    (r"\.vera_lambda|\.lora_xs|\.randlora", "VeRA or another of PEFT's kinds"),
    (r"distilled_guidance_layer", "an adapter for Chroma"),
    (r"double_stream_blocks|single_stream_blocks", "an adapter for HiDream"),
    (r"joint_transformer_blocks", "an adapter for AuraFlow"),
    (r"individual_token_refiner", "an adapter for HunyuanVideo"),
    (
        r"(?:double|single)_blocks|single_transformer_blocks",
        "an adapter for Flux, or HunyuanVideo, whose blocks have the same names",
    ),
    (r"joint_blocks|(?:norm1|ff)_context|context_block", "an adapter for Stable Diffusion 3"),
    (rf"{_START}transformer_blocks[._]\d+[._](?:img|txt)_", "an adapter for Qwen-Image"),
    (r"^lora_unet_transformer_blocks_\d+_attn_", "an adapter for Qwen-Image"),
    (
        rf"{_START}transformer_blocks[._]\d+[._]attn[._]",
        "an adapter for Stable Diffusion 3, Qwen-Image or another transformer",
    ),
    (
        r"noise_refiner|context_refiner|"
        rf"{_START}layers[._]\d+[._](?:attention|feed_forward|adaLN)",
        "an adapter for Lumina or Z-Image",
    ),
    (rf"{_START}blocks[._]\d+[._](?:self_attn|cross_attn|ffn)[._]", "an adapter for Wan"),
    (rf"{_START}blocks[._]\d+[._]attn[12][._]", "an adapter for Hunyuan-DiT"),
    (
        rf"adaln_single|caption_projection|{_START}transformer_blocks[._]\d+[._](?:attn[12]|ff)",
        "an adapter for PixArt, or a transformer with its names (Sana, LTX, CogVideoX)",
    ),
    (
        r"^lora_prior_|^prior\.|"
        r"(?:down|up)_blocks[._]\d+[._]\d+[._](?:attention|channelwise|depthwise|kv_mapper|mapper)",
        "an adapter for Stable Cascade",
    ),
    (r"attn.*add_[kqv]_proj", "an adapter for Kandinsky or DeepFloyd IF"),
    (r"vision_model[._]|visual_projection", "an adapter for an image encoder"),
    (
        r"(?<!encoder)[._]layers[._]\d+[._](?:self_attn|mlp|attention)[._]|\.h\.\d+\.|lm_head|"
        r"query_key_value|(?:encoder|decoder)[._]block[._]\d+|lora_te\d_(?:model_)?layers_",
        "an adapter for a language model",
    ),
    (r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:down|up|mid|conv)", "a VAE"),
    (
        r"^model\.diffusion_model\.|^(?:cond|first)_stage_model\.|^conditioner\.",
        "a whole base model",
    ),
    (
        r"^(?:down_blocks|up_blocks|mid_block|conv_in|text_model)\.(?!.*lora).+\.(?:weight|bias)$",
        "a part of a base model",
    ),
    (r"^lora_te3_", "an adapter with a third text encoder, as Stable Diffusion 3 has"),
    (r"^(?:lora_)?transformer[._]", "an adapter for a diffusion transformer"),
)
# What a file of matrices for layers can't hold; the rest of the file may be read without.
_UNHELD: tuple[tuple[str, str], ...] = (
    (r"\.(?:diff_b|b_norm|w_norm)$", "differences of biases and norms"),
    (r"\.lora_[AB](?:\..+)?\.bias$|\.lora_bias", "biases of LoRA"),
)


def foreign_kind(names: Sequence[str]) -> str | None:
    """What a file is, such as "an adapter for Wan"; None where no mark tells."""
    for mark, kind in _KINDS:
        if any(re.search(mark, name) for name in names):
            return kind
    return None


def unheld_kind(names: Sequence[str]) -> str | None:
    """What tensors are that belong to no layer's weight, such as "biases of LoRA"."""
    for mark, kind in _UNHELD:
        if any(re.search(mark, name) for name in names):
            return kind
    return None
