"""The Images and Adapters tabs through their public verbs, served as the page is."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from app import client as service
from app.tabs.adapters import files as adapter_files
from tests.app.tabs.images.test_archives import one
from tests.trainer.data.folders_for_tests import picture, put
from trainer import places
from trainer.errors import UserError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine's folders: one set that came with it, one adapter."""
    root = tmp_path_factory.mktemp("home")
    put(root / "datasets" / "bundled", {"a.png": picture(1), "a.txt": "a car"})
    put(root / "adapters", {"cat.safetensors": b"weights"})
    return root


@pytest.fixture(scope="module")
def page(home: Path) -> Iterator[Client]:
    """The page, served on a free port."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(home / "uploads"))
    patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    patch.setattr(places, "DATASETS", home / "datasets")
    patch.setattr(places, "RUNS", home / "runs")
    patch.setattr(places, "ADAPTERS", home / "adapters")
    patch.setattr(service, "call", _answer)
    from app.page import build_page

    blocks = build_page()
    blocks.queue(default_concurrency_limit=None)
    _, url, _ = blocks.launch(
        prevent_thread_lock=True, quiet=True, ssr_mode=False, max_file_size="10mb"
    )
    yield Client(url, verbose=False, download_files=str(home / "downloads"))
    blocks.close(verbose=False)
    patch.undo()


def _answer(verb: str, arguments: dict[str, object], *_: object, **__: object) -> object:
    """What the service would say, where a test needs it."""
    if verb == "adapter.inspect":
        return {"file": Path(str(arguments["file"])).name, "family": "sd1"}
    if verb == "adapter.verify":
        return {"tools": {}}
    if verb == "adapter.download":
        with zipfile.ZipFile(str(arguments["out"]), "w") as archive:
            archive.write(str(arguments["file"]), f"{arguments['name']}.safetensors")
        return {}
    if verb == "trigger.suggest":
        return [{"word": "ohwx", "verdict": "good"}]
    raise UserError(f"There is no {verb} here.")


def upload(page: Client, tmp_path: Path, files: dict[str, bytes], into: str = "") -> dict:
    paths = [handle_file(put(tmp_path, {name: data}) / name) for name, data in files.items()]
    return page.predict(paths, "My cat", into, api_name="/upload_images")


def test_what_closes_a_question_asks_no_server(page: Client) -> None:
    """An answer that came late would close the question that was opened meanwhile."""
    ids = {part["id"]: str(part["props"].get("elem_id")) for part in page.config["components"]}
    asked = {
        ids[part]: event["backend_fn"]
        for event in page.config["dependencies"]
        for part, _ in event["targets"]
        if part in ids and ids[part].endswith(("-no", "-not"))
    }
    assert len(asked) >= 6 and not any(asked.values()), asked


def test_the_public_verbs_and_no_others(page: Client) -> None:
    names = set(page.view_api(return_format="dict")["named_endpoints"])  # type: ignore[index]
    ours = {"upload_images", "check_images", "save_caption", "suggest_triggers"}
    ours |= {"inspect_adapter", "download_adapter"}
    others = {"start_training", "stop_training", "run_status", "generate"}
    assert {f"/{name}" for name in ours} <= names <= {f"/{name}" for name in ours | others}


def test_from_pictures_to_captions(page: Client, home: Path, tmp_path: Path) -> None:
    files = {"red car.png": picture(1), "red car.txt": b"a red car", "b.png": picture(2)}
    stored = upload(page, tmp_path, files)
    assert (stored["pictures"], stored["captions"]) == (2, 1)
    name = stored["image_set"]
    report = page.predict(name, "tiny-emoji", api_name="/check_images")
    captions = {"0001-b.png": "", "0002-red-car.png": "a red car"}
    assert report["captions_by_picture"] == captions
    assert report["pictures"] == 2 and "64 × 64" in report["buckets"]
    version = report["versions"]["0002-red-car.png"]
    for text, saved in (("first", True), ("second", False)):
        answer = page.predict(name, "0002-red-car.png", text, version, api_name="/save_caption")
        assert (answer["saved"], answer["caption"]) == (saved, "first")
    folder = home / "datasets" / name
    assert (folder / "0002-red-car.txt").read_text() == "first\n"
    assert not [path for path in (home / "uploads").rglob("*.png") if "thumb" not in str(path)]
    more = upload(page, tmp_path / "more", {"c.png": picture(3)}, into=name)
    assert more["image_set"] == name and (folder / "0003-c.png").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bad.zip": one("../../evil.png")}, "outside the image set"),
        ({"letter.txt": b"x"}, "no picture among the files"),
        ({"huge.png": b"x" * 11_000_000}, "size"),  # gradio's own words
    ],
)
def test_refused_uploads_leave_nothing(
    files: dict[str, bytes], message: str, page: Client, home: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in (home / "datasets").iterdir())
    with pytest.raises(Exception, match=message):
        upload(page, tmp_path, files)
    assert sorted(path.name for path in (home / "datasets").iterdir()) == before
    assert not [*(home / "uploads").rglob("*.zip")]


@pytest.mark.parametrize("extra", [{"meta": {"_type": "gradio.FileData"}}, {"orig_name": "a.png"}])
def test_what_did_not_come_from_the_browser_is_not_read(
    extra: dict[str, object], page: Client, home: Path
) -> None:
    """Forged file data: a path on this machine that was never uploaded (fault 40)."""
    secret = put(home / "private", {"secret.png": picture(7)}) / "secret.png"
    forged = {"path": str(secret), **extra}
    call = f"{page.src}gradio_api/call/upload_images"
    event = httpx.post(call, json={"data": [[forged], "forged", ""]}).json()["event_id"]
    assert "event: error" in httpx.get(f"{call}/{event}", timeout=60).text
    assert not [*(home / "datasets").glob("forged*")] and secret.exists()


@pytest.mark.parametrize("set_id", ["../private", "/etc", "nothing", ""])
def test_sets_are_called_by_id(set_id: str, page: Client) -> None:
    with pytest.raises(AppError, match="no image set"):
        page.predict(set_id, "tiny-emoji", api_name="/check_images")


def test_sets_of_others_are_read_only(page: Client, home: Path) -> None:
    with pytest.raises(AppError, match="read only"):
        page.predict("bundled", "a.png", "x", "none", api_name="/save_caption")
    assert (home / "datasets" / "bundled" / "a.txt").read_text() == "a car"


def test_suggestions(page: Client) -> None:
    answer = page.predict("bundled", "tiny-emoji", "car", api_name="/suggest_triggers")
    assert answer == ["ohwx"]


def test_adapters(page: Client) -> None:
    facts = page.predict("file/cat.safetensors", api_name="/inspect_adapter")
    assert facts["family"] == "sd1"
    zipped = page.predict("file/cat.safetensors", api_name="/download_adapter")
    with zipfile.ZipFile(zipped) as archive:
        assert archive.read("cat.safetensors") == b"weights"
    with pytest.raises(AppError, match="no adapter"):
        page.predict("file/../private/secret.png", api_name="/download_adapter")
    adapter_files._ask.cache_clear()
