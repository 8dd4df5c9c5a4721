"""Randomness as a function: every draw names its seed, its step and its purpose.

Nothing in Rarebit draws from a global generator, so that a resumed run, another number of
processes or a preview in between change nothing.
"""

from __future__ import annotations

import hashlib
import json


def derive_seed(seed: int, *parts: int | str) -> int:
    """An independent seed for one purpose, in [0, 2**63).

    The first 63 bits of the SHA-256 of ``[seed, *parts]`` written as JSON, where 1 and "1" differ
    and ("ab", "c") is not ("a", "bc").
    """
    text = json.dumps([seed, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") >> 1


def derive_uniform(seed: int, *parts: int | str) -> float:
    """An independent number in [0, 1), a multiple of 2**-53."""
    return (derive_seed(seed, *parts) >> 10) / 2**53
