"""The latent cache: latents and text embeddings on disk, under the hash of what made them.

A file's name is the SHA-256 of everything that its content depends on (image bytes, crop, flip,
background colour, the VAE's weights; or text and the text encoders' weights), so that an edited
picture or another model never meets an old entry. Each file begins with the SHA-256 of what
follows; one that doesn't match is computed again, and said so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from trainer.events import Notice
from trainer.runs.atomic import DiskError, replacing, writing

DIGEST_SIZE = 32


class TensorCache:
    """A folder of small tensor files by content hash.

    Args:
        folder: where they lie; made when the first one is written.
        notice: is told of every damaged entry that is computed again.
    """

    def __init__(self, folder: Path, notice: Notice) -> None:
        self.folder = folder
        self.notice = notice

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under ``key``; None where there are none, or they are damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        body = data[DIGEST_SIZE:]
        if hashlib.sha256(body).digest() == data[:DIGEST_SIZE]:
            return load(body)
        self.notice(f"The cache file {path.name} is damaged and will be computed again.")
        path.unlink(missing_ok=True)
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``key``; readers see all of it or nothing.

        Not synced to the disk: an entry that a power cut damages is found by its digest.

        Raises:
            DiskError: the disk is full or the folder can't be written.
        """
        body = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        path = self._path(key)
        with writing(f"the cache in {self.folder}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, sync=False) as temporary:
                temporary.write_bytes(hashlib.sha256(body).digest() + body)

    def get_or_make(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of ``key``; made and cached where there are none.

        A disk that refuses them costs nothing but making them again the next time.
        """
        tensors = self.get(key)
        if tensors is None:
            tensors = make()
            with suppress(OSError, DiskError):
                self.put(key, tensors)
        return tensors

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.bin"


def content_key(**facts: object) -> str:
    """SHA-256 over named facts, as hex: the same facts give the same key in every process."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
