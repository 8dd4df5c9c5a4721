"""Where the results of ``adapter`` go, and how they are told."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError
from trainer.lora.sharing import sidecar_paths
from trainer.memory.devices import Precision


@dataclass(frozen=True)
class Output:
    """Where a result goes and how.

    Attributes:
        precision: None for that of the file.
        force: whether an existing file may be replaced; never one that is read.
        sidecars: whether its .json and .png are written too.
    """

    path: Path
    precision: Precision | None
    force: bool
    sidecars: bool
    json: bool

    @classmethod
    def of(cls, options: argparse.Namespace) -> Output:
        """From the command line."""
        return cls(options.out, options.precision, options.force, options.sidecars, options.json)

    def check(self, sources: Sequence[Path]) -> None:
        """Refuses to lose a file.

        Raises:
            UserError: the output is a source, exists, or has a name that tools would not list.
        """
        if self.path.suffix != ".safetensors":
            raise UserError(f"{self.path} does not end in .safetensors.", "Tools look for that.")
        targets = [self.path, *(sidecar_paths(self.path) if self.sidecars else ())]
        for target in targets:
            if any(target.exists() and target.samefile(s) for s in sources if s.exists()):
                raise UserError(f"{target} is read here: it is never replaced.", "Choose another.")
            if target.exists() and not (self.force and target.is_file()):
                raise UserError(f"{target} exists already.", "--force replaces it.")
        self.path.parent.mkdir(parents=True, exist_ok=True)


def print_result(content: dict[str, object] | list[str]) -> None:
    """Prints JSON, or lines for people."""
    print(json.dumps(content, indent=1) if isinstance(content, dict) else "\n".join(content))
