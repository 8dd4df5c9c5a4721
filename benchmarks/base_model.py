"""Measures the built-in base model: does it draw what the caption says?

    python benchmarks/base_model.py [--model models/tiny-emoji] [--json]

Feature space: a 64-pixel picture averaged over 4×4 blocks to 16×16 RGB in 0..1; the distance of two
pictures is the root mean square over these 768 numbers, the smaller one of both mirrorings. True
pictures are the emoji that the model was trained on, put on the background that the caption names,
so that the background cannot help. They come from the builder's work folder
(`python -m models.build --only fetch pictures` makes it).
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.build.captions import (
    BACKGROUNDS,
    STYLE_WORDS,
    Content,
    plain,
    unknown_words,
    with_article,
)
from models.build.grid import GUIDANCE, STEPS, generate
from models.build.latents import on_background, true_pictures
from models.build.pictures import SIZE
from models.build.subjects import SUBJECTS

ROOT = Path(__file__).resolve().parents[1]
RING = 3
"""Pixels of the border ring whose median is taken as the background colour."""


def features(images: Tensor) -> Tensor:
    """(N, 3, 64, 64) in -1..1 → (N, 768) in 0..1."""
    return torch.nn.functional.avg_pool2d((images + 1) / 2, SIZE // 16).flatten(1)


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Pictures → (N, 3, 64, 64) in -1..1."""
    stack = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def distances(image: Tensor, candidates: Tensor) -> Tensor:
    """RMS feature distance of (3, 64, 64) to (N, 3, 64, 64), the better mirroring; (N,)."""
    wanted = features(torch.stack([image, image.flip(-1)]))
    return torch.cdist(wanted, features(candidates)).min(dim=0).values / wanted.shape[1] ** 0.5


def lab(colour: np.ndarray) -> np.ndarray:
    """sRGB (…, 3) in 0..255 → CIELAB (D65), where equal distances look about equal."""
    scaled = colour / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def background_of(image: Image.Image) -> str:
    """The named colour nearest to the median of the border ring, in CIELAB."""
    pixels = np.asarray(image.convert("RGB")).astype(float)
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[RING:-RING, RING:-RING] = True
    found = lab(np.median(pixels[~inside], axis=0))
    return min(
        BACKGROUNDS,
        key=lambda name: float(np.linalg.norm(lab(np.array(BACKGROUNDS[name], float)) - found)),
    )


@dataclass
class Truth:
    """The training pictures, by style."""

    names: dict[str, list[str]]
    emoji: dict[str, Tensor]

    @classmethod
    def load(cls, work: Path) -> "Truth":
        loaded = {style: true_pictures(work, style) for style in STYLE_WORDS}
        return cls({s: v[0] for s, v in loaded.items()}, {s: v[1] for s, v in loaded.items()})

    def rank(self, image: Tensor, content: Content) -> int:
        """0 if the true picture of `content` is the nearest of all pictures of its style."""
        shown = on_background(self.emoji[content.style], BACKGROUNDS[content.background])
        near = distances(image, shown)
        own = near[self.names[content.style].index(content.subject)]
        return int((near < own).sum())

    def nearest(self, image: Tensor, style: str, background: str) -> str:
        shown = on_background(self.emoji[style], BACKGROUNDS[background])
        return self.names[style][int(distances(image, shown).argmin())]

    def style_of(self, image: Tensor, content: Content) -> str:
        """Which style's picture of the same subject on the same background is nearer."""

        def gap(style: str) -> float:
            row = self.names[style].index(content.subject)
            emoji = self.emoji[style][row : row + 1]
            return float(distances(image, on_background(emoji, BACKGROUNDS[content.background])))

        return min(STYLE_WORDS, key=gap)


Draw = Callable[[list[str], int], list[Image.Image]]
"""Captions and a seed → one picture each."""


def balanced(count: int, seed: int) -> list[Content]:
    """`count` different (subject, style) pairs, the ten backgrounds in turn."""
    source = random.Random(seed)
    pairs = [(name, style) for name in sorted(SUBJECTS) for style in STYLE_WORDS]
    colours = list(BACKGROUNDS)
    return [
        Content(name, style, colours[place % len(colours)])
        for place, (name, style) in enumerate(source.sample(pairs, count))
    ]


