"""ONNX files: backgrounds removed, and tags; tiny graphs whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.trainer.data.folders_for_tests import picture, put
from trainer.captioning.masks import Prompt
from trainer.captioning.onnx_models import BackgroundRemover, Tagger, is_face, read_tags
from trainer.captioning.sets import caption_set
from trainer.captioning.wording import Wording
from trainer.data.findings import ImageProblem
from trainer.errors import UserError

TAGS = "tag_id,name,category,count\n1,general,9,1\n2,long_hair,0,1\n3,>_<,0,1\n4,hatsune_miku,4,1\n"
TAGS += "5,1girl,0,1\n6,some_one,4,1\n"
SHARES = (0.99, 0.4, 0.9, 0.9, 0.8, 0.6)


def save(path: Path, nodes: list, shapes: list[list], constants: dict[str, np.ndarray]) -> Path:
    """A graph from "in" to "out"."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(("in", "out"), shapes, strict=True)
    ]
    known = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def remover(path: Path, factor: float = 1.0, side: int | str = 16) -> Path:
    """Takes what is red for the subject."""
    weights = np.array([factor, 0, 0], np.float32).reshape(1, 3, 1, 1)
    nodes = [helper.make_node("Conv", ["in", "w"], ["out"])]
    return save(path, nodes, [[1, 3, side, side], [1, 1, side, side]], {"w": weights})


def tagger(folder: Path, table: str = TAGS, shares: tuple[float, ...] = SHARES) -> Path:
    """Sees the same in everything, if its input is one picture to 255, in BGR."""
    nodes = [
        helper.make_node("ReduceMax", ["in"], ["most"], axes=[1, 2], keepdims=0),
        helper.make_node("Gather", ["most", "blue"], ["share"], axis=1),
        helper.make_node("Div", ["share", "top"], ["one"]),
        helper.make_node("Mul", ["one", "shares"], ["out"]),
    ]
    constants = {
        "blue": np.array([0], np.int64), "top": np.array([255], np.float32),
        "shares": np.array([shares], np.float32),
    }  # fmt: skip
    save(folder / "model.onnx", nodes, [["N", 8, 8, 3], [1, len(shares)]], constants)
    (folder / "selected_tags.csv").write_text(table)
    return folder


def halves() -> Image.Image:
    """Red on black."""
    image = Image.new("RGB", (40, 20))
    image.paste((250, 0, 0), (20, 0, 40, 20))
    return image


@pytest.mark.parametrize(
    ("name", "factor", "side"),
    [
        ("u2net.onnx", 0.2, 16),
        ("isnet-general-use.onnx", 1.0, 16),
        ("BiRefNet.onnx", 40.0, 16),
        ("any.onnx", 0.3, "side"),
    ],
)
def test_a_background_is_removed(name: str, factor: float, side: int | str, tmp_path: Path) -> None:
    """Whatever its scale: the subject is white, the rest black, and the size the picture's."""
    mask = BackgroundRemover(remover(tmp_path / name, factor, side)).mask(halves(), Prompt())
    found = np.asarray(mask)
    assert mask.size == (40, 20) and (found[:, 25:] > 235).all() and (found[:, :15] < 20).all()


def test_nothing_to_tell_apart(tmp_path: Path) -> None:
    made = BackgroundRemover(remover(tmp_path / "a.onnx"))
    with pytest.raises(ImageProblem, match="finds no subject"):
        made.mask(Image.new("RGB", (9, 9), "red"), Prompt())


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"no model"),
        lambda path: save(path, [helper.make_node("Abs", ["in"], ["out"])], [[2], [2]], {}),
        lambda path: remover(path, side=100_000),
    ],
    ids=["damaged", "no picture", "huge"],
)
def test_what_is_no_such_model(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "x.onnx")
    with pytest.raises(UserError, match=r"x\.onnx"):
        BackgroundRemover(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("general", "character", "said"),
    [
        (0.35, 0.85, "hatsune miku, 1girl, long hair"),
        (0.5, 0.5, "hatsune miku, some one, 1girl"),
        (0.95, 0.95, None),
    ],
)
def test_tags_over_their_threshold(
    general: float, character: float, said: str | None, tmp_path: Path
) -> None:
    """Without ratings and signs; red is read as red."""
    images = put(tmp_path / "set", {"a.png": picture(1)})
    made = Tagger(tagger(tmp_path / "wd"), general=general, character=character)
    found = caption_set(images, lambda: made, Wording(trigger="ohwx"))
    if said is None:
        assert "sure of no tag" in found.problems["a.png"] and not found.proposals
        return
    assert [one.after for one in found.proposals] == [said] and found.captioner == "wd"
    blue = Image.new("RGB", (30, 60), (0, 0, 255))
    assert made.caption("b", blue, Wording()) == said


@pytest.mark.parametrize("table", ["", "a,b\n1,2\n", "name,category\n", TAGS + "7,more,0,1\n"])
def test_a_list_of_tags_that_does_not_fit(table: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"selected_tags\.csv"):
        Tagger(tagger(tmp_path, table)).caption("a", halves(), Wording())
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        read_tags(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("tag", [">_<", "0_0", "(o)_(o)", "x_x", "|_|"])
def test_tags_of_signs(tag: str) -> None:
    assert is_face(tag) and not is_face("long_hair") and not is_face("8_ball")
