"""Trigger word and class word of an image set, and what the worker says of words and captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from app import client as service
from app.render import refused
from app.shared import LAST, QUIET, Shared, says_errors
from app.tabs.images.captions import saving
from app.tabs.images.imagesets import (
    MAX_WORD,
    SetNotes,
    find_set,
    read_notes,
    set_choices,
    write_notes,
)
from app.tabs.images.layout import Parts, html
from trainer import places
from trainer.data.captions import clean_caption
from trainer.errors import UserError

_SECONDS = 120.0
# Words are judged once the typing pauses; the last ones always are.
LATER = "(...values) => new Promise(done => setTimeout(() => done(values), 500))"


def wire(parts: Parts, shared: Shared) -> tuple[Dependency, Dependency]:
    """Connects the two words, their verdict and the suggestions; gives what notes the words: those
    that are typed, and a suggestion that is taken."""
    p = parts
    words = [p.opened, p.trigger, p.class_word]
    typed = [p.trigger.input, p.class_word.input]
    told: list[Component] = [shared.trigger, shared.class_word]
    noted = gr.on(typed, says_errors(remember), words, told, **LAST, js=LATER)
    told_of = [p.verdict, p.suggestions]
    gr.on(typed, judge, [*words, shared.base], told_of, **LAST, js=LATER)
    suggested = [p.suggestions, p.verdict, p.suggest]
    p.suggest.click(suggest, [*words, shared.base], suggested, **QUIET)
    taken = p.suggestions.input(
        says_errors(take), [p.suggestions, p.opened, p.class_word], [p.trigger, *told], **QUIET
    )
    taken.then(judge, [*words, shared.base], told_of, **QUIET)
    # Another tab may have changed the words.
    shared.rooms["images"].select(
        lambda *words: words, [shared.trigger, shared.class_word], words[1:], **QUIET
    )
    measured = [p.measured, p.measure]
    noting(p.measure.click, p, shared)(measure, [p.opened, shared.base], measured, **QUIET)
    return noted, taken


def noting(event: Callable[..., Dependency], parts: Parts, shared: Shared) -> Any:
    """What connects a handler to an event, so that words typed just before are noted first."""
    words = [parts.opened, parts.trigger, parts.class_word]
    return event(says_errors(remember), words, [shared.trigger, shared.class_word], **QUIET).then


def remember(opened: str, trigger: str, class_word: str) -> tuple[str, str]:
    """The words are noted with the set, and told to the other tabs."""
    trigger, class_word = _word(trigger), _word(class_word)
    if opened:
        with saving:
            folder = find_set(places.DATASETS, opened)
            notes = read_notes(folder)
            if (notes.trigger, notes.class_word) != (trigger, class_word):
                write_notes(folder, replace(notes, trigger=trigger, class_word=class_word))
    return trigger, class_word


def of_chosen(chosen: str, former: str, trigger: str, class_word: str) -> tuple[str, str]:
    """The words where another tab chose a set: those noted with it. Where it has none, what was
    typed stays, and is noted with it; the former set's words go."""
    old, new = (_noted(one) for one in (former, chosen))
    pairs = ((trigger, old.trigger, new.trigger), (class_word, old.class_word, new.class_word))
    words = [own or ("" if word == other else word) for word, other, own in pairs]
    known = chosen if chosen in [one for _, one in set_choices()] else ""
    return remember(known, words[0], words[1])


def _noted(set_id: str) -> SetNotes:
    try:
        return read_notes(find_set(places.DATASETS, set_id))
    except UserError:  # none, or a folder elsewhere
        return SetNotes()


def take(chosen: str, opened: str, class_word: str) -> tuple[str, str, str]:
    """A suggestion becomes the trigger word."""
    trigger, class_word = remember(opened, chosen, class_word)
    return trigger, trigger, class_word


def judge(opened: str, trigger: str, class_word: str, base: str) -> Iterator[tuple[object, object]]:
    """The verdict on a trigger word, and a better one where it is not good; typing never waits."""
    word = _word(trigger)
    if not word:
        yield "", gr.skip()
        return
    yield html("status", f"Looking at “{word}” …"), gr.skip()
    try:
        (judged,) = ask_about_words("judge", base, class_word, opened, words=[word])
        yield html("verdict", judged), gr.skip()
        if judged["verdict"] != "good":
            better = ask_about_words("suggest", base, class_word, opened, count=1)
            yield gr.skip(), _choices_of(better, word, "A better word")
    except UserError as error:
        yield html("status", f"No verdict: {error.message}"), gr.skip()


def _choices_of(found: list[dict[str, Any]], trigger: str, label: str) -> gr.Radio:
    """Those that stand for nothing anywhere come first."""
    found = sorted(found, key=lambda one: bool(one["known_as"]))
    words = {one["word"]: one["known_as"] for one in found}
    choices = [
        (f"{word} – known elsewhere as {known}" if known else word, word)
        for word, known in words.items()
    ]
    chosen = trigger if trigger in words else None
    return gr.Radio(choices=choices, value=chosen, label=label, visible=bool(words))


def suggest(
    opened: str, trigger: str, class_word: str, base: str
) -> Iterator[tuple[object, object, object]]:
    """Rare words that the base model takes for nothing in particular."""
    ready = gr.Button("Suggest trigger words", interactive=True)
    yield gr.skip(), gr.skip(), gr.Button("Looking for rare words …", interactive=False)
    try:
        found = ask_about_words("suggest", base, class_word, opened)
    except UserError as error:
        yield gr.skip(), html("status", f"No verdict: {error.message}"), ready
        return
    yield _choices_of(found, trigger, "Suggestions"), gr.skip(), ready


def ask_about_words(
    verb: Literal["judge", "suggest"], base: str, class_word: str, image_set: str, **more: object
) -> list[dict[str, Any]]:
    """Judgements of ``words=[…]``, or suggestions, as ``trigger --json`` has them.

    Args:
        image_set: id of a set whose captions count; "" for none.

    Raises:
        UserError: the worker cannot do it.
    """
    folder = str(find_set(places.DATASETS, image_set).path.resolve()) if image_set else None
    about = {"base": base, "class_word": _word(class_word), "images": folder, **more}
    return service.call(f"trigger.{verb}", about, _SECONDS)


def measure(opened: str, base: str) -> Iterator[tuple[str, gr.Button]]:
    """How many captions are longer than the base model reads."""
    yield "", gr.Button("Measuring …", interactive=False)
    try:
        folder = find_set(places.DATASETS, opened)
        arguments = {
            "folder": str(folder.path.resolve()),
            "base": base,
            "trigger": read_notes(folder).trigger or None,
        }
        said = html("measured", service.call("check-images", arguments, _SECONDS)["cut_captions"])
    except UserError as error:
        said = refused(error)
    yield said, gr.Button("Measure the captions", interactive=True)


def _word(text: str | None) -> str:
    return clean_caption(text or "")[:MAX_WORD]
