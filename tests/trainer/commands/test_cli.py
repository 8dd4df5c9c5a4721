"""The command line: exit statuses, and one clear sentence for each mistake."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import TinyBase
from tests.trainer.commands.asking import asked
from tests.trainer.runs_for_tests import SMALL, make_images, small_config
from trainer import __version__
from trainer.commands.cli import main
from trainer.commands.train import Sources
from trainer.config.file import read_config, write_config
from trainer.places import PROJECT
from trainer.runs.layout import RunFolder
from trainer.runs.status import read_status

COMMANDS = [
    *("train", "resume", "worker", "service", "generate", "trigger", "check-images", "evaluate"),
    *("fit", "doctor", "adapter", "import"),
    *(f"adapter {action}" for action in ("inspect", "verify", "convert", "resize", "merge")),
    *(f"adapter {action}" for action in ("extract", "recipe", "download")),
]
WORKS = "Works in diffusers; not in A1111, Forge, ComfyUI, InvokeAI, sd-scripts (it is for the"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and caches go where the test is."""
    monkeypatch.setenv("RAREBIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trainer.commands.train.RUNS", tmp_path / "runs")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


@pytest.fixture
def training(tiny_base: TinyBase, images: Path) -> list[str]:
    """The command for a training on a tiny base."""
    line = ["train", "--images", str(images), "--trigger", "ohwx"]
    return [*line, "--base", str(tiny_base("sd1"))]


def settings(**changes: object) -> list[str]:
    """``--set`` for a run of a second; changes by dotted name with "__" for the dot."""
    values = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return [
        part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")
    ]


def test_train_resume_and_generate(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--class-word", "thing", "--no-train-text-encoder", "--rank", "4"]
    assert main([*training, *more, *settings(training__steps=3, adapter__rank=4)]) == 0
    output = capsys.readouterr().out
    for part in ("Trains 48 UNet layers", "step 3/3", "loss", "rate", "left", "Report:"):
        assert part in output, output
    assert output.splitlines()[-1].startswith(WORKS)  # tiny ones have other sizes
    adapter = tmp_path / "runs" / "ohwx" / "adapter.safetensors"
    assert str(adapter) in output
    assert "generate --base" in output

    arguments = ["generate", *training[-2:], "--adapter", f"{adapter}:0.5", "--prompt", "ohwx"]
    assert main([*arguments, "--count", "1", "--inference-steps", "2", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "000001.png").is_file()

    assert main(["resume", "ohwx"]) == 0  # already finished: says so by ending at once
    assert main(["resume", str(tmp_path / "nowhere")]) == 2
    assert "is not a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--images", "{empty}"], "holds no picture that can be used"),
        (["--images", "{tmp}/absent"], "does not exist"),
        (["--resolution", "40"], "images.resolution 40 is not a multiple of 16"),
        (["--base", "no-such-model"], "no-such-model"),
        (["--rank", "0"], "adapter.rank"),
        (["--steps", "1000000000"], "training.steps"),
        (["--set", "trainig.steps=3"], "training.steps"),
        (["--set", "optimizer.learning_rate=nan"], "optimizer.learning_rate"),
        (["--set", "training.precision=fp16"], "fp16"),
        (["--trigger", ""], "no trigger word was given"),
        (["--config", "{tmp}/absent.toml"], "absent.toml"),
        (["--preset", "fast"], "no preset"),
        (["--preset", "fast", "--preset", "quick"], "no preset"),
        (["--base", "sdxl"], "stabilityai/stable-diffusion-xl-base-1.0 (SDXL)"),
        (["--run", "{images}"], "exists already"),
    ],
)
def test_each_mistake_is_one_message_and_leaves_nothing(
    training: list[str],
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    before = sorted(images.iterdir())
    places = {"tmp": tmp_path, "empty": tmp_path / "empty", "images": images}
    given = [part.format(**places) for part in changes]
    capsys.readouterr()  # what making the tiny base model has printed
    assert main([*training, *given]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "runs").glob("*"))
    assert sorted(images.iterdir()) == before


