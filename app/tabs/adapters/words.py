"""The trigger words of adapters, and a prompt to begin with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app import jobs
from app.tabs.adapters.files import ListedAdapter, find_adapter, inspect
from trainer.config.file import ConfigError, read_config
from trainer.data.captions import contains_word
from trainer.errors import UserError
from trainer.runs.board import preview_records
from trainer.text import name_subject

_MOST_WORDS = 20


class Words(NamedTuple):
    """What an adapter answers to.

    Attributes:
        triggers: its trigger words.
        prompt: one that it has been drawn with, or "".
    """

    triggers: tuple[str, ...]
    prompt: str = ""


_known: dict[tuple[ListedAdapter, int], Words] = {}
"""Of files of other tools, by the time that they were written at."""


def of_all(chosen: Sequence[str | None], ask: bool = True) -> list[Words]:
    """The words of each adapter that is chosen, by id.

    Args:
        ask: whether the worker may be asked about files of other tools, which can take seconds
            when it has to start; otherwise what it has said before counts.

    Raises:
        UserError: an adapter is gone, or can't be read.
    """
    return [_words(find_adapter(one), ask) for one in dict.fromkeys(chosen) if one]


def suggested_prompt(known: Iterable[Words]) -> str:
    """A prompt with the trigger words of all."""
    known = list(known)
    first = next((words.prompt for words in known if words.prompt), "")
    return " ".join([*missing(first, known), first]).strip()


def missing(prompt: str, known: Iterable[Words]) -> list[str]:
    """For each adapter none of whose trigger words is in the prompt: the first of them."""
    return [
        words.triggers[0]
        for words in known
        if words.triggers and not any(contains_word(prompt, word) for word in words.triggers)
    ]


def _words(choice: ListedAdapter, ask: bool) -> Words:
    if choice.run:
        return _words_of_run(choice.run)
    key = (choice, choice.path.stat().st_mtime_ns)
    if key not in _known and ask:
        try:
            found: list[str] = inspect(choice)["trigger_words"]
        except UserError:
            return Words(())  # what is wrong with it is said when it is drawn with
        _known[key] = Words(tuple(word[:60] for word in found[:_MOST_WORDS] if word.strip()))
    return _known.get(key, Words(()))


def _words_of_run(name: str) -> Words:
    run = jobs.run_folder(name)
    try:
        captions = read_config(run.config).captions
    except ConfigError:
        return Words(())
    if not captions.trigger:
        return Words(())
    steps = run.preview_steps()
    records = preview_records(run, steps[-1]) if steps else []
    prompt = str(records[0]["prompt"]) if records else ""
    if not contains_word(prompt, captions.trigger):
        prompt = name_subject(captions.trigger, captions.class_word)
    return Words((captions.trigger,), prompt)
