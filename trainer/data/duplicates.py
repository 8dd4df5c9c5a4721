"""Pictures that are the same, or nearly.

Not imagehash: it brings scipy and pywavelets, has no colours, and would hash decoded pictures one
by one; these lines hash thumbnails that the scan has anyway.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data.findings import Finding
from trainer.data.names import display_name, list_names, matching_key

# Comparing all with all: 20,000 pictures take some seconds, ten times as many a hundred times that.
MAX_COMPARED = 20_000

_EDGE = 8  # grey levels between neighbours below which both count as equal: JPEG noise
_MAX_UNLIKE_BITS = 4
_MAX_UNLIKE_COLOUR = 6.0
_MAX_UNLIKE_PLACE = 48
"""Levels of 255 by which no place may differ: icons of one style differ in a corner alone. Of 1,000
icons it leaves 7 pairs of 44; of 189 stamps that were recompressed, scaled, brightened or cut, it
misses 7."""
_GROUPS_SHOWN = 20


def near_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """For each picture that nearly repeats an earlier one, the two indices (earlier, later).

    Alike are two pictures whose difference hashes (for each of 8 × 8 places: is it brighter than
    its left neighbour?) differ in at most 4 of 64 bits, and whose colours, averaged over sixths of
    the picture, differ by at most 6 of 255 levels, so that plain pictures of other colours are not
    taken for the same. No place may differ by more than 48 levels.

    Args:
        thumbnails: (N, 8, 9, 3) uint8.
    """
    hashes, count = difference_hashes(thumbnails), len(thumbnails)
    colours = thumbnails.reshape(count, 2, 4, 3, 3, 3).mean(axis=(2, 4), dtype=np.float32)
    colours = colours.reshape(count, 18)
    pairs: list[tuple[int, int]] = []
    originals = np.zeros(0, np.int64)  # those that repeat no earlier one
    for index in range(count):
        unlike = np.bitwise_count(hashes[originals] ^ hashes[index])
        close = originals[unlike <= _MAX_UNLIKE_BITS]
        distance = np.abs(colours[close] - colours[index]).mean(axis=1)
        close = close[distance <= _MAX_UNLIKE_COLOUR]
        place = np.abs(thumbnails[close].astype(np.int16) - thumbnails[index])
        close = close[place.max(axis=(1, 2, 3), initial=0) <= _MAX_UNLIKE_PLACE]
        if len(close):
            pairs.append((int(close[0]), index))
        else:
            originals = np.append(originals, index)
    return pairs


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """(N,) uint64 from (N, 8, 9, 3) uint8: one bit where a pixel is brighter than the one left."""
    grey = thumbnails.astype(np.int16).sum(axis=3)  # (N, 8, 9), three times the brightness
    bits = np.diff(grey, axis=2) > 3 * _EDGE  # (N, 8, 8)
    return np.packbits(bits.reshape(len(bits), 64), axis=1).view(np.uint64).reshape(-1)


def duplicate_findings(
    names: Sequence[str], digests: Sequence[str], thumbnails: np.ndarray
) -> list[Finding]:
    """Warnings about pictures with the same bytes as an earlier one, or that look nearly alike.

    Args:
        names: fit for showing; digests: of the files; thumbnails: (N, 8, 9, 3) uint8.
    """
    first_of: dict[str, int] = {}
    for index, digest in enumerate(digests):
        first_of.setdefault(digest, index)
    copies = [(first_of[one], i) for i, one in enumerate(digests) if first_of[one] != i]
    message = "The same file several times: {}. Each counts, so keep only one of them."
    findings = [*_about_groups(names, copies, message)]
    distinct = list(first_of.values())
    if len(distinct) > MAX_COMPARED:
        message = f"Near duplicates are not looked for in more than {MAX_COMPARED:,} pictures."
        return [*findings, Finding(f"{len(distinct):,} pictures", "note", message)]
    pairs = [
        (distinct[first], distinct[later]) for first, later in near_pairs(thumbnails[distinct])
    ]
    message = (
        "Nearly the same as another: {}. Look at them: a picture that is there twice counts "
        "twice; drawings that are alike may both stay."
    )
    return [*findings, *_about_groups(names, pairs, message)]


def _about_groups(
    names: Sequence[str], pairs: Sequence[tuple[int, int]], message: str
) -> Iterator[Finding]:
    """One warning about all pairs (first, later), which says what belongs together."""
    groups: dict[int, list[int]] = defaultdict(list)
    for first, later in pairs:
        groups[first].append(later)
    shown = [
        " = ".join([names[first], list_names([names[i] for i in later])])
        for first, later in groups.items()
    ]
    if shown:
        more = f"; and {len(shown) - _GROUPS_SHOWN} more" if shown[_GROUPS_SHOWN:] else ""
        about = "; ".join(shown[:_GROUPS_SHOWN]) + more
        later = [names[i] for _, i in pairs]
        yield Finding.of_several(later, "warning", message.format(about))


def twin_findings(names: Sequence[str]) -> list[Finding]:
    """Warnings about names, as they are on disk, that other systems take for one and the same."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[matching_key(name)].append(name)
    return [
        Finding(
            display_name(twin),
            "warning",
            f"Its name differs from {display_name(first)} only in upper and lower case or in how "
            "accents are stored. On Windows and macOS one would replace the other: rename it.",
        )
        for first, *others in groups.values()
        for twin in others
    ]
