"""No pattern takes long over a stranger's text, however long that is.

Python's patterns backtrack: a repeat without an end, followed by something that may be missing,
takes quadratic time or worse. Each such pattern is listed here, with the reason why it does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest

from tests.test_layers import calls, files
from trainer.lora import layouts

try:
    from re import _constants as constants  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as constants  # type: ignore[no-redef]
    import sre_parse as parser  # type: ignore[no-redef]

USES = ("compile", "match", "fullmatch", "search", "sub", "findall", "finditer", "split")
NAMES = "over the name of a tensor, of at most 500 characters"
FILES = "over the name of a file, which the system keeps short"
OURS = "over a text of our own"
KOHYA = "= f\"(lora_(?:unet|te[12]?)_[^.]+)\\\\.({'|'.join(map(re.escape, _KOHYA_KINDS))})\""
REASONS: dict[str, str] = {
    # Nothing can fail once the repeat has begun, or what follows is no character of it.
    r"[^\W_]+(?:['’-][^\W_]+)*": "the parts share no character, and each may end the match",
    r'("""|\'\'\').*?\1': "at most two openings stay unclosed in a text of 200 KB",
    r"\[+([^\[\]#=]+)\]": "matched once at the start of a line; the parts share no character",
    r"([\w\-.\"' \t]+)=": "matched once at the start of a line; the parts share no character",
    r"[^\W\d_]+|\d|(?:[^\w\s]|_)+": "nothing follows a repeat",
    "= before + '\\\\s+'.join(map(re.escape, parts)) + after": "each run of spaces is met once",
    "= phrase": "at most three words between; a word holds no space, so one way to match",
    "= re.escape(text)": "no repeat",
    "= f'(?<![\\\\w.]){re.escape(name)}(?![\\\\w.])'": "no repeat",
    "= letter": "no repeat",
    "= mark": NAMES,
    "= pattern": NAMES,
    "= unet if key.part == 'unet' else text": NAMES,
    r" at (line \d+ col \d+|end of file)": "each part begins with another word",
    r"parameterization:\s*[\"']?v\b": "each attempt begins with another word; over 64 KB",
    r"(?P<run>.+)@(?P<step>\d{1,7})": "matched as a whole: one repeat",
    r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)": "as a whole; / is in neither part",
    r"\^?(?:[\w-]|\\?\.)+\$?": "matched as a whole; the alternatives share no character",
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?": "matched as a whole; ends with the repeat",
    # Over short texts.
    r"(unet|text_encoder_2|text_encoder)\.(.+)": NAMES,
    r"(lora_unet|lora_te[12]?)_(.+)": NAMES,
    r"(.+\.attentions\.\d+\.)(proj_in|proj_out|transformer_blocks\..+)": NAMES,
    r"(.+?_\d_)(proj_in|proj_out|transformer_blocks_.+)": NAMES,
    r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)": OURS,
    r"mid_block\.(\w+)\.(\d+)\.(.*)": OURS,
    r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)": OURS,
    KOHYA: NAMES,
    layouts._PATHS.pattern: NAMES,
    r"encoder\.down_blocks\.(\d+)": NAMES,
    r"down_blocks\.(\d+)": NAMES,
    r"up_blocks\.(\d+)": NAMES,
    r"mid_block\.resnets\.(\d+)": NAMES,
    r"\..+\.[0-9a-f]{8}\.tmp|\.tmp[0-9A-Za-z]{6}": FILES,
    r"[\w-]+\.png": FILES,
    r"([0-9]+)_": FILES,
    r"step-(\d{6,})": FILES,
}


def patterns() -> Iterator[str]:
    """Every pattern that is written in app/ and trainer/; ``= EXPRESSION`` of one that is made."""
    for path in files("app", "trainer"):
        for name, call in calls(path):
            module, _, use = name.rpartition(".")
            if module != "re" or use not in USES or not call.args:
                continue
            first = call.args[0]
            value = first.value if isinstance(first, ast.Constant) else f"= {ast.unparse(first)}"
            yield value.decode("latin-1") if isinstance(value, bytes) else str(value)


def endless(tree: Any, *, inside: bool = False) -> Iterator[bool]:
    """For each repeat without an end, whether it is within another one."""
    for kind, value in tree:
        if kind in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            repeats = value[1] >= 200
            if repeats:
                yield inside
            yield from endless(value[2], inside=inside or repeats)
        elif kind is constants.SUBPATTERN:
            yield from endless(value[-1], inside=inside)
        elif kind is constants.BRANCH:
            for branch in value[1]:
                yield from endless(branch, inside=inside)
        elif kind in (constants.ASSERT, constants.ASSERT_NOT):
            yield from endless(value[1], inside=inside)


def is_quick(pattern: str) -> bool:
    """Whether it is linear by its form: without an endless repeat, or one such and nothing else."""
    tree: Any = parser.parse(pattern)
    found = list(endless(tree))
    alone = len(tree) == 1 and tree[0][0] is constants.MAX_REPEAT and len(tree[0][1][2]) == 1
    return not found or (found == [False] and alone)


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        (r"[^a-z0-9]+", True),
        (r"\.[A-Za-z0-9]{1,8}", True),
        (r"\s*<lora:[^>]*>", False),
        (r"<lora:([^>]+)>", False),
        (r"([A-Z][\w ]*): ([^,]+)", False),
        (r"(?:a+)+", False),
        (r"(a|b)*c", False),
    ],
)
def test_what_is_quick(pattern: str, quick: bool) -> None:
    assert is_quick(pattern) is quick


def test_every_other_pattern_has_a_reason() -> None:
    slow = {one for one in patterns() if one.startswith("= ") or not is_quick(one)}
    assert sorted(slow - set(REASONS)) == []
    assert sorted(set(REASONS) - slow) == [], "is not there any more"
