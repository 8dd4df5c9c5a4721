"""What was found of pictures when they were last decoded, cached between runs.

A scan decodes every picture of a set to see that it is whole, which takes minutes for thousands. A
picture that has the same place, size and times as then is taken to be the same; where it is read
again for its latents, its bytes are compared with the digest as always.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.decoder import THUMBNAIL, inspect_image
from trainer.data.images import ImageFacts, ImageHeader
from trainer.runs.atomic import write_text
from trainer.untyped import as_table

SETTLED_NS = 2_000_000_000
"""A file that was changed this short ago may change again without showing it in its times."""


class ScanCache:
    """What was found of the pictures of one image set, in a file.

    Args:
        folder: where such files lie.
        root: the set's folder.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        name = hashlib.sha256(str(root.expanduser().resolve()).encode(errors="replace")).hexdigest()
        self.path = folder / f"{name[:32]}.json"
        self._known = self._read()
        self._present: dict[str, Any] = {}

    def inspect(self, path: Path) -> ImageFacts:
        """As `inspect_image`, which is called for what is new or changed; in any thread."""
        try:
            status = path.stat()
        except (OSError, ValueError):
            return inspect_image(path)
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        identity = [status.st_dev, status.st_ino, status.st_size, changed]
        row = self._known.get(str(path))
        found = _facts(row, identity)
        if found is None:
            found = inspect_image(path)
            thumbnail = base64.b64encode(found.thumbnail.tobytes()).decode()
            row = {"identity": identity, **asdict(found), "thumbnail": thumbnail}
        if time.time_ns() - changed > SETTLED_NS:
            self._present[str(path)] = row
        return found

    def save(self) -> None:
        """Keeps what was inspected since the file was read; a full disk only costs time."""
        if self._present == self._known:
            return
        with suppress(OSError, ValueError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self._present))

    def _read(self) -> dict[str, Any]:
        try:
            rows = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return as_table(rows)


def _facts(row: Any, identity: list[int]) -> ImageFacts | None:
    """What a row was made from; None where it is of another file, or has been tampered with."""
    try:
        if row["identity"] != identity:
            return None
        pixels = np.frombuffer(base64.b64decode(row["thumbnail"]), np.uint8)
        return ImageFacts(
            ImageHeader(**row["header"]),
            row["digest"],
            row["transparent"],
            pixels.reshape(THUMBNAIL),
            None if row["ink"] is None else tuple(row["ink"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
