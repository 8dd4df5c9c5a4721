"""Hostile files of every kind that is read, given as a user would: one clear message each.

Never another exception, never over 5 seconds, never over 300 MB more memory. One process meets them
all, and tells of each what it said, took and needed. Pictures have a collection of their own in
`test_pillow_corpus`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.tabs.images.test_archives import BAD, make_zip
from tests.conftest import TinyBase
from tests.trainer.models.test_configs import UNFIT
from tests.trainer.models.test_safetensors_header import FOREIGN, MALFORMED, entry, header, packed
from tests.trainer.runs_for_tests import make_images
from trainer.commands.cli import main
from trainer.places import PROJECT

pytestmark = pytest.mark.timeout(600)

MOST_SECONDS = 5.0
MOST_BYTES = 300e6

# Reads a list of [name, door, arguments] and tells of each on a line of its own. The first ones are
# harmless and load what every door needs.
PROGRAM = """
from trainer.system import collect_garbage_rarely
collect_garbage_rarely()
import contextlib, io, json, os, pathlib, sys, time
from app.files import Upload
from app.tabs.images.uploads import store_uploads
from trainer.commands.cli import main
from trainer.errors import UserError

def high_water():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

def upload(root, file):
    try:
        store_uploads(pathlib.Path(root), [Upload(pathlib.Path(file), os.path.basename(file))])
    except UserError as error:
        print(f"error: {error.message}\\\\n       {error.hint}", file=sys.stderr)
        return 2
    return 0

for name, door, arguments in json.loads(sys.stdin.read()):
    output, said = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))  # strict
    told = {"name": name, "door": door}
    with contextlib.suppress(OSError):  # the kernel's high-water mark can be set back
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    before, started = high_water(), time.process_time()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(output):
            told["status"] = upload(*arguments) if door == "upload" else main(arguments)
    except BaseException as error:
        told["defect"] = f"{type(error).__name__}: {error}"[:500]
    told["seconds"] = time.process_time() - started
    told["grown"] = high_water() - before
    said.flush()
    told["said"] = said.buffer.getvalue().decode()
    print(json.dumps(told))
"""

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


ONE = b"\0\0\x80?"  # in fp32


def adapter(number: bytes = ONE, *more: tuple[str, str]) -> bytes:
    """A tiny adapter in kohya's layout, every number of it the same."""
    down = (f"{Q}.lora_down.weight", entry(0, 8, shape=[1, 2]))
    up = (f"{Q}.lora_up.weight", entry(8, 16, shape=[2, 1]))
    return packed(header(down, up, *more)) + number * 4


def diffusers(config: str) -> bytes:
    """A tiny adapter in diffusers' layout, with a configuration as JSON in its metadata."""
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    metadata = ("__metadata__", json.dumps({"lora_adapter_metadata": config}))
    down = (f"{name}.lora_A.weight", entry(0, 8, shape=[1, 2]))
    up = (f"{name}.lora_B.weight", entry(8, 16, shape=[2, 1]))
    return packed(header(metadata, down, up)) + ONE * 4


ADAPTERS: dict[str, tuple[bytes, str]] = {
    **MALFORMED,
    **FOREIGN,
    "NaN": (adapter(b"\0\0\xc0\x7f"), "NaN or infinite"),
    "infinite": (adapter(b"\0\0\x80\xff"), "NaN or infinite"),
    "truth values": (adapter(ONE, (f"{Q}.alpha", entry(16, 16, "BOOL", [0]))), "a format"),
    "alpha of no number": (adapter(ONE, (f"{Q}.alpha", entry(16, 16, shape=[0]))), "the shape 0"),
    "ranks differ": (adapter().replace(b"[2, 1]", b"[1, 2]"), "no pair of one rank"),
    "no tensors": (packed("{}"), "it is empty"),
    "nothing but zeros": (bytes(100_000), "damaged"),
    "text": (b"Access denied. " * 100, "damaged"),
    "name of a megabyte": (
        packed(header(("unet" + ".lora_A" * 150_000 + ".x", entry(0, 0)))),
        "damaged",
    ),
    "digits without end": (
        packed(header((f"lora_unet_input_blocks_{'9' * 50_000}_1_x.alpha", entry(0, 0)))),
        "damaged",
    ),
    "alpha NaN": (diffusers('{"unet.lora_alpha": NaN}'), "alpha is nan"),
    "alpha of 4,000 digits": (diffusers('{"unet.lora_alpha": ' + "9" * 4000 + "}"), "alpha is 9"),
    "alpha too deep": (diffusers('{"a":' * 20_000 + "1" + "}" * 20_000), "not a JSON object"),
    "pattern that never ends": (
        diffusers('{"unet.alpha_pattern": {"(a+)+$": 1}}'),
        "not a path",
    ),
}

