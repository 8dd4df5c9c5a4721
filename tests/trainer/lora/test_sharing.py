"""What people pass on: an archive that shows the adapter and betrays nobody, and the recipe."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from tests.conftest import TinyBase
from tests.trainer.runs_for_tests import digest, make_images, small_config, train_small
from trainer.commands.cli import main
from trainer.config.file import read_config
from trainer.errors import UserError
from trainer.lora.adapter import Adapter
from trainer.lora.metadata import CHANGED_KEY, CONFIG_KEY, recipe_of
from trainer.lora.reading import read_adapter
from trainer.lora.sharing import THUMBNAIL_KEY, picture_of, share
from trainer.training.runner import Result


@pytest.fixture(scope="module")
def trained(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A run, and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("secret-folder")
    images = make_images(folder / "private-pictures")
    config = small_config(
        tiny_base("sd1"), images, output__author="me", output__license="CC0", previews__every=2
    )
    return train_small(config, folder / "run")[0], images


def test_a_download_holds_the_adapter_and_its_sidecars(
    trained: tuple[Result, Path], tmp_path: Path
) -> None:
    result, _ = trained
    before = result.run.adapter.read_bytes()
    out = tmp_path / "a.zip"
    names = share(result.run.adapter, out)
    assert names == ["ohwx thing.safetensors", "ohwx thing.json", "ohwx thing.png"]
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == names
        archive.extractall(tmp_path)
        text = b"".join(archive.read(name) for name in names)
    for private in (b"secret-folder", b"private-pictures", str(Path.home()).encode()):
        assert private not in text
    assert result.run.adapter.read_bytes() == before
    with safe_open(tmp_path / names[0], framework="pt") as shared:
        metadata = shared.metadata()
    with safe_open(result.run.adapter, framework="pt") as original:
        assert metadata.pop(THUMBNAIL_KEY).startswith("data:image/jpeg;base64,")
        own = original.metadata()
    assert THUMBNAIL_KEY not in own  # the bytes of a training do not depend on its previews
    assert {**own, "sshs_legacy_hash": ""} == {**metadata, "sshs_legacy_hash": ""}
    assert (own["modelspec.author"], own["modelspec.license"]) == ("me", "CC0")
    with Image.open(tmp_path / names[2]) as picture:
        assert picture.format == "PNG"
        assert not picture.info
    assert share(result.run.adapter, tmp_path / "b.zip") == names
    assert (tmp_path / "b.zip").read_bytes() == out.read_bytes()


def test_the_thumbnail_is_the_last_preview_with_the_adapter(
    trained: tuple[Result, Path], tmp_path: Path
) -> None:
    result, _ = trained
    found = picture_of(result.run.adapter)
    assert found is not None
    assert found.parent == result.run.preview(4)
    share(result.run.adapter, tmp_path / "a.zip", "../n<a>me", found)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist()[0] == "n a me.safetensors"
        archive.extract("n a me.safetensors", tmp_path)
    metadata = read_adapter(tmp_path / "n a me.safetensors").metadata
    data = base64.b64decode(metadata[THUMBNAIL_KEY].partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        assert not picture.getexif()
        assert "comment" not in picture.info


def test_without_a_picture(trained: tuple[Result, Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(trained[0].run.adapter.read_bytes())
    assert picture_of(alone) is None
    assert share(alone, tmp_path / "a.zip") == ["ohwx thing.safetensors", "ohwx thing.json"]
    (tmp_path / "alone.png").write_bytes(b"no picture")
    assert share(alone, tmp_path / "a.zip") == ["ohwx thing.safetensors", "ohwx thing.json"]


def test_the_recipe_trains_the_same_bytes_again(
    trained: tuple[Result, Path],
    tiny_base: TinyBase,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, images = trained
    assert main(["adapter", "recipe", str(result.run.adapter), "--out", f"{tmp_path}/c.toml"]) == 0
    assert "--images DIR --base BASE\n" in capsys.readouterr().out
    recipe, original = read_config(tmp_path / "c.toml"), read_config(result.run.config)
    same = {"images", "previews", "checkpoints", "base", "evaluation"}
    assert recipe.model_dump(exclude=same) == original.model_dump(exclude=same)
    assert recipe.evaluation.validation == original.evaluation.validation
    assert recipe.images.path == Path()
    smaller = [str(result.run.adapter), "--out", f"{tmp_path}/b.safetensors"]
    for change, changed in ((["resize", "--rank", "1"], True), (["convert"], False)):
        assert main(["adapter", *change, *smaller, "--force"]) == 0
        assert (CHANGED_KEY in read_adapter(tmp_path / "b.safetensors").metadata) == changed
    arguments = ["--config", str(tmp_path / "c.toml"), "--images", str(images)]
    arguments += ["--base", str(tiny_base("sd1")), "--run", str(tmp_path / "again")]
    arguments += ["--set", "previews.inference_steps=1"]
    assert main(["train", *arguments]) == 0
    assert digest(tmp_path / "again/adapter.safetensors") == digest(result.run.adapter)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "records no recipe"),
        ("[1, 2]", "records no recipe"),
        ("{" * 100_000, "records no recipe"),
        (json.dumps({"adapter": {"rank": -1}, "surprise": {}}), "2 mistakes"),
        (json.dumps({"adapter": 3}), "adapter"),
    ],
)
def test_recipes_of_strangers(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        recipe_of(Adapter({}, metadata={CONFIG_KEY: text}))
