"""Several processes of one run, how each says why it ends, and how one stops in an orderly way."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, cast
from urllib.parse import urlsplit

import psutil

from trainer.errors import UserError
from trainer.system import IS_WINDOWS, was_asked_to_stop

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
    """Processes that train one run together."""

    processes: int = 1  # on each machine
    nodes: int = 1  # machines
    rank: int = 0  # which of them this is; 0 writes the run
    main: str | None = None  # address of that one, with a port or not

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


LAUNCHER = "RAREBIT_LAUNCHER"  # the variable with the process id of the launcher, …
REFUSALS = "RAREBIT_REFUSALS"
"""… and the one with the folder where each process says why it ends, instead of printing it."""
GRACE_SECONDS = 120.0  # how long a process has to save and end once its launcher is gone


def note_refusal(error: UserError) -> bool:
    """Leaves it to the launcher to say what is wrong, once for all; False where there is none."""
    folder = os.environ.get(REFUSALS)
    if folder is None:
        return False
    told = {"message": error.message, "hint": error.hint, "code": error.code, "at": time.time()}
    with suppress(OSError):
        (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(told), encoding="utf-8")
    return True


def first_refusal(folder: Path) -> UserError | None:
    """What was wrong first: that another has ended is what the others saw of it."""
    told: list[dict[str, Any]] = []
    for file in folder.iterdir():
        with suppress(ValueError):  # of a process that was killed while it wrote
            told.append(cast("dict[str, Any]", json.loads(file.read_bytes())))
    told.sort(key=lambda one: (one["code"] == "process_lost", one["at"]))
    return UserError(told[0]["message"], told[0]["hint"], told[0]["code"]) if told else None


def end_with_launcher(
    parent: Callable[[], int] = os.getppid, wait: Callable[[float], None] = time.sleep
) -> threading.Thread | None:
    """Where `launch` started this process: ends it, as Ctrl-C does, once the launcher is gone."""
    launcher = int(os.environ.get(LAUNCHER, "0"))
    if not launcher or IS_WINDOWS:
        return None

    def watch() -> None:
        while parent() == launcher:
            wait(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        wait(GRACE_SECONDS)
        os._exit(130)

    thread = threading.Thread(target=watch, name="launcher", daemon=True)
    thread.start()
    return thread


STOPPED = 130
PATIENCE_SECONDS = 600  # how long a machine waits for the others
_ANY_PORT = 9


def launch(group: Group, arguments: list[str]) -> int:
    """Run ``python -m trainer ARGUMENTS`` in a group's processes of this machine.

    They find each other and those of the other machines. Each gets one GPU, or its share of the
    cores. Returns the exit status of the first that failed, or 0.

    Raises:
        UserError: one of them refused to go on, or has ended unexpectedly; or the other machines
            can't be reached.
    """
    # Imported late: every command asks this module where its mistakes are said.
    from torch.distributed import DistNetworkError, DistStoreError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count, (address, port) = group.processes, group.endpoint
    config = LaunchConfig(
        min_nodes=group.nodes,
        max_nodes=group.nodes,
        nproc_per_node=count,
        run_id="rarebit",
        rdzv_backend="static" if group.nodes > 1 else "c10d",
        rdzv_endpoint=f"[{address}]:{port}" if group.nodes > 1 else "localhost:0",
        rdzv_configs={"rank": group.rank, "timeout": PATIENCE_SECONDS} if group.nodes > 1 else {},
        max_restarts=0,
    )
    if group.nodes > 1 and (interface := _interface_to(address)):
        # By itself gloo takes the one that the machine's own name leads to, often 127.0.0.1.
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, interface)
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
    # The processes say themselves what is wrong; the launcher would add a page of its own.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with TemporaryDirectory(prefix="rarebit-") as folder:
        os.environ |= {LAUNCHER: str(os.getpid()), REFUSALS: folder}
        try:
            elastic_launch(config, sys.executable)("-m", "trainer", *arguments)
        except ChildFailedError as error:
            if refusal := first_refusal(Path(folder)):
                raise refusal from None
            return error.get_first_failure()[1].exitcode
        except SignalException:
            return STOPPED
        except (DistNetworkError, DistStoreError) as error:
            where = f"{address}, port {port}"
            raise UserError(
                f"The {group.nodes} machines did not find each other at {where}, within "
                f"{PATIENCE_SECONDS // 60} minutes.",
                "Start the same command on each, with --node-rank 0 on the main one, and open the "
                "ports between them.",
            ) from error
        finally:
            for name in (LAUNCHER, REFUSALS):
                del os.environ[name]
    return 0


def _interface_to(address: str) -> str | None:
    """The network interface of this machine through which it reaches an address."""
    try:
        kind, _, _, _, place = socket.getaddrinfo(address, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    found = psutil.net_if_addrs().items()
    names = [
        name for name, known in found if any(one.address.partition("%")[0] == own for one in known)
    ]
    # The main machine reaches its own address through itself.
    return names[0] if names else None


class StopRequest:
    """Turns the first of these signals into a wish that the training loop sees.

    Before the loop runs there is nothing to save, and the signal interrupts at once; `defer` is
    called when there is. A second Ctrl-C leaves at once: everything on disk is written
    atomically, so nothing is damaged.

    Args:
        file: says the same where other processes have no such signals.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._signalled = False
        self._file = file
        self.deferred = False

    @property
    def requested(self) -> bool:
        """Whether the run is to end after this step."""
        return self._signalled or (self._file is not None and was_asked_to_stop(self._file))

    def __enter__(self) -> StopRequest:
        if self._file is not None:
            self._file.unlink(missing_ok=True)  # meant for a process before this one
        self._previous = {number: signal.signal(number, self._handle) for number in _signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on a first request waits for the end of the step."""
        self.deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.deferred:
            raise KeyboardInterrupt
        if self._signalled and number == signal.SIGINT:
            sys.stderr.write("\nLeaving at once; the last checkpoint is whole.\n")
            sys.stderr.flush()
            os._exit(130)
        self._signalled = True


def _signals() -> list[signal.Signals]:
    wanted = [signal.SIGINT, signal.SIGTERM]
    break_key: signal.Signals | None = getattr(signal, "SIGBREAK", None)  # on Windows alone
    wanted += [break_key] if break_key else []
    if hasattr(signal, "SIGHUP"):  # not on Windows
        # A run under nohup ignores it: it is meant to outlive its terminal.
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        wanted += [] if ignored else [signal.SIGHUP]
    return wanted
