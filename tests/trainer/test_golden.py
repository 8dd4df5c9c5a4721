"""Golden losses: the first steps of a run on each family, as they were when they were right.

A change of these numbers is a change of what training does. Where it is meant, run this file as a
script from the repository's root and put what it prints in place of the table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.conftest import TinyBase
from tests.tiny_models import TINY_NAMES, make_tiny
from tests.trainer.runs_for_tests import make_images, small_config, train_small
from trainer.training import StepDone

GOLDEN: dict[str, list[tuple[float, float | None]]] = {
    "sd1": [(1.19747, 0.0), (0.609224, None), (1.08965, 0.0140733), (1.13055, None)],
    "sd2": [(1.12815, 0.0), (0.607706, None), (1.0726, 0.00256563), (1.0839, None)],
    "sd2-v": [(0.0896155, 0.0), (0.0802938, None), (0.0738587, 0.00615094), (0.296692, None)],
    "sdxl": [(1.15378, 0.0), (0.625846, None), (1.0927, 0.00279959), (1.12472, None)],
}


def first_losses(base: Path, folder: Path) -> list[tuple[float, float | None]]:
    """(training loss, preservation loss) of four steps."""
    config = small_config(base, make_images(folder / "images"), training__precision="fp32")
    _, collected = train_small(config, folder / "run")
    return [(event.loss, event.preservation) for event in collected.of(StepDone)]


@pytest.mark.parametrize("name", TINY_NAMES)
def test_golden_losses(tiny_base: TinyBase, tmp_path: Path, name: str) -> None:
    losses = first_losses(tiny_base(name), tmp_path)
    for (loss, kept), (golden_loss, golden_kept) in zip(losses, GOLDEN[name], strict=True):
        assert loss == pytest.approx(golden_loss, rel=1e-3)
        assert (kept is None) == (golden_kept is None)
        assert (kept or 0.0) == pytest.approx(golden_kept or 0.0, rel=1e-2, abs=1e-8)


if __name__ == "__main__":
    for tiny in TINY_NAMES:
        with tempfile.TemporaryDirectory() as temporary:
            base_folder = make_tiny(tiny, Path(temporary) / "base")
            print(f"{tiny!r}: {first_losses(base_folder, Path(temporary))},")
