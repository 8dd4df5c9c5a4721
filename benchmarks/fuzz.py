"""Hostile files, invented: ``python -m benchmarks.fuzz --minutes 10``.

Good files of each kind are damaged at random, and given to what reads them. Each must be read or
refused in words, within seconds of processor time. What is neither is a finding: it is kept in
tests/corpus/found/, which tests/faults/test_found.py reads again. Exit status 1 with findings.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save

from app.files import Upload
from app.tabs.generate.drawing import read_settings
from app.tabs.images.archives import Limits, unpack
from app.tabs.images.uploads import store_uploads
from trainer.config.file import format_config, read_config
from trainer.config.presets import PRESETS, apply_preset
from trainer.config.schema import TrainingConfig
from trainer.data import decoder
from trainer.data.images import ImageProblem
from trainer.data.sets import scan_image_set
from trainer.errors import UserError
from trainer.lora.reading import read_adapter
from trainer.places import PROJECT

FOUND = PROJECT / "tests" / "corpus" / "found"
MOST_SECONDS = 20.0
"""Of processor time in this process; pictures have their own budget in theirs."""
_WORDS = (
    *(b"", b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\n", b"\r\n"),
    *(b'"', b"'", b'"""', b"[[", b"]]", b"{", b"}", b"=", b",", b":", b".", b"..", b"/", b"\\"),
    *(b"1e999", b"-1", b"nan", b"inf", b"0x", b"9" * 40, b"true", b"null", b"\\u0000", b"\\ud800"),
    *(
        b"<lora:",
        b">",
        b"Steps: 1, ",
        b"../",
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"IDAT",
        b"tEXt",
        b"!\xfe",
    ),
    *(
        "é".encode(),
        "\u202e".encode(),
        b"\xef\xbb\xbf",
        b"lora_unet_",
        b".lora_A.weight",
        b".alpha",
    ),
)


class TooLong(Exception):
    """What reads it has not come to an end."""


