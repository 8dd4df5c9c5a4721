"""Alpha in the layouts of diffusers and PEFT, which keep it in a configuration beside the tensors.

diffusers puts PEFT's configuration of each part into the file's metadata, as one JSON text under
``lora_adapter_metadata`` with keys such as ``unet.lora_alpha``; PEFT writes ``adapter_config.json``
beside the file. Where neither is there, alpha is the rank, as in every tool.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.lora.names import PARTS, ModuleKey, Part, canonical_path

METADATA_KEY = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
_MAX_CONFIG_BYTES = 1 << 20
GREATEST_ALPHA = 1e9
"""Any greater alpha is a broken one; an integer in JSON may have thousands of digits."""
_LITERAL = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")


class Scales:
    """The alphas that the configurations of a file's parts give to its layers."""

    def __init__(self, path: Path, configs: Mapping[Part, Mapping[str, Any]]) -> None:
        self.path = path
        self.configs = configs

    def alpha(self, key: ModuleKey, rank: int, *, has_magnitude: bool = False) -> float:
        """Alpha such that alpha / rank is the layer's scale; with rsLoRA alpha · √rank.

        rsLoRA (arXiv 2312.03732) divides alpha by √rank.

        Args:
            has_magnitude: whether the file has DoRA's magnitude of this layer.

        Raises:
            UserError: the configuration can't be understood.
        """
        config = self.configs.get(key.part, {})
        if config.get("use_dora") and not has_magnitude:
            raise UserError(
                f"{self.path} is DoRA by its configuration, but has no magnitude of {key}.",
                "Get the file again: what was saved is half of it.",
            )
        alpha = self._by_pattern(config.get("alpha_pattern") or {}, key)
        if alpha is None:
            alpha = config.get("lora_alpha")
        if alpha is None:
            return float(rank)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise self._broken(f"alpha {alpha!r} is no number")
        scale = math.sqrt(rank) if config.get("use_rslora") else 1.0
        if not abs(alpha) <= GREATEST_ALPHA:  # also where it is no number
            raise self._broken(f"alpha is {alpha}")
        return float(alpha) * scale

    def _by_pattern(self, patterns: object, key: ModuleKey) -> object:
        """The value whose pattern fits a layer: a path, or the end of one (PEFT's rule)."""
        if not isinstance(patterns, dict):
            raise self._broken("alpha_pattern is no table")
        for pattern, value in patterns.items():
            # A pattern may be any regular expression. A stranger's is not run: it could take years.
            if _LITERAL.fullmatch(pattern) is None:
                raise self._broken(f"alpha_pattern has the pattern {pattern[:80]!r}, not a path")
            path = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
            full = canonical_path(key.part, path)
            if key.path in (path, full) or (
                not pattern.startswith("^") and key.path.endswith(f".{path}")
            ):
                return value
        return None

    def _broken(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: its adapter configuration can't be understood: {what[:200]}.",
            "Get the file in kohya's layout, which keeps alpha beside each layer.",
        )


def read_scales(path: Path, metadata: Mapping[str, str], *, beside: bool) -> Scales:
    """The configurations in a file's metadata, or in ``adapter_config.json`` beside it.

    Args:
        beside: whether to look beside the file, as for PEFT's layout.

    Raises:
        UserError: there is a configuration that is not JSON.
    """
    if text := metadata.get(METADATA_KEY):
        return Scales(path, _split(_parse(path, METADATA_KEY, text)))
    config = path.with_name(CONFIG_FILE)
    if beside and config.is_file():
        if config.stat().st_size > _MAX_CONFIG_BYTES:
            raise UserError(f"{config} is larger than {_MAX_CONFIG_BYTES} bytes.")
        text = config.read_text(encoding="utf-8", errors="replace")
        return Scales(path, _split(_parse(path, CONFIG_FILE, text)))
    return Scales(path, {})


def _parse(path: Path, name: str, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: {name}, which holds its alphas, is not a JSON object.",
            "Get the file again, or in kohya's layout.",
        )
    return content


def _split(content: dict[str, Any]) -> dict[Part, Mapping[str, Any]]:
    """By part; keys without a part's name hold for all parts."""
    common = {key: value for key, value in content.items() if "." not in key}
    return {
        part: common
        | {
            key.removeprefix(f"{part}."): value
            for key, value in content.items()
            if key.startswith(f"{part}.")
        }
        for part in PARTS
    }
