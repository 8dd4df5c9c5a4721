"""Trigger word and class word of an image set: kept with it, judged while they are typed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app.shared import QUIET, Shared, image_set_path, says_errors
from app.tabs.images import triggerwords
from app.tabs.images.captionfiles import saving
from app.tabs.images.imagesets import MAX_WORD, find_set, read_notes, write_notes
from app.tabs.images.parts import Parts
from trainer import places
from trainer.data.captions import clean_caption
from trainer.errors import UserError

# Words are judged once the typing pauses; the last ones always are.
_LATER = "(...values) => new Promise(done => setTimeout(() => done(values), 500))"


def wire(parts: Parts, shared: Shared) -> Dependency:
    """Connects the two words, their verdict and the suggestions; gives what notes the words."""
    p = parts
    words = [p.opened, p.trigger, p.class_word]
    typed = [p.trigger.input, p.class_word.input]
    told: list[Component] = [shared.trigger, shared.class_word]
    last: dict[str, Any] = {**QUIET, "trigger_mode": "always_last", "js": _LATER}
    noted = gr.on(typed, says_errors(remember), words, told, **last)
    gr.on(typed, judge, [*words, shared.base], p.verdict, **last)
    p.suggest.click(
        suggest,
        [*words, shared.base],
        [p.suggestions, p.verdict, p.suggest],
        **QUIET,
    )
    taken = p.suggestions.input(
        says_errors(take), [p.suggestions, *words], [p.trigger, *told], **QUIET
    )
    taken.then(judge, [*words, shared.base], p.verdict, **QUIET)

    def enter(opened: str, trigger: str, class_word: str) -> tuple[str, str]:
        """Another tab may have changed the words."""
        return trigger, class_word

    entered = [p.opened, shared.trigger, shared.class_word]
    shared.rooms["images"].select(enter, entered, [p.trigger, p.class_word], **QUIET)
    return noted


def remember(opened: str, trigger: str, class_word: str) -> tuple[str, str]:
    """The words are kept with the set, and told to the other tabs."""
    trigger, class_word = _word(trigger), _word(class_word)
    if opened:
        with saving():
            folder = find_set(places.DATASETS, opened)
            notes = read_notes(folder)
            if (notes.trigger, notes.class_word) != (trigger, class_word):
                write_notes(folder, replace(notes, trigger=trigger, class_word=class_word))
    return trigger, class_word


def take(chosen: str, opened: str, trigger: str, class_word: str) -> tuple[str, str, str]:
    """A suggestion becomes the trigger word."""
    told, class_word = remember(opened, chosen or trigger, class_word)
    return told, told, class_word


def judge(opened: str, trigger: str, class_word: str, base: str) -> Iterator[str]:
    """The verdict on a trigger word; typing is never held up by it."""
    word = _word(trigger)
    if not word:
        yield ""
        return
    yield triggerwords.waiting(word)
    try:
        judged = triggerwords.judge(word, base, _word(class_word), _images(opened))
    except UserError as error:
        yield triggerwords.no_verdict(error)
        return
    yield "".join(triggerwords.verdict(one) for one in judged)


def suggest(
    opened: str, trigger: str, class_word: str, base: str
) -> Iterator[tuple[object, object, object]]:
    """Rare words that the base model takes for nothing in particular."""
    waiting = gr.Button("Looking for rare words …", interactive=False)
    ready = gr.Button("Suggest trigger words", interactive=True)
    yield gr.skip(), gr.skip(), waiting
    try:
        found = triggerwords.suggest(base, _word(class_word), _images(opened))
    except UserError as error:
        yield gr.skip(), triggerwords.no_verdict(error), ready
        return
    words = [one.word for one in found]
    chosen = trigger if trigger in words else None
    yield gr.Radio(choices=words, value=chosen, visible=bool(words)), gr.skip(), ready


def _word(text: str | None) -> str:
    return clean_caption(text or "")[:MAX_WORD]


def _images(opened: str) -> str | None:
    return str(places.PROJECT / image_set_path(opened)) if opened else None
