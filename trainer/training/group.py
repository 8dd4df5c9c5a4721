"""Processes that train one run together, and those of a launcher that do not see each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from trainer.errors import UserError

_PORT = 29500
_SEVERAL = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}
"""Variables of launchers that say how many processes they have started, and no word to torch."""


@dataclass(frozen=True)
class Group:
    """Processes that train one run together.

    Attributes:
        processes: on each machine.
        nodes: machines.
        rank: which of them this is; 0 writes the run.
        main: address of that one, with a port or not.
    """

    processes: int = 1
    nodes: int = 1
    rank: int = 0
    main: str | None = None

    def __post_init__(self) -> None:
        """Refuses what is no such group.

        Raises:
            UserError: the options contradict each other.
        """
        example = "Such as: train … --nodes 2 --node-rank 0 --main 192.168.1.5"
        if self.processes < 1 or self.nodes < 1:
            raise UserError("--processes and --nodes are 1 or more.", example)
        if self.nodes == 1 and (self.rank or self.main):
            raise UserError("--node-rank and --main go with --nodes N.", example)
        if self.nodes > 1 and not self.main:
            raise UserError("--nodes needs the address of the main machine, --main.", example)
        _ = self.endpoint
        if not 0 <= self.rank < self.nodes:
            last = self.nodes - 1
            raise UserError(f"--node-rank is 0 to {last} with {self.nodes} machines.", example)

    @property
    def is_several(self) -> bool:
        """Whether there is anything to launch."""
        return self.processes * self.nodes > 1

    @property
    def endpoint(self) -> tuple[str, int]:
        """Address and port where the machines meet."""
        text = (self.main or "").strip()
        if text.count(":") > 1 and not text.startswith("["):  # an IPv6 address by itself
            return text, _PORT
        try:
            parts = urlsplit(f"//{text}")
            return parts.hostname or text, parts.port or _PORT
        except ValueError:
            message = f"--main {text} is not of the form ADDRESS or ADDRESS:PORT."
            raise UserError(message, "Such as: --main 192.168.1.5:29500") from None


def check_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses to train the whole run in each of several processes that know nothing of each other.

    Raises:
        UserError: a launcher has started several, and torch was not told.
    """
    if "WORLD_SIZE" in environment:
        return
    several = [name for key, name in _SEVERAL.items() if environment.get(key, "1") not in ("1", "")]
    if "MASTER_ADDR" in environment and "ACCELERATE_MIXED_PRECISION" in environment:
        several.append("accelerate launch")
    if several:
        raise UserError(
            f"{several[0]} has started several processes that do not see each other (WORLD_SIZE is "
            "not set): each would train the whole run.",
            "On each machine: train … --nodes N --node-rank K --main ADDRESS",
        )
