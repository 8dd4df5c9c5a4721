"""Which pictures train together, when, and in which version: pure functions of seed and position.

Exact resume needs no saved state, and any process can compute any batch. A version of a picture has
another `CropPlan` (crop, rotation, colours); its latents, its mask and what SDXL is conditioned on
follow from that. Each version is encoded once, and cached. Never torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainer.config.schema import ImagesConfig
from trainer.data.buckets import CropPlan
from trainer.data.findings import ImageProblem
from trainer.data.masks import judge_mask
from trainer.data.sets import Picture
from trainer.seeds import derive_seed, derive_uniform

FEWEST = 8  # pictures; a smaller set is trained on whole: each counts for more than a measurement
MOST = 8  # more pictures in the validation split would only make each measurement slower


def validation_count(pictures: int, share: float) -> int:
    """How many of a set's pictures are kept out of training."""
    if pictures < FEWEST or share <= 0:
        return 0
    return min(MOST, max(1, round(share * pictures)))


def validation_ids(ids: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """The ids of the pictures that are kept out of training.

    Neither names nor order matter. Equal pictures have equal ids, and stay out together.

    Args:
        ids: of all pictures of one concept.
        share: to keep out, 0 to 1; see `validation_count`.
    """
    unique = sorted(set(ids))
    ranked = sorted(unique, key=lambda identifier: derive_seed(seed, "held out", identifier))
    return frozenset(ranked[: validation_count(len(unique), share)])


def flip_choice(seed: int, step: int, image_id: str) -> bool:
    """Whether a picture is mirrored at a step: half of the time."""
    return bool(derive_seed(seed, "flip", step, image_id) & 1)


class SampleOrder:
    """The batches of a run, numbered from 0 without end; an epoch is one pass over the pictures.

    In an epoch each picture comes up exactly as often as it is repeated, spread evenly; each batch
    is from one bucket, and the last of a bucket may be smaller. Every epoch has its own order.

    Args:
        buckets_of_entries: (width, height) of each picture.
        repeats: how often each picture comes up in an epoch, at least once.
        batch_size: the most pictures in a batch.
        seed: of the run.
    """

    def __init__(
        self,
        buckets_of_entries: Sequence[tuple[int, int]],
        repeats: Sequence[int],
        batch_size: int,
        seed: int,
    ) -> None:
        self._batch_size = batch_size
        self._seed = seed
        entries = np.repeat(np.arange(len(repeats)), repeats)
        # Copy k of r is drawn from the k-th r-th of the epoch, so that copies are spread out.
        counts = np.asarray(repeats)[entries]
        starts = np.repeat(np.cumsum(repeats) - np.asarray(repeats), repeats)
        turns = np.arange(len(entries)) - starts
        groups: dict[tuple[int, int], list[int]] = {}
        of_copies: list[int] = entries.tolist()
        for place, entry in enumerate(of_copies):
            groups.setdefault(buckets_of_entries[entry], []).append(place)
        self._buckets = [
            (bucket, entries[places], turns[places], counts[places])
            for bucket, places in sorted(groups.items())
        ]
        self._epoch = -1
        self._batches: list[tuple[int, ...]] = []

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the pictures with their repeats."""
        return sum(-(-len(entries) // self._batch_size) for _, entries, _, _ in self._buckets)

    def epoch(self, position: int) -> int:
        """The epoch, from 0, that a batch belongs to."""
        return position // self.batches_per_epoch

    def batch(self, position: int) -> tuple[int, ...]:
        """The pictures, as indices of the arguments, of batch number ``position``."""
        epoch, place = divmod(position, self.batches_per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._compute(epoch), epoch
        return self._batches[place]

    def _compute(self, epoch: int) -> list[tuple[int, ...]]:
        batches: list[tuple[int, ...]] = []
        for (width, height), entries, turns, counts in self._buckets:
            drawn = self._uniform(len(entries), epoch, f"{width}x{height}")
            order = entries[np.argsort((turns + drawn) / counts, kind="stable")].tolist()
            batches += [
                tuple(order[start : start + self._batch_size])
                for start in range(0, len(order), self._batch_size)
            ]
        shuffled = np.argsort(self._uniform(len(batches), epoch, "batches"), kind="stable")
        return [batches[index] for index in shuffled.tolist()]

    def _uniform(self, count: int, epoch: int, purpose: str) -> np.ndarray:
        """(count,) float64 in [0, 1).

        From a bit generator's raw stream, which numpy never changes; its distributions may.
        """
        stream = np.random.Philox(key=derive_seed(self._seed, "order", epoch, purpose))
        return (stream.random_raw(count) >> np.uint64(11)) * 2.0**-53


def balanced_repeats(repeats: Sequence[Sequence[int]], shares: Sequence[int]) -> list[list[int]]:
    """How often each picture comes up in an epoch, so that the concepts get their shares.

    Each concept comes up so often as the one that needs most to show each of its pictures with
    its repeats; where that does not come out even, some come up once more. A single concept stays
    as it is.

    Args:
        repeats: of the pictures of each concept, by their folders' names.
        shares: of the concepts (``ConceptConfig.repeats``).

    Returns:
        For each concept its pictures' repeats, none less than given.
    """
    if len(repeats) == 1:
        return [list(repeats[0])]
    unit = max(-(-sum(own) // share) for own, share in zip(repeats, shares, strict=True))
    balanced: list[list[int]] = []
    for own, share in zip(repeats, shares, strict=True):
        whole, rest = divmod(unit * share, sum(own))
        counts = [count * whole for count in own]
        # What is left over is spread evenly, however the folders repeat.
        for place in range(rest):
            counts[place * len(own) // rest if rest < len(own) else place % len(own)] += 1
        balanced.append(counts)
    return balanced


def variants_of(picture: Picture, images: ImagesConfig, seed: int) -> list[Picture]:
    """All versions of a picture, the picture as it is first.

    A version of which a mask lets nothing count is left as the picture is.
    """
    found = [picture]
    for number in range(1, images.variant_count):
        crop = _variant(picture, images, (seed, picture.entry.id, number))
        unusable = isinstance(judge_mask(picture.entry, images, crop), ImageProblem)
        found.append(picture if unusable else replace(picture, crop=crop))
    return found


def variant_choice(seed: int, step: int, image_id: str, count: int) -> int:
    """Which of so many versions of a picture is shown at a step."""
    return derive_seed(seed, "variant", step, image_id) % count


def _variant(picture: Picture, images: ImagesConfig, purpose: tuple[int, str, int]) -> CropPlan:
    def drawn(name: str, most: float) -> float:
        """Uniform from ``-most`` to ``most``."""
        return most * (2 * derive_uniform(*purpose, name) - 1)

    crop = picture.crop
    if images.random_crop:
        crop = _other_crop(picture, 1 - abs(drawn("size", images.random_crop)), purpose)
    return replace(
        crop,
        rotation=drawn("rotation", images.rotation),
        brightness=1 + drawn("brightness", images.brightness),
        hue=drawn("hue", images.hue),
    )


def _other_crop(picture: Picture, share: float, purpose: tuple[int, str, int]) -> CropPlan:
    """A cut of at least a share of what is cut now, anywhere; never enlarged for it."""
    crop = picture.crop
    factor = min(1 / share, max(1.0, picture.entry.size[0] / crop.resize_width))
    width, height = round(crop.resize_width * factor), round(crop.resize_height * factor)
    return replace(
        crop,
        resize_width=width,
        resize_height=height,
        left=round(derive_uniform(*purpose, "left") * (width - crop.width)),
        top=round(derive_uniform(*purpose, "top") * (height - crop.height)),
    )