SYSTEM = b"cposix\nsystem\n"


def pickles(canary: Path) -> dict[str, bytes]:
    """What makes a file when it is unpickled, in the formats that torch reads."""
    command = f"touch {canary}".encode()
    first = SYSTEM + b"(S'" + command + b"'\ntR."
    second = b"\x80\x02" + SYSTEM + b"X" + struct.pack("<I", len(command)) + command + b"\x85R."
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", second)
        archive.writestr("archive/version", "3\n")
    return {"protocol 0": first, "protocol 2": second, "of torch": zipped.getvalue()}


CONFIGS: dict[str, tuple[bytes, str]] = {
    "lists without end": (b"x = " + b"[" * 90_000 + b"]" * 90_000, "nested too deeply"),
    "deep lists": (b"[previews]\nprompts = " + b"[" * 300 + b"]" * 300, "a list of texts"),
    "deep tables": (b"x = " + b"{a=" * 300 + b"1" + b"}" * 300, "no such field"),
    "deep names": (b"a" + b".a" * 50_000 + b" = 1", "nested too deeply"),
    "huge number": (b"[training]\nsteps = " + b"9" * 5000, "thousands of digits"),
    "huge hexadecimal": (b"[training]\nsteps = 0x" + b"f" * 150_000, "expected a whole number"),
    "huge below zero": (b"[training]\nsteps = -1" + b"0" * 2000, "expected a whole number"),
    "huge fraction": (b"[optimizer]\nlearning_rate = 1e999", "learning_rate: inf given"),
    "NaN": (b"[optimizer]\nlearning_rate = nan", "learning_rate: nan given"),
    "wrong types": (b"[training]\nsteps = 'ten'\n[adapter]\nunet = 3", "has 2 mistakes"),
    "a time": (b"[training]\nsteps = 07:32:00", "training.steps"),
    "no section": (b"training = [[1]]", "expected a section"),
    "section twice": (b"[[training]]\nsteps = 3", "expected a section"),
    "unknown names": (b"[training]\nstpes = 3\n[x]\ny = 1", "did you mean training.steps"),
    "hostile names": (b'["a\\nb\\u202e"]\nx = 1', r"a\nb\u202e"),
    "20,000 unknown names": (
        b"[training]\n" + b"".join(b"k%d=1\n" % n for n in range(20_000)),
        "more than 100 mistakes",
    ),
    "one name 20,000 times": (b"[training]\n" + b"seed=1\n" * 20_000, "given already in line 2"),
    "10,000 concepts": (b"[[concepts]]\n" * 10_000, "more than 100 mistakes"),
    "spaces, and a mistake": (
        b"[previews]\nprompts = [\n" + b" " * 150_000 + b'"x",\n]\nseed = "x"',
        "previews.seed",
    ),
    "concepts in words": (b"concepts = 'x'", "[[concepts]]"),
    "BOM and a mistake": (b"\xef\xbb\xbf[training]\nsteps = 0", "line 2: training.steps"),
    "UTF-16": ("[training]\nsteps = 3".encode("utf-16"), "not UTF-8"),
    "half a surrogate pair": (b'[captions]\ntrigger = "\\ud800"', "Unicode"),
    "NUL": (b"[training]\nsteps = \x003", "line 2"),
    "binary": (bytes(range(256)) * 40, "not UTF-8"),
    "pickle": (b"\x80\x04\x95" + bytes(40), "not UTF-8"),
    "JSON": (b'{"training": {"steps": 3}}', "must be TOML"),
    "HTML": (b"<!doctype html><html></html>", "must be TOML"),
    "very large": (b"#" * 50_000_000, "over 200 KB"),
}