def pictures() -> list[bytes]:
    """A picture of each kind, plain and with more in it."""
    made: list[bytes] = []
    for kind, options in (
        *((k, {}) for k in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")),
        ("JPEG", {"progressive": True, "comment": b"x" * 50}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ):
        image = Image.effect_noise((40, 30), 60).convert("RGB")
        more = {"save_all": True, "append_images": [image]} if kind in ("GIF", "TIFF") else {}
        buffer = io.BytesIO()
        image.save(buffer, kind, **options, **more)
        made.append(buffer.getvalue())
    return made


def settings() -> list[bytes]:
    """The texts of pictures that carry settings."""
    facts = {"prompt": "a cat", "seed": 1, "inference_steps": 20, "guidance": 5.0}
    a1111 = "a cat <lora:style:0.8>, snow\nNegative prompt: dog\nSteps: 20, CFG scale: 7, Seed: 42"
    return [json.dumps({**facts, "adapters": ["cat:1:0.5"]}).encode(), a1111.encode()]


def archives() -> list[bytes]:
    """Zip files of pictures and captions."""
    made: list[bytes] = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as zipped:
            for name in ("10_cat/a.png", "10_cat/a.txt", "./b.png", "metadata.csv"):
                zipped.writestr(name, b"some bytes " * 30)
        made.append(buffer.getvalue())
    return made


def adapters() -> list[bytes]:
    """Adapter files in kohya's and PEFT's layout."""
    down, up = torch.zeros(2, 8), torch.zeros(8, 2)
    kohya = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    peft = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    alpha = torch.tensor(2.0)
    first = {
        f"{kohya}.lora_down.weight": down,
        f"{kohya}.lora_up.weight": up,
        f"{kohya}.alpha": alpha,
    }
    second = {f"{peft}.lora_A.weight": down, f"{peft}.lora_B.weight": up}
    config = json.dumps({"unet.lora_alpha": 4, "unet.alpha_pattern": {"to_q": 2}})
    facts = {"ss_tag_frequency": '{"a": {"b": 1}}', "modelspec.title": "x"}
    return [save(first, facts), save(second, {"lora_adapter_metadata": config})]


def tables() -> list[bytes]:
    """Captions and pictures in tables; the first byte says of which kind."""
    buffer = io.BytesIO()
    rows = {"image": [{"bytes": pictures()[0], "path": "a.png"}] * 3, "text": ["a", "b", "c"]}
    pq.write_table(pa.table(rows), buffer)
    csv = b'file_name,text\na.png,a cat\nb.png,"a, dog"\n'
    lines = b'{"file_name": "a.png", "text": "a cat"}\n{"file_name": "b.png", "text": 1}\n'
    return [b"c" + csv, b"j" + lines, b"p" + buffer.getvalue()]


def configurations() -> list[bytes]:
    """Every preset as a file."""
    return [format_config(apply_preset(TrainingConfig(), name)).encode() for name in PRESETS]


def headers() -> list[bytes]:
    """The headers of adapter files alone, without their lengths."""
    return [file[8 : 8 + int.from_bytes(file[:8], "little")] for file in adapters()[:1]]


def names() -> list[bytes]:
    """The names in zip files, and what is in each, one a line."""
    return [
        b"10_cat/a.png\tx\n10_cat/a.txt\ta cat\nmetadata.csv\tfile_name,text\n./b.png\tx\n",
        b"img/a.png\tx\nimg/masks/a.png\tx\nreg/1_man/a.mask.png\tx\n\xc3\xa9.focus\t0 1\n",
    ]


def read_picture(data: bytes, folder: Path) -> None:
    """In a process of its own; a crash or a time-out there is refused in words."""
    decoder.inspect_image(data)
    decoder.load_rgb(data)


def read_texts(data: bytes, folder: Path) -> None:
    """As settings of this program's and of another's picture."""
    for name in ("rarebit", "parameters"):
        info = PngInfo()
        info.add_itxt(name, data.decode("utf-8", "replace"))
        Image.new("RGB", (8, 8)).save(folder / "a.png", pnginfo=info)
        try:
            read_settings(folder / "a.png", {}, [])
        except UserError:
            continue


def read_archive(data: bytes, folder: Path) -> None:
    """As an upload."""
    (folder / "a.zip").write_bytes(data)
    (folder / "out").mkdir()
    unpack(folder / "a.zip", "a.zip", folder / "out", Limits())


def read_names(data: bytes, folder: Path) -> None:
    """As an upload whose own structure is sound, with a picture that counts."""
    with zipfile.ZipFile(folder / "a.zip", "w") as zipped, warnings.catch_warnings():
        zipped.writestr("zz.png", pictures()[0])
        warnings.simplefilter("ignore", UserWarning)  # zipfile's, of names that occur twice
        for line in data[:20_000].split(b"\n"):
            name, _, content = line.partition(b"\t")
            if not name:
                continue
            zipped.writestr(zipfile.ZipInfo(name.decode("utf-8", "replace")), content)
    try:
        stored = store_uploads(folder / "sets", [Upload(folder / "a.zip", "a.zip")])
        scan_image_set(stored.image_set.path)
    finally:
        assert {one.name for one in folder.iterdir()} <= {"a.zip", "sets"}, "written outside"


def read_weights(data: bytes, folder: Path) -> None:
    """As an adapter."""
    (folder / "a.safetensors").write_bytes(data)
    read_adapter(folder / "a.safetensors")


def read_header(data: bytes, folder: Path) -> None:
    """As an adapter whose header has the length that it gives."""
    content = adapters()[0]
    weights = content[8 + int.from_bytes(content[:8], "little") :]
    read_weights(len(data).to_bytes(8, "little") + data + weights, folder)


def read_table(data: bytes, folder: Path) -> None:
    """As the captions of an image set."""
    names = {b"c": "metadata.csv", b"j": "metadata.jsonl", b"p": "a.parquet"}
    (folder / names.get(data[:1], "a.txt")).write_bytes(data[1:])
    (folder / "a.png").write_bytes(pictures()[0])
    scan_image_set(folder)


def read_configuration(data: bytes, folder: Path) -> None:
    """As a file of settings."""
    (folder / "a.toml").write_bytes(data)
    read_config(folder / "a.toml")


Door = tuple[Callable[[], list[bytes]], Callable[[bytes, Path], None]]
DOORS: dict[str, Door] = {
    "picture": (pictures, read_picture),
    "settings": (settings, read_texts),
    "zip": (archives, read_archive),
    "names": (names, read_names),
    "adapter": (adapters, read_weights),
    "header": (headers, read_header),
    "table": (tables, read_table),
    "toml": (configurations, read_configuration),
}


def damaged(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A file with one to six changes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at, end = sorted(chance.randint(0, len(changed)) for _ in range(2))
        end = min(end, at + chance.choice((1, 4, 40, 4000)))
        how = chance.randrange(7)
        if how == 0:
            del changed[at:end]
        elif how == 1:
            changed[at:at] = changed[at:end] * chance.choice((1, 2, 100, 3000))
        elif how == 2:
            changed[at:end] = chance.choice(_WORDS)
        elif how == 3:
            changed[at:at] = chance.choice(_WORDS) * chance.choice((1, 2, 500, 20_000))
        elif how == 4 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif how == 5:
            changed[at:end] = chance.randbytes(end - at)
        else:
            other = chance.choice(others)
            changed[at:end] = other[at : end + chance.randrange(200)]
        del changed[2_000_000:]
    return bytes(changed)


def outcome(door: str, data: bytes) -> str:
    """ "read", "refused", or what went wrong as a traceback."""

    def expire(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGVTALRM, expire)
    with tempfile.TemporaryDirectory(prefix="rarebit-") as folder:
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
        try:
            DOORS[door][1](data, Path(folder))
        except (UserError, ImageProblem):
            return "refused"
        except Exception:
            return traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return "read"


def fuzz(minutes: float, seed: int) -> int:
    """Tries all doors in turn for so long; the number of findings, each kind of them once."""
    chance, ends = random.Random(seed), time.monotonic() + 60 * minutes
    good = {door: make() for door, (make, _) in DOORS.items()}
    counts: Counter[tuple[str, str]] = Counter()
    found: set[tuple[str, str]] = set()
    while time.monotonic() < ends:
        for door, files in good.items():
            data = damaged(chance.choice(files), files, chance)
            result = outcome(door, data)
            counts[door, result if result in ("read", "refused") else "found"] += 1
            place = "\n".join(result.splitlines()[-3:])
            if result in ("read", "refused") or (door, place) in found:
                continue
            found.add((door, place))
            FOUND.mkdir(parents=True, exist_ok=True)
            name = f"{door}-{hashlib.sha256(data).hexdigest()[:12]}"
            (FOUND / name).write_bytes(data)
            print(f"{name}\n{result}", file=sys.stderr, flush=True)
    print(f"{counts.total():,} files")
    for door in DOORS:
        told = ", ".join(f"{counts[door, how]:,} {how}" for how in ("read", "refused", "found"))
        print(f"{door}: {told}")
    return len(found)


def main() -> int:
    """Reads the command line; 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return 1 if fuzz(options.minutes, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
