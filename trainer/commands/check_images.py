"""``check-images``: what training would make of a folder."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.config import CaptionsConfig, ImagesConfig
from trainer.data.report import describe_set, format_report
from trainer.data.sets import scan_image_set
from trainer.models.facts import read_facts
from trainer.pictures import check_resolution


def check_images(
    folder: Path, *, base_name: str, trigger: str, resolution: int | None, as_json: bool
) -> int:
    """Print the report on an image set; doubtful pictures are no failure.

    Raises:
        UserError: there is no such folder, nothing in it can be used, or the base or the
            resolution does not suit.
    """
    facts = read_facts(base_name)
    side = resolution or facts.default_resolution
    check_resolution(side, facts.resolution_step)
    report = describe_set(
        scan_image_set(folder),
        ImagesConfig(path=folder, resolution=side),
        CaptionsConfig(trigger=trigger),
        resolution=side,
        step=facts.resolution_step,
        count_tokens=facts.count_tokens,
    )
    print(json.dumps(report.as_dict(), indent=1) if as_json else format_report(report))
    return 0