def overlapping() -> bytes:
    """Forty names for one packed file of a megabyte (D. Fifield's better zip bomb, halved)."""
    data = bytearray(make_zip(lambda z: z.writestr("00.png", bytes(1_000_000))))
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    listed = bytes(data[start:end])
    copies = b"".join(listed.replace(b"00.png", b"%02d.png" % number) for number in range(40))
    closing = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 40, 40, len(copies), start, 0)
    return bytes(data[:start]) + copies + closing


def unfinished() -> bytes:
    return make_zip(lambda z: z.writestr("a.png", os.urandom(100_000)))[:50_000]


ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    **BAD,
    "one file under forty names": (overlapping, "was not taken"),
    "first half": (unfinished, "damaged or no zip"),
    "list without end": (
        lambda: struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 2**31, 0, 0) * 100,
        "was not taken",
    ),
}

Case = tuple[str, str, list[str]]
"""A name, the door, and what is handed in there."""


class Cases:
    """Writes hostile files, each into a folder of its own, and lists what to do with them."""

    def __init__(self, root: Path, images: Path, base: Path) -> None:
        self.root, self.images, self.base = root, images, base
        self.listed: list[Case] = []
        self.said: dict[tuple[str, str], str] = {}

    def file(self, name: str, content: bytes) -> str:
        folder = self.root / f"{len(self.listed):03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return str(folder / name)

    def add(self, name: str, door: str, arguments: list[str], says: str) -> None:
        self.listed.append((name, door, arguments))
        self.said[name, door] = says

    def train(self, *more: str) -> list[str]:
        run = ["--run", str(self.root / "run"), "--trigger", "ohwx", "--images", str(self.images)]
        return ["train", *run, *more]

    def weights(self, name: str, file: str, content: bytes, says: str) -> None:
        """As an adapter, and as a base model."""
        path = self.file(file, content)
        self.add(name, "adapter", ["adapter", "inspect", path], says)
        self.add(name, "base", ["trigger", "ohwx", "--base", path], "")


