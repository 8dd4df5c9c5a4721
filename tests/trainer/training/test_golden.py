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
from trainer.events import StepDone

GOLDEN: dict[str, list[tuple[float, float | None]]] = {
    "sd1": [(2.34993, 0.0), (0.337665, 0.00651123), (2.32484, 0.00202133), (0.787691, 0.00127145)],
    "sd2": [
        (2.22797, 0.0),
        (0.338402, 0.00118259),
        (2.32318, 0.000609536),
        (0.764395, 0.000949999),
    ],
    "sd2-v": [
        (0.357863, 0.0),
        (0.300599, 0.00356397),
        (0.327707, 0.00116747),
        (0.40331, 0.000944243),
    ],
    "sdxl": [
        (2.32629, 0.0),
        (0.349754, 0.000900089),
        (2.43105, 0.00025057),
        (0.80718, 0.000166038),
    ],
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