def test_a_wrong_base_for_an_adapter_is_refused(
    training: list[str], tiny_base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*training, *settings(), "--base", str(tiny_base("sdxl"))]) == 0
    adapter = tmp_path / "runs" / "ohwx" / "adapter.safetensors"
    arguments = ["generate", *training[-2:], "--adapter", str(adapter)]
    assert main([*arguments, "--prompt", "ohwx", "--out", str(tmp_path / "out")]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_check_images(
    tiny_base: TinyBase, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:100])
    Image.new("RGB", (4, 4)).save(images / "small.png")
    arguments = ["check-images", str(images), "--base", str(tiny_base("sd1"))]
    assert main([*arguments, "--trigger", "ohwx"]) == 0
    text = capsys.readouterr().out
    assert "4 pictures can be trained on, 2 left out" in text
    assert "broken.png" in text
    report = asked(capsys, *arguments)
    assert (report["pictures"], report["left_out"]) == (4, 2)


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from trainer.commands.cli import main\n"
        f"for command in {COMMANDS}: assert main([*command.split(), '--help']) == 0\n"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False)
    assert done.returncode == 0


def test_garbage_is_sought_rarely_among_what_libraries_leave() -> None:
    gc.set_threshold(700, 10, 10)
    assert main(["--version"]) == 0
    assert gc.get_threshold() == (700, 10, 1000)


def test_the_help_leads_to_the_page_and_the_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the page opens in the browser; ui --help" in told and "launch.py test runs" in told
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["rarebit", __version__]