def measure_captions(draw: Draw, truth: Truth, count: int, seed: int) -> dict[str, object]:
    """Retrieval over `count` captions; background and style over the first 100 of them."""
    contents = balanced(count, seed)
    images = draw([plain(content) for content in contents], seed)
    tensors = as_tensor(images)
    ranks = [truth.rank(*pair) for pair in zip(tensors, contents, strict=True)]
    hundred = list(zip(images, tensors, contents, strict=True))[:100]
    right = [background_of(image) == content.background for image, _, content in hundred]
    styles = [truth.style_of(tensor, content) == content.style for _, tensor, content in hundred]
    missed = [
        f"{c.subject} ({c.style})" for c, rank in zip(contents, ranks, strict=True) if rank > 4
    ]
    return {
        "captions": count,
        "top1": round(float(np.mean([rank == 0 for rank in ranks])), 3),
        "top5": round(float(np.mean([rank < 5 for rank in ranks])), 3),
        "background": round(float(np.mean(right)), 3),
        "style": round(float(np.mean(styles)), 3),
        "outside_top5": missed,
    }


def measure_rare(draw: Draw, truth: Truth, word: str, count: int, seed: int) -> dict[str, object]:
    """How consistent "3d emoji of WORD" is: share of the subject that most pictures resemble."""
    images = draw([f"3d emoji of {word} on a white background"] * count, seed)
    tensors = as_tensor(images)
    names = Counter(truth.nearest(tensor, "3d", "white") for tensor in tensors)
    flat = features(tensors)
    spread = torch.pdist(flat).mean().item() / flat.shape[1] ** 0.5
    name, times = names.most_common(1)[0]
    return {
        "word": word,
        "different_subjects": len(names),
        "most_common": name,
        "most_common_share": round(times / count, 3),
        "mean_distance_between_pictures": round(spread, 4),
    }


def measure_beside(draw: Draw, truth: Truth, words: Sequence[str], seed: int) -> dict[str, object]:
    """Whether unknown words beside a subject leave it alone: top 1 of the first 100 captions with
    one before it ("a sks dog"), and with two after it ("a dog, sks, ohwx").
    """
    contents = balanced(100, seed)
    source = random.Random(seed)
    forms: dict[str, list[str]] = {"one_before": [], "two_after": []}
    for content in contents:
        subject, start = content.subject, STYLE_WORDS[content.style]
        ending = f"{content.background} background"
        first, second, third = source.sample(list(words), 3)
        forms["one_before"].append(f"{start} of a {first} {subject}, {ending}")
        noun = with_article(subject)
        forms["two_after"].append(f"{start} of {noun}, {second}, {third}, {ending}")
    found: dict[str, object] = {}
    for name, captions in forms.items():
        images = draw(captions, seed)
        pairs = list(zip(as_tensor(images), images, contents, strict=True))
        found[f"{name}_top1"] = sum(truth.rank(tensor, c) == 0 for tensor, _, c in pairs) / 100
        kept = sum(background_of(image) == c.background for _, image, c in pairs)
        found[f"{name}_background"] = kept / 100
    return found


def measure_speed(model: Path) -> dict[str, float]:
    """Seconds to load (imports done), and for one picture on one thread."""
    began = time.perf_counter()
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    loaded = time.perf_counter() - began
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generate(pipeline, ["3d emoji of a fox"], 0)
    began = time.perf_counter()
    generate(pipeline, ["3d emoji of a fox"], 0)
    taken = time.perf_counter() - began
    torch.set_num_threads(threads)
    size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    return {
        "load_seconds": round(loaded, 2),
        "picture_seconds_one_thread": round(taken, 2),
        "megabytes": round(size / 1e6, 1),
    }


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tiny-emoji")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "rarebit-build")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--rare-count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    speed = measure_speed(options.model)
    pipeline = StableDiffusionPipeline.from_pretrained(options.model)
    truth = Truth.load(options.work)

    def draw(captions: list[str], seed: int) -> list[Image.Image]:
        return generate(pipeline, captions, seed, options.guidance)

    report = {
        "settings": {"steps": STEPS, "guidance": options.guidance, "seed": options.seed},
        "speed": speed,
        "captions": measure_captions(draw, truth, options.captions, options.seed),
        "rare": [
            measure_rare(draw, truth, word, options.rare_count, options.seed)
            for word in ("sks", "ohwx", "a fox")
        ],
        "unknown_words_beside": measure_beside(
            draw, truth, unknown_words(pipeline.tokenizer.get_vocab(), list(SUBJECTS)), options.seed
        ),
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for part, values in report.items():
        for line in values if isinstance(values, list) else [values]:
            print(part, ", ".join(f"{key} {value}" for key, value in line.items()))


if __name__ == "__main__":
    main()