@pytest.fixture(scope="module")
def prepared(
    tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cases, list[dict[str, Any]]]:
    """All cases, and what was told of them."""
    root = tmp_path_factory.mktemp("hostile")
    images = make_images(root / "images", count=1)
    cases = Cases(root / "files", images, tiny_base("sd1"))
    good, base = cases.file("good.safetensors", adapter()), str(cases.base)
    harmless: list[Case] = [
        ("harmless", "adapter", ["adapter", "inspect", good]),
        ("harmless", "base", ["trigger", "ohwx", "--base", base]),
        ("harmless", "config", ["check-images", str(images)]),
    ]
    for name, (content, says) in ADAPTERS.items():
        cases.weights(name, "x.safetensors", content, says)
    for name, content in pickles(root / "canary").items():
        for suffix in (".pt", ".ckpt", ".bin", ".pth", ".CKPT", ".safetensors", ""):
            cases.weights(f"pickle {name} {suffix}", f"x{suffix}", content, "")
        folder = Path(cases.file("x.pt", content)).parent
        for suffix in (".ckpt", ".bin"):
            (folder / f"x{suffix}").write_bytes(content)
        options = [f"preservation.folder={folder}", "preservation.method=pictures"]
        options.append(f"base.name={base}")
        settings = [word for option in options for word in ("--set", option)]
        arguments = cases.train("--class-word", "thing", *settings)
        cases.add(f"pickle {name}", "class pictures", arguments, str(folder))
        whole = Path(shutil.copytree(cases.base, folder / "base"))
        weights = whole / "unet" / "diffusion_pytorch_model.safetensors"
        weights.with_suffix(".bin").write_bytes(content)
        weights.unlink()
        cases.add(f"pickle {name}", "base folder", ["trigger", "x", "--base", str(whole)], ".bin")
    for name, (file, changes) in UNFIT.items():
        whole = Path(shutil.copytree(cases.base, root / "files" / f"base {name}"))
        config = json.loads((whole / file).read_bytes())
        (whole / file).write_text(json.dumps({**config, **changes}))
        drawing = ["generate", "--prompt", "x", "--out", str(root / "drawn"), "--base", str(whole)]
        cases.add(name, "base folder", drawing, "can't be right")
    for name, (content, says) in CONFIGS.items():
        path = cases.file("x.toml", content)
        cases.add(name, "config", cases.train("--config", path), says)
    for name, (make, says) in ZIPS.items():
        path = cases.file("x.zip", make())
        cases.add(name, "upload", [str(root / "sets"), path], says)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAREBIT_CACHE": str(root / "cache")},
        input=json.dumps([*harmless, *cases.listed]),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (told[-1:], done.stderr[-2000:])
    assert len(told) == len(harmless) + len(cases.listed)
    assert [one["status"] for one in told[: len(harmless)]] == [0] * len(harmless)
    return cases, told[len(harmless) :]


Prepared = tuple[Cases, list[dict[str, Any]]]


def test_each_is_one_clear_message(prepared: Prepared) -> None:
    cases, told = prepared
    assert [one for one in told if "defect" in one] == []
    assert [one for one in told if one["status"] != 2] == []
    unclear = []
    for one in told:
        said: str = one["said"]
        expected = cases.said[one["name"], one["door"]]
        most = 15_000 if one["door"] == "config" else 1500  # up to 100 mistakes, each on its line
        clear = said.startswith("error: ") and said.count("error: ") == 1 and len(said) < most
        if not clear or expected not in said:
            unclear.append(f"{one['door']}, {one['name']}: {said[:400]!r} and not {expected!r}")
    assert not unclear, "\n".join(unclear)


def test_none_takes_long_or_much(prepared: Prepared) -> None:
    _, told = prepared
    assert [one for one in told if one["seconds"] > MOST_SECONDS] == []
    assert [one for one in told if one["grown"] > MOST_BYTES] == []
    slowest = max(told, key=lambda one: one["seconds"])
    hungriest = max(told, key=lambda one: one["grown"])
    print(
        f"{len(told)} cases; slowest {slowest['name']} ({slowest['seconds']:.2f} s), "
        f"hungriest {hungriest['name']} ({hungriest['grown'] / 1e6:.0f} MB)"
    )


def test_nothing_ran_and_nothing_is_left(prepared: Prepared) -> None:
    cases, _ = prepared
    root = cases.root.parent
    assert not (root / "canary").exists()
    assert [path for path in (root / "sets").rglob("*") if path.is_file()] == []
    assert not (cases.root / "run").exists()
    assert not Path("/tmp/evil.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["resume", "a" * 5000],
        ["adapter", "inspect", "a" * 300],
        ["evaluate", "/dev/null/" + "a" * 300],
        ["train", "--trigger", "x", "--images", "a" * 5000, "--run", "absent"],
        ["train", "--trigger", "x", "--images", ".", "--run", "/dev/null/run"],
        ["train", "--config", "a\0b"],
        ["resume", "a\0b"],
        ["adapter", "inspect", "a\0b"],
    ],
    ids=[
        *("run", "adapter", "what is evaluated", "image set", "below a file"),
        *("NUL in a configuration", "NUL in a run", "NUL in an adapter"),
    ],
)
def test_a_path_that_no_file_can_have(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    assert len(said) < 800