@pytest.mark.parametrize(
    "arguments",
    [[], ["train", "--nonsense"], ["fly"], ["generate"], ["fit", "--vram", "x"], ["adapter"]],
)
def test_unknown_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ") and "--help lists what it takes" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "{file}"], "it is a file"),
        (["evaluate", "{file}", "--images", "nowhere"], "nowhere does not exist"),
        (["import", "{file}", "--out", "{file}.d/x/c.toml"], "no such path"),
    ],
)
def test_wrong_paths(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.toml"
    file.write_text('network_module = "networks.lora"\nunet_lr = 1e-4\nmax_train_steps = 3\n')
    assert main([part.format(file=file) for part in arguments]) == 2
    assert message in capsys.readouterr().err


def test_check_images_of_several_concepts(
    tiny_base: TinyBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [make_images(tmp_path / name, count) for name, count in (("a", 2), ("b", 3))]
    arguments = ["check-images", "--base", str(tiny_base("sd1"))]
    concepts = [f"--concept={folders[0]}:ohwx:thing", f"--concept={folders[1]}:bnha:thing"]
    report = asked(capsys, *arguments, *concepts)
    assert [concept["pictures"] for concept in report["concepts"]] == [2, 3]
    found = {finding["message"]: finding["pictures"] for finding in report["findings"]}
    messages = list(found)
    # The two pictures of the one folder are the first two of the other.
    (same,) = [message for message in messages if "same picture in several concepts" in message]
    assert found[same] == ["a/0.png, b/0.png", "a/1.png, b/1.png"]
    assert sum("class word of ohwx" in message for message in messages) == 1
    assert main([*arguments, concepts[0], f"--concept={folders[0]}:bnha:thing"]) == 0
    assert "same picture" in capsys.readouterr().out
    for wrong in ([], [str(folders[0]), *concepts]):
        assert main([*arguments, *wrong]) == 2
        assert "folder, or concepts" in capsys.readouterr().err


def test_running_out_of_gpu_memory_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    monkeypatch.setattr("trainer.lora.inspection.inspect_file", out_of_memory)
    assert main(["adapter", "inspect", "x"]) == 2
    assert "GPU's memory is not enough" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes there are told of in another way")
def test_a_closed_pipe_ends_printing_and_not_the_run(training: list[str], tmp_path: Path) -> None:
    more = [*settings(), "--run", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", *training, *more],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "Loading …\n"
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "BrokenPipe" not in errors
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is none on Windows")
def test_a_closed_terminal_stops_a_run_after_saving(training: list[str], tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    more = [*settings(training__steps=100_000), "--run", str(run.path)]
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", *training, *more],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step "):
                process.send_signal(signal.SIGHUP)
                break
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    status = read_status(run)
    assert status is not None and (status.phase, status.code) == ("stopped", "user_stop")
    assert run.checkpoint_steps() == [status.step]


@pytest.mark.parametrize("there", [True, False])
def test_a_refused_run_leaves_the_users_own_folder(
    there: bool, training: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "mine"
    if there:
        run.mkdir()
    assert main([*training, "--run", str(run), "--set", "images.resolution=33"]) == 2
    assert run.is_dir() is there
    assert not there or list(run.iterdir()) == []


def test_a_run_of_which_nothing_was_saved_starts_again_with_its_settings(
    training: list[str],
    tiny_base: TinyBase,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed before its first checkpoint: the hints lead on, and not in a circle."""
    run = RunFolder(tmp_path / "killed")
    config = small_config(tiny_base("sd1"), images, training__steps=2, training__seed=7)
    run.path.mkdir()
    write_config(run.config, config)
    assert main([*training, "--run", str(run.path)]) == 2
    assert f"launch.py resume {run.path}" in capsys.readouterr().err
    assert main(["resume", str(run.path)]) == 0
    assert "has no checkpoint" in capsys.readouterr().out
    assert read_config(run.config).training.seed == 7
    assert run.adapter.is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    assert main([*training, "--run", str(tmp_path / "other")]) == 2
    assert "resume" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\x07b", "\x9b2J", "\u202egnp", "a\rb", "\udce9"])
def test_a_terminal_is_shown_what_it_would_obey(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = (
        ["resume", name],
        ["adapter", "inspect", f"{name}.safetensors"],
        ["train", "--images", name, "--trigger", name],
        ["train", "--config", name],
        ["trigger", name, "--base", name],
        ["check-images", name],
    )
    for arguments in commands:
        assert main(arguments) == 2
        said = "".join(capsys.readouterr())
        assert not set(said) & set("\x1b\x07\x9b\u202e\r\udce9"), arguments


def test_one_picture_is_shown_as_it_trains(
    tiny_base: TinyBase, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "0.txt").write_text("a red \\(thing\\)\na blue thing")
    Image.new("L", (32, 32), 255).save(images / "0.mask.png")
    (images / "!").mkdir()
    shutil.copy(images / "1.png", images / "!" / "0.png")
    out = tmp_path / "shown.png"
    arguments = ["check-images", str(images), "--base", str(tiny_base("sd1")), "--trigger", "ohwx"]
    arguments += ["--resolution", "32", "--masks", "files", "--show", "0.png", "--out", str(out)]
    shown = asked(capsys, *arguments)
    texts = [caption["text"] for caption in shown["captions"]]
    assert texts == ["ohwx, a red (thing)", "ohwx, a blue thing"]
    assert shown["captions"][1]["chunks"][0][-1] == "thing</w>"
    with Image.open(out) as picture, Image.open(images / "0.png") as original:
        assert picture.size == (64, 32)  # the mask at its right
        assert picture.crop((0, 0, 32, 32)).tobytes() == original.convert("RGB").tobytes()
        assert picture.getpixel((40, 9)) == (255, 255, 255)
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_of_several_presets_a_later_one_wins() -> None:
    config = Sources(presets=["sdxl-11gb", "quick"], overrides=["training.seed=7"]).gathered({})
    assert (config.images.resolution, config.training.steps, config.training.seed) == (1024, 300, 7)
