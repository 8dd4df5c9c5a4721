"""Captions: from bytes to text, and from a picture's caption to what is trained at a step."""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from trainer.config.schema import CaptionsConfig
from trainer.data.encodings import find_encoding, utf8_or_none
from trainer.seeds import derive_seed, derive_uniform
from trainer.text import name_subject

MAX_CAPTION_CHARACTERS = 10_000
CHUNK_TOKENS = 75  # what a text encoder reads at once, besides start and end
MAX_CAPTION_BYTES = 4 * MAX_CAPTION_CHARACTERS

# Left-to-right and other marks that reorder or hide what is shown; a joiner (U+200D) stays,
# since emoji and some scripts need it.
_INVISIBLE = frozenset("\u200b\u200e\u200f\u2060\ufeff\u061c") | {
    chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

# The innermost choice: its options may not hold another.
_WILDCARD = re.compile(r"\{([^{}|]*\|[^{}]*)\}")

TRANSLATION = re.compile(r"(?im)^[a-z]{2,3}(?:[_@-][a-z]{1,12}){0,2}\.utf-?8=[^\r\n]*")
"""A line such as ``de.utf8=Ein Pfau.``: Tux Paint's stamps hold their text in all languages."""


def decode_caption(data: bytes, encoding: str | None = None) -> str:
    """The captions in a caption file, a line each: `decode_text`, then `clean_lines`.

    Translations are left out where there is another line, see `TRANSLATION`. Only the first
    `MAX_CAPTION_BYTES` bytes are looked at.
    """
    cut = len(data) > MAX_CAPTION_BYTES
    text = decode_text(data[:MAX_CAPTION_BYTES], cut=cut, encoding=encoding)
    if _PARAMETERS.search(text):  # one prompt, of which `read_prompt_syntax` makes a caption
        text = " ".join(text.split())
    return clean_lines(TRANSLATION.sub("", text)) or clean_lines(text)


def decode_text(data: bytes, *, cut: bool = False, encoding: str | None = None) -> str:
    """Bytes to text, whatever they are.

    UTF-16 where it begins with the byte order mark of that; else UTF-8, with or without a mark,
    where that is valid; else the given encoding, or what `trainer.data.encodings.find_encoding`
    tells of these bytes alone; else Windows' western code page (cp1252), without undefined bytes.

    Args:
        cut: the end was cut off, perhaps within a character, which is then left out.
        encoding: of the set's other texts.
    """
    text = utf8_or_none(data, cut=cut)
    if text is None:
        text = data.decode(encoding or find_encoding([data]) or "cp1252", errors="ignore")
    return text


def clean_caption(text: str) -> str:
    """One line: control, bidirectional and invisible characters out, white space folded, NFC.

    Cut to `MAX_CAPTION_CHARACTERS`.
    """
    if not text.isprintable():  # what is, has nothing of the kind
        text = "".join(character for character in text if not _is_noise(character))
    folded = " ".join(unicodedata.normalize("NFC", text).split())
    return folded[:MAX_CAPTION_CHARACTERS].rstrip()


def clean_lines(text: str) -> str:
    """Several captions of one picture: lines as `clean_caption` gives them, cut as it does.

    Lines of nothing but punctuation, such as "." and "```", are none.
    """
    lines = map(clean_caption, re.split(r"\r\n?|\n", text))
    said = (line for line in lines if any(map(_says_something, line)))
    return "\n".join(said)[:MAX_CAPTION_CHARACTERS].rstrip()


def _says_something(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind == "So" or kind[0] not in "PSZ"


def caption_lines(caption: str | None) -> list[str]:
    """The captions of a picture, of which one is chosen at a step; none without a caption."""
    return caption.split("\n") if caption else []


def caption_variants(caption: str | None, wildcards: bool, most: int = 100) -> list[str]:
    """All texts that may come of a caption's lines and wildcards, or the first ``most``."""
    found: list[str] = []
    waiting = caption_lines(caption)[::-1]
    while waiting and len(found) < most:
        text = waiting.pop()
        if wildcards and (group := _WILDCARD.search(text)):
            before, after = text[: group.start()], text[group.end() :]
            options = group[1].split("|")[:most]
            waiting += [f"{before}{option}{after}" for option in reversed(options)]
        else:
            found.append(clean_caption(text))
    return found


def has_wildcards(caption: str) -> bool:
    """Whether it has choices such as ``{red|blue}``."""
    return _WILDCARD.search(caption) is not None


def _is_noise(character: str) -> bool:
    if character.isspace():
        return False
    return character in _INVISIBLE or unicodedata.category(character) in ("Cc", "Cs")


def contains_word(caption: str, word: str) -> bool:
    """Whether a caption has a word as a whole word; case does not matter.

    Where the word begins or ends with a letter or digit, none may stand next to it (the tokenizer
    splits at all else): "sks" is in "a SKS, dog" and "sks_dog", not in "asks" or "sks2". The word
    may be several, with any white space between. No caption contains the empty word.
    """
    return bool(word.strip()) and word_pattern(word).search(_composed(caption)) is not None


def replace_word(caption: str, word: str, replacement: str) -> str:
    """A caption with another text in place of every occurrence of a word."""
    if not contains_word(caption, word):
        return caption
    return clean_caption(word_pattern(word).sub(lambda _: replacement, _composed(caption)))


def without_word(caption: str, word: str) -> str:
    """A caption with every occurrence of a word taken out, and the gaps closed.

    What hangs on the word goes with it: the ``'s`` of "ohwx's", the hyphen of "ohwx-cat".
    """
    if not contains_word(caption, word):
        return caption
    found = word_pattern(word)
    rest = re.sub(
        rf"{found.pattern}(?:['’]s(?!\w)|-(?=\w))?", " ", _composed(caption), flags=found.flags
    )
    tags = [" ".join(tag.split()) for tag in rest.split(",")]
    return ", ".join(tag for tag in tags if tag)


@lru_cache(maxsize=256)
def word_pattern(word: str) -> re.Pattern[str]:
    """What finds a word that is not empty in text of Unicode form NFC, as `contains_word` does."""
    # Letters, digits and the accents that combine with them, but not the underscore.
    letter = r"(?:[^\W_]|[\u0300-\u036f])"
    parts = _composed(word).split()
    before = rf"(?<!{letter})" if re.match(letter, parts[0]) else ""
    after = rf"(?!{letter})" if re.match(letter, parts[-1][-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, parts)) + after, re.IGNORECASE)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_EXTRA = re.compile(r"<(?:lora|lyco|hypernet|embedding):[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r"(?<!\\)\(([^()\\]*[^()\\\d\s]\s*):[+-]?(?:\d(?:\.\d+)?|\.\d+)\)")
_STRESS = re.compile(
    r"(?<![\\(])\({2,}([^()\\]+)\){2,}|(?<!\{)\{{2,}([^{}|]+)\}{2,}|(?<!\[)\[{2,}([^\[\]]+)\]{2,}"
)
_TRIGGER, _CLASS = (rf"[\[{{<]{{1,2}}{word}[\]}}>]{{1,2}}" for word in ("trigger", "class"))
_ENTITY = re.compile(
    r"&(?:amp;){0,5}(#\d{1,7}|#x[\da-f]{1,6}|amp|lt|gt|quot|apos|nbsp);", re.IGNORECASE
)
# Between words in small letters, which a sign such as BREAK GLASS is not.
_BREAK = re.compile(r",? ?(?<![A-Z] )\bBREAK\b(?! [A-Z]{2}),? ?")
_PARAMETERS = re.compile(r"(?:^|\s)(?:Negative prompt:|Steps: \d{1,4}, [A-Z][\w ]{1,20}: )")
"""Where the settings begin that A1111 writes behind the prompt of a picture."""


def fill_words(text: str, trigger: str, class_word: str) -> str:
    """A text with trigger and class word in place of ``[trigger]``, ``{class}`` and the like."""
    subject = name_subject(trigger, class_word)
    for mark, words in (
        (f"{_TRIGGER} ?{_CLASS}", subject),
        (_TRIGGER, trigger),
        (_CLASS, class_word),
    ):
        text = re.sub(mark, lambda _, words=words: words, text, flags=re.IGNORECASE)
    return text


def read_prompt_syntax(caption: str, trigger: str, class_word: str = "") -> str:
    """What a caption says, where it is written as prompts of other tools are.

    ``\\(`` is a bracket and ``&amp;`` is &; of a prompt weight as ``(red hat:1.2)``, and of
    ``((red hat))``, the words stay; ``<lora:name:1>``, ``BREAK`` and what A1111 writes behind a
    prompt go; ``[trigger]`` and ``{class}`` are trigger and class word.
    """
    found = _PARAMETERS.search(caption)
    text = caption[: found.start()] if found else caption
    text = _EXTRA.sub(" ", _ENTITY.sub(lambda one: html.unescape(f"&{one[1]};"), text))
    text = fill_words(text, trigger, class_word)
    while (
        plain := _STRESS.sub(lambda one: one[one.lastindex or 0], _WEIGHT.sub(r"\1", text))
    ) != text:
        text = plain
    text = re.sub(r"\\([()\[\]{}_])", r"\1", _BREAK.sub(", ", text))
    if text == caption:
        return caption
    tags = [" ".join(tag.split()) for tag in clean_caption(text).split(",")]
    return ", ".join(tag for tag in tags if tag)


REFUSAL = re.compile(
    r"\W{0,9}(?:unfortunately, )?(?:i['’]m |i am )?"
    r"(?:sorry|unable to|not able to|i can['’]?t|i cannot|as an ai)\b.{0,30}\b"
    r"(?:i|assist|help|describe|provide|identify|see|view|caption)\b"
    r"|\W{0,4}(?:sure|certainly|of course)\b.{0,40}\b(?:caption|description|tags)\b"
    r"|\W{0,4}(?:caption|description|tags|prompt|error)\b[^,]{0,20}:|https?://"
    r"|[\[{]{1,3} ?[\"']|</?[a-z]{2,8}>|<p>"
    r"|\W{0,9}(?:null|none|nan|n/a|undefined|todo|tbd|no caption)?\W{0,9}$",
    re.IGNORECASE,
)
"""What models that write captions answer in place of one or around it, and empty fields."""
PLACEHOLDER = re.compile(
    r"__[\w/-]{1,40}__|\[[^\W\d]\w{1,40}\]|\{[^\W\d]\w{1,40}\}|<[^\W\d]\w{1,40}>"
)
"""Wildcards and fields that another tool would have filled in, such as ``__animal__``."""
SIDED = re.compile(
    r"\b(?:(?:left|right|text|lettering)\b|(?:that|which) (?:says|reads)|"
    r"(?:says|reads|saying) [\"“'])",
    re.IGNORECASE,
)
"""Words for sides and for texts, which are others in a mirror."""


_MARKS = (
    *(_EXTRA, _WEIGHT, _STRESS, _BREAK, _PARAMETERS, _WILDCARD, PLACEHOLDER, _ENTITY),
    *(re.compile(r"\\[()\[\]{}_]"), re.compile(r"(?<!\S)--[a-z]\w{,20}")),
)


def literal_marks(prompt: str) -> str:
    """What is to be said of a prompt to draw by, if it has marks of other tools; "" if not."""
    if not (found := next(filter(None, (mark.search(prompt) for mark in _MARKS)), None)):
        return ""
    return (
        f"{found[0].strip(' ,')} is drawn as it stands: weights, choices, options and "
        "<lora:name:1> of other tools mean nothing here. Leave it out; adapters and strengths, "
        "seeds and sizes have fields and options of their own."
    )


def compose_caption(
    caption: str | None, config: CaptionsConfig, *, seed: int, step: int, image_id: str
) -> str:
    """What a picture is called at a step: a pure function of all arguments.

    0. What prompts of other tools write in a way of their own is read, see `read_prompt_syntax`.
    1. Of several lines one is the caption; without any, trigger and class word are.
    2. With probability ``config.dropout`` trigger and class word are all there is.
    3. ``config.wildcards``: of each ``{red|blue}`` one option is taken.
    4. With probability ``config.tag_dropout`` each comma-separated tag is left out, but for the
       first ``config.keep_tags``, ``config.protected_tags``, and those with trigger or class word.
    5. ``config.shuffle_tags``: the comma-separated tags are shuffled, but the first
       ``config.keep_tags`` (keep_tokens of sd-scripts) and every tag with the trigger come first,
       in their order.
    6. Prefix and suffix are put around it.
    7. The trigger is put at the front, followed by a comma, where the result lacks it; together
       with the class word if that is missing too.

    Without a trigger, 2 reduces to the class word, and 7 does nothing.
    """
    trigger, class_word = clean_caption(config.trigger), clean_caption(config.class_word)
    subject = name_subject(trigger, class_word)
    lines = caption_lines(caption)
    chosen = derive_seed(seed, "caption line", step, image_id) % len(lines) if lines[1:] else 0
    line = clean_caption(lines[chosen] if lines else "")
    body = read_prompt_syntax(line, trigger, class_word)
    if body:
        if derive_uniform(seed, "caption dropout", step, image_id) < config.dropout:
            return subject
        if config.wildcards:
            body = _with_choices(body, (seed, "wildcard", step, image_id))
        if config.tag_dropout:
            body = _thinned(body, config, (seed, "tag dropout", step, image_id))
        if config.shuffle_tags:
            body = _shuffled(body, trigger, config.keep_tags, (seed, "tags", step, image_id))
    text = _joined(config.prefix, body or subject, config.suffix)
    if not trigger or contains_word(text, trigger):
        return text
    named = not class_word or contains_word(text, class_word)
    return f"{trigger if named else subject}, {text}"


def _with_choices(text: str, purpose: tuple[int, str, int, str]) -> str:
    for number in itertools.count():
        group = _WILDCARD.search(text)
        if group is None:
            break
        options = group[1].split("|")
        option = options[derive_seed(*purpose, number) % len(options)]
        text = f"{text[: group.start()]}{option}{text[group.end() :]}"
    return clean_caption(text)


def plain_captions(config: CaptionsConfig) -> CaptionsConfig:
    """The same rules without what is random: how a caption is shown and measured."""
    plain = {"dropout": 0.0, "tag_dropout": 0.0, "shuffle_tags": False}
    return config.model_copy(update=plain)


def tags_of(caption: str) -> list[str]:
    """The comma-separated tags of a caption."""
    return [tag.strip() for tag in caption.split(",") if tag.strip()]


def _thinned(body: str, config: CaptionsConfig, purpose: tuple[int, str, int, str]) -> str:
    protected = {tag.strip().casefold() for tag in config.protected_tags}
    words = (clean_caption(config.trigger), clean_caption(config.class_word))
    return ", ".join(
        tag
        for index, tag in enumerate(tags_of(body))
        if index < config.keep_tags
        or tag.casefold() in protected
        or any(contains_word(tag, word) for word in words)
        or derive_uniform(*purpose, index) >= config.tag_dropout
    )


def _shuffled(body: str, trigger: str, keep: int, purpose: tuple[int, str, int, str]) -> str:
    tags = tags_of(body)
    order = sorted(range(len(tags)), key=lambda index: derive_seed(*purpose, index))
    fixed = [i for i, tag in enumerate(tags) if i < keep or contains_word(tag, trigger)]
    return ", ".join(tags[i] for i in fixed + [i for i in order if i not in set(fixed)])


def _joined(prefix: str, body: str, suffix: str) -> str:
    text = clean_caption(f"{prefix} {body}")
    suffix = clean_caption(suffix)
    return text + suffix if suffix[:1] in (",", ".", ";") else f"{text} {suffix}".strip()


def protect_trigger(caption: str, trigger: str, fits: Callable[[str], bool]) -> str:
    """A caption whose trigger is in the first of its chunks, where no cut can take it away.

    Args:
        caption: as `compose_caption` gives it.
        fits: whether a text is read in one chunk (75 tokens for CLIP).

    Returns:
        The caption; with the trigger put in front of it once more where the text up to and
        including the trigger does not fit.
    """
    if not contains_word(caption, trigger):
        return caption
    found = word_pattern(trigger).search(_composed(caption))
    assert found is not None
    return caption if fits(_composed(caption)[: found.end()]) else f"{trigger}, {caption}"
