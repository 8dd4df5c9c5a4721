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
from trainer.places import PROJECT

try:
    from re import _constants as constants  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as constants  # type: ignore[no-redef]
    import sre_parse as parser  # type: ignore[no-redef]

USES = ("compile", "match", "fullmatch", "search", "sub", "findall", "finditer", "split")
SHORT = (
    "trainer/lora/", "trainer/models/",  # over names of tensors, of at most 500 characters
    "trainer/data/pairing.py", "trainer/data/scan.py", "trainer/data/folders.py",
    "trainer/data/masks.py", "trainer/runs/",
)  # fmt: skip
"""Rooms whose patterns see names only: of tensors, or of files, which the system bounds."""
REASONS: dict[str, str] = {
    r"[^\W_]+(?:['’-][^\W_]+)*": "the parts share no character, and each may end the match",
    r'("""|\'\'\').*?\1': "at most two openings stay unclosed in a text of 200 KB",
    r"\[+([^\[\]#=]+)\]": "matched once at the start of a line; the parts share no character",
    r"([\w\-.\"' \t]+)=": "matched once at the start of a line; the parts share no character",
    r"[^\W\d_]+|\d|(?:[^\w\s]|_)+": "nothing follows a repeat",
    r"(?im)^[a-z]{2,3}(?:[_@-][a-z]{1,12}){0,2}\.utf-?8=[^\r\n]*": "nothing follows the repeat",
    r"\d,\d+": "nothing follows the repeat",
    r"(?!.*negative).*(?:caption|prompt).*": "as a whole; over a column's name, cut to 100",
    r".*(?:tag|keyword).*": "as a whole; over a column's name, cut to 100",
    r".*(?:url|uri|hash|md5|sha\d*|licen[cs]e|source|author|artist|copyright|user|rating|split|"
    r"date|time|created|updated|status|format|mime|ext|type|category|path|file|name|id|model|"
    r"negative).*": "as a whole; over a column's name, cut to 100",
    r"\{([^{}|]*\|[^{}]*)\}": "each part ends at the next brace, where alone the next match begins",
    r"<(?:lora|lyco|hypernet|embedding):[^<>]*>": "ends at the next mark, where the next begins",
    r"(?<!\\)\(([^()\\]*[^()\\\d\s]\s*):[+-]?(?:\d(?:\.\d+)?|\.\d+)\)": "ends at the next bracket, "
    "where the next begins; each run of spaces is looked at once",
    r"(?<![\\(])\({2,}([^()\\]+)\){2,}|(?<!\{)\{{2,}([^{}|]+)\}{2,}|"
    r"(?<!\[)\[{2,}([^\[\]]+)\]{2,}": "a run of brackets is begun once; the parts share nothing",
    r"(?i)^(?:an?|the) +(?=\S)": "matched once at the start",
    r"<mark>[^<]*</mark>": "ends at the next mark, where the next begins",
    r"x[^/]*/": "begins with a mark that is in a name once",
    r"(.+?)(x)?(\(\d{1,5}\))?": "as a whole, over a file's name: one repeat",
    r"(?i)(?:img|dsc[nf]?|pxl|image|photo|screenshot)?[\W\d_]*": "of a name; no word is repeated",
    r'"(?:[^"\\]|\\[btnfr"\\])*\\(?:[^btnfr"\\uU]|u(?![\da-fA-F]{4})|U(?![\da-fA-F]{8}))': (
        "over a line; the parts share no sign"
    ),
    r"=\s*(?:True|TRUE|False|FALSE|[Yy]es|[Nn]o|[Oo]n|[Oo]ff|None|null)\b": "each = begins once",
    r"=\s*[^\W\d]": "each = begins once",
    r"^\s*\w+\s*:": "anchored at the start; the parts share no character",
    r"x +\"": "spaces after a comma: none is looked at twice",
    r"(?is)<(think|thinking|reasoning)>.*?(?:</\1>|\Z)": "an opening without an end takes the rest",
    r"(?m)^[ \t]{0,8}```.*$": "begins at a line's start, and ends at its end",
    r"function (\w+)\(e,t\)\{if\(e\.id===t\)return e;if\(e\.children\)for\(let n of e\.children\)"
    r"\{let e=\1\(n,t\);if\(e\)return e\}return null\}": "over a file of gradio's own",
    r"(?P<run>.+)@(?P<step>\d{1,7})": "matched as a whole: one repeat",
    r"(?:(?:down|up)_blocks\.\d+|mid_block)(?:\.attentions\.\d+)?": "over a layer's name; each run "
    "of digits ends at a dot or the end",
}


def patterns() -> Iterator[str]:
    """Every pattern in app/ and trainer/ but those over names; ``x`` for what is filled in."""
    for path in files("app", "trainer"):
        if path.relative_to(PROJECT).as_posix().startswith(SHORT):
            continue
        for name, call in calls(path):
            module, _, use = name.rpartition(".")
            if module == "re" and use in USES and call.args:
                yield text_of(call.args[0])


def text_of(pattern: ast.expr) -> str:
    """The pattern as far as it is written there."""
    if isinstance(pattern, ast.JoinedStr):
        return "".join(map(text_of, pattern.values))
    value = pattern.value if isinstance(pattern, ast.Constant) else "x"
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


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
    slow = {one for one in patterns() if not is_quick(one)}
    assert sorted(slow - set(REASONS)) == []
    assert sorted(set(REASONS) - slow) == [], "is not there any more"
