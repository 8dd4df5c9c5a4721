"""The board's rows: one for each kind of prompt, and for each trigger word."""

from __future__ import annotations

from trainer.evaluation.board import board_rows
from trainer.evaluation.prompts import PromptSets


def sets(word: str, kind: str) -> PromptSets:
    return PromptSets((f"{word} {kind}",), (kind,), (f"like a {kind}",), ("", "an apple"))


def test_every_concept_has_its_rows() -> None:
    one = {"ohwx": sets("ohwx", "bear")}
    assert list(board_rows(one)) == ["trigger", "class word", "neighbour", "unrelated"]
    rows = board_rows(one | {"zkrv": sets("zkrv", "bird")})
    assert rows["trigger, zkrv"] == "zkrv bird" and rows["class word, ohwx"] == "bear"
    assert rows["neighbour"] == "like a bear" and len(rows) == 6
