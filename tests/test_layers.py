"""Who may import what: the rooms of the house, and the doors between them.

Each rule is checked on the syntax tree of every file, and the rule about torch also by importing.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from trainer.places import PROJECT

HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "pytorch_optimizer", "gradio"}
CODE_LOADERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
}
LIGHT = ("answers", "errors", "events", "seeds", "places", "system", "text", "untyped")
LIGHT_PACKAGES = ("config", "runs", "data")
LIGHT_MODULES = (
    *("trainer.models.families", "trainer.models.identify"),
    *("trainer.captioning.wording", "trainer.captioning.server", "trainer.captioning.masks"),
    *("trainer.captioning.memory", "trainer.tuning.space", "trainer.evaluation.verdicts"),
)
HEAVY_MODULES = ("trainer.data.latents", "trainer.data.cache")


def files(*places: str) -> list[Path]:
    """All Python files in the given folders, or the given files."""
    found: list[Path] = []
    for place in places:
        path = PROJECT / place
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.is_file()
    return found


def imports(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Every module that is imported anywhere in a file, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = ".".join(package.split(".")[: -node.level + 1 or None]) if node.level else ""
            module = ".".join(part for part in (stem, node.module or "") if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func).endswith("import_module"):
            yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def name_of(path: Path) -> str:
    """The dotted name of a file's module."""
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    package = ".".join(path.relative_to(PROJECT).parent.parts)
    return set(imports(ast.parse(path.read_bytes()), package))


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the dotted name of what is called."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call):
            yield _name(node.func), node


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def shown(paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(PROJECT).as_posix() for path in paths]


def test_the_rules_look_at_something() -> None:
    assert len(files("trainer")) > 30
    tree = ast.parse("import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g")
    names = {"a.b", "c", "c.d", "x.y", "x.y.e", "x.f", "x.f.g"}
    assert set(imports(tree, "x.y")) == names
    assert {name for name, _ in calls(Path(__file__))} >= {"ast.walk", "subprocess.run"}


def test_trainer_knows_nothing_of_the_page() -> None:
    assert not [path for path in files("trainer") if tops(path) & {"app", "gradio", "launch"}]


def test_page_never_touches_a_tensor() -> None:
    heavy = HEAVY - {"gradio"}
    assert shown(path for path in files("app") if tops(path) & heavy) == []
    allowed = {f"trainer.{name}" for name in (*LIGHT, *LIGHT_PACKAGES)}
    for path in files("app"):
        of_trainer = {name for name in imported(path) if name.startswith("trainer.")}
        of_trainer = {name for name in of_trainer if not name.startswith(LIGHT_MODULES)}
        rooms = {".".join(name.split(".")[:2]) for name in of_trainer}
        assert rooms <= allowed, path
        assert not of_trainer & set(HEAVY_MODULES), path


JUDGE = PROJECT / "benchmarks" / "judge.py"


def reads_tensors_only(call: ast.Call) -> bool:
    """Whether ``weights_only=True`` stands in the call itself."""
    values = [one.value for one in call.keywords if one.arg == "weights_only"]
    return [getattr(value, "value", None) for value in values] == [True]


def test_nobody_loads_code_from_data() -> None:
    everything = files("trainer", "app", "launch.py", "tests", "benchmarks", "models")
    assert shown(path for path in everything if tops(path) & CODE_LOADERS) == []
    for path in files("trainer", "app", "launch.py", "benchmarks", "models"):
        for name, call in calls(path):
            # The judge of the benchmarks comes as a pickle; torch reads only its tensors.
            if not (path == JUDGE and name == "torch.load" and reads_tensors_only(call)):
                assert name not in ("torch.load", "torch.save", "eval", "exec"), path
            flags = {keyword.arg for keyword in call.keywords}
            assert not flags & {"allow_pickle", "trust_remote_code", "shell"}, path


OPENERS = ("Image.open", "PIL.Image.open", "cv2.imread", "cv2.imdecode", "cv2.VideoCapture")


def test_one_door_for_pictures() -> None:
    opening = {
        path
        for path in files("trainer", "app")
        if any(name in OPENERS for name, _ in calls(path))
        or tops(path) & {"imageio", "skimage", "torchvision"}
    }
    assert shown(opening) == ["trainer/data/images.py"]


def test_one_call_of_a_unet_and_one_encoding_of_text() -> None:
    calling = {
        path
        for path in files("trainer", "app")
        if any(name.endswith(".unet") or name == "encoder" for name, _ in calls(path))
    }
    assert shown(calling) == ["trainer/diffusion.py"]


def test_training_knows_no_meter() -> None:
    """The runner hands the measuring to the loop."""
    knowing = [
        path
        for path in files("trainer/training")
        if any(name.startswith("trainer.evaluation") for name in imported(path))
    ]
    assert shown(knowing) == ["trainer/training/runner.py"]


def test_one_place_starts_processes() -> None:
    starting = {
        path
        for path in files("trainer", "app")
        if tops(path) & {"subprocess", "multiprocessing", "pty"}
        or any(
            name in ("os.system", "os.popen", "os.fork") or name.startswith(("os.exec", "os.spawn"))
            for name, _ in calls(path)
        )
    }
    assert set(shown(starting)) == {"app/jobs.py", "trainer/data/decoder.py"}


def test_launcher_needs_the_standard_library_only() -> None:
    assert tops(PROJECT / "launch.py") <= set(sys.stdlib_module_names)


def test_data_folders_hold_no_code() -> None:
    """A package named datasets would stand in front of Hugging Face's."""
    assert shown(files("datasets")) == []


@pytest.mark.parametrize("package", ["", *LIGHT_PACKAGES])
def test_light_rooms_stay_light_by_their_imports(package: str) -> None:
    """What lies outside a light room, and is itself not light, is not imported at the top."""
    paths = files(f"trainer/{package}") if package else files(*(f"trainer/{n}.py" for n in LIGHT))
    assert paths
    for path in paths:
        if name_of(path) in HEAVY_MODULES:
            continue
        assert not tops(path) & (HEAVY | {"safetensors", "huggingface_hub"}), path


def test_light_rooms_load_nothing_heavy() -> None:
    light = [f"trainer/{name}.py" for name in LIGHT] + [f"trainer/{p}" for p in LIGHT_PACKAGES]
    modules = [name for path in files(*light) if (name := name_of(path)) not in HEAVY_MODULES]
    modules += LIGHT_MODULES
    code = f"import sys\nfor name in {modules}: __import__(name)\nprint(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not {name.split(".")[0] for name in done.stdout.split()} & HEAVY
