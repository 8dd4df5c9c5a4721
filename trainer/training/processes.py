"""Several processes on one machine, through torch's own elastic launcher."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trainer.training.launched import LAUNCHER, REFUSALS, first_refusal

STOPPED = 130


def launch(count: int, arguments: list[str]) -> int:
    """Run ``python -m trainer ARGUMENTS`` in ``count`` processes that find each other.

    Each gets one GPU, or its share of the cores. Returns the exit status of the first that
    failed, or 0.

    Raises:
        UserError: one of them refused to go on, or has ended unexpectedly.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="rarebit",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
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
        finally:
            for name in (LAUNCHER, REFUSALS):
                del os.environ[name]
    return 0
