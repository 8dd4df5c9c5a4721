"""A tiny base model for each family, loaded once; every test must leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.conftest import TinyBase
from tests.trainer.lora.helpers import modules_of
from trainer.lora.attach import detach
from trainer.models.base import BaseModel
from trainer.models.load import load_base

BaseOf = Callable[..., BaseModel]


@pytest.fixture(scope="session")
def loaded_bases() -> dict[tuple[str, torch.dtype], BaseModel]:
    return {}


@pytest.fixture
def base_of(
    tiny_base: TinyBase, loaded_bases: dict[tuple[str, torch.dtype], BaseModel]
) -> Iterator[BaseOf]:
    """Gives the base model of a name; afterwards, detached, it must be bit-identical."""
    used: dict[tuple[str, torch.dtype], dict[str, torch.Tensor]] = {}

    def give(name: str, dtype: torch.dtype = torch.float32) -> BaseModel:
        key = (name, dtype)
        if key not in loaded_bases:
            loaded_bases[key] = load_base(str(tiny_base(name)), dtype=dtype)
        if key not in used:
            used[key] = {k: t.clone() for k, t in weights(loaded_bases[key]).items()}
        return loaded_bases[key]

    yield give
    for key, before in used.items():
        detach(loaded_bases[key])
        after = weights(loaded_bases[key])
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)


def weights(base: BaseModel) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": tensor
        for index, module in enumerate(modules_of(base))
        for name, tensor in module.state_dict().items()
    }
