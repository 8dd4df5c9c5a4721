"""Other trainers' settings in the predictor: autocast as CUDA does it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.peer_memory import PEERS, cuda_autocast, peer_parts
from tests.conftest import TinyBase


def test_products_in_half_precision_and_norms_in_full() -> None:
    layer, norm = nn.Linear(8, 8), nn.LayerNorm(8).half()
    frozen = nn.Linear(8, 8).requires_grad_(False)
    inputs = torch.empty(2, 8)
    before = F.linear
    with cuda_autocast():
        assert layer(inputs).dtype == frozen(inputs).dtype == torch.float16
        assert norm(inputs.half()).dtype == torch.float32
        assert F.linear is not before
    assert F.linear is before
    assert layer(inputs).dtype == torch.float32


def test_peers_keep_more_than_this_trainer(tiny_base: TinyBase) -> None:
    base = str(tiny_base("sdxl"))
    found = {
        (peer, checkpointing): peer_parts(peer, base, 128, 2, checkpointing)
        for peer in PEERS
        for checkpointing in (False, True)
    }
    for peer in PEERS:
        plain, checkpointing = found[peer, False], found[peer, True]
        assert checkpointing["activations"] < 0.7 * plain["activations"]
        assert plain["optimizer"] == 2 * plain["adapter"]
    script, kohya = found["diffusers script", False], found["kohya", False]
    assert script["activations"] > kohya["activations"]  # PEFT's float32 copies of inputs
    assert script["idle"] > 0 and kohya["idle"] == 0
