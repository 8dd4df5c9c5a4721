"""What is asked of a run while it trains: previews now, others than so far, a pause, some room.

Whoever asks puts a file into the run's folder ``wishes``; the run looks there between two steps.
None of it changes what is trained.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import Any, Literal

from trainer.runs.atomic import write_json
from trainer.runs.layout import RunFolder
from trainer.untyped import is_table

Wish = Literal["draw", "pause", "previews", "room"]
"""``room``: a pause that ends by itself, for who draws on the same device meanwhile."""
_ROOM_SECONDS = 60.0


def wish_for(run: RunFolder, wish: Wish, values: dict[str, Any] | None = None) -> None:
    """Asks for something; ``values`` are fields of ``previews`` for that wish."""
    run.wishes.mkdir(exist_ok=True)
    write_json(run.wishes / wish, values or {})


def is_wished(run: RunFolder, wish: Wish) -> bool:
    """Whether it is asked for now."""
    return (run.wishes / wish).exists()


def wished_values(run: RunFolder, wish: Wish) -> dict[str, Any]:
    """What came with a wish; nothing where it cannot be read."""
    try:
        values = json.loads((run.wishes / wish).read_bytes())
    except (OSError, ValueError):
        return {}
    return values if is_table(values) else {}


def wish_for_room(run: RunFolder) -> None:
    """Asks for room for the next minute; who still needs it then has to ask again."""
    wish_for(run, "room", {"until": time.time() + _ROOM_SECONDS})


def gives_room(run: RunFolder) -> bool:
    """Whether it is still asked for room; a wish whose time is over is taken back."""
    if not is_wished(run, "room"):
        return False
    until = wished_values(run, "room").get("until")
    if isinstance(until, int | float) and time.time() < until:
        return True
    take_back(run, "room")
    return False


def take_back(run: RunFolder, wish: Wish) -> None:
    """The wish is fulfilled, or no longer there."""
    (run.wishes / wish).unlink(missing_ok=True)


def forget_wishes(run: RunFolder) -> None:
    """Those of a run that has ended are not those of the one that goes on."""
    shutil.rmtree(run.wishes, ignore_errors=True)
