"""Texts in other encodings than UTF-8: which one, decided for all files of a set together.

A caption of three words says too little about its code page, twenty captions of one set say enough:
what is no UTF-8 is judged in one piece. A code page must be plausible (its letters of one script,
written as people write them); charset-normalizer chooses between those that are. Where it can't be
told, nothing is guessed: the text counts as unreadable.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from itertools import pairwise

from charset_normalizer import from_bytes

_SAMPLE = 200_000
_ENOUGH = 12  # bytes above 127 by which a script other than Latin can be told from the others
_PLENTY = 60  # the same where several code pages are plausible
_MARKS = "‘’“”„–—…•€°²³½¼¡¿«»‹›©®™×·´`§£\u00a0"
_LATIN = {
    "cp1252": "àâáãäåæçèéêëìíîïñòóôõöøùúûüýÿœšžß",
    "cp1254": "âçğıîöşûüßİ",
    "cp1250": "ąćęłńóśźżáčďéěíňřšťúůýžĺľôäŕöőüűăâîşţđçëß",
    "iso8859_2": "ąćęłńóśźżáčďéěíňřšťúůýžĺľôäŕöőüűăâîşţđçëß",
}
"""Letters that a code page is used for: those of Western Europe, of Turkish, of Central Europe."""
_KANA = r"[\u3040-\u30ff]"
_HAN = r"[\u4e00-\u9fff]"
_HANGUL = r"[\uac00-\ud7a3]"
_CYRILLIC = r"[А-яЁёІіЇїЄєҐґЎў]"
_OTHERS = ("cp1251", "koi8_r", "cp866", "gb18030", "big5", "cp932", "euc_jp", "cp949")


ENCODING_NAMES = {
    "cp1252": "Western (Windows-1252)",
    "cp1254": "Turkish (Windows-1254)",
    "cp1250": "Central European (Windows-1250)",
    "iso8859_2": "Central European (ISO 8859-2)",
    "cp1251": "Cyrillic (Windows-1251)",
    "koi8_r": "Cyrillic (KOI8-R)",
    "cp866": "Cyrillic (DOS 866)",
    "gb18030": "simplified Chinese (GBK)",
    "big5": "traditional Chinese (Big5)",
    "cp932": "Japanese (Shift-JIS)",
    "euc_jp": "Japanese (EUC-JP)",
    "cp949": "Korean (Windows-949)",
    "utf_16_le": "UTF-16 without its mark",
    "utf_16_be": "UTF-16 (big-endian) without its mark",
}


def utf8_or_none(data: bytes, *, cut: bool = False) -> str | None:
    """Text that says itself how it is encoded: UTF-16 by its mark, or UTF-8; None otherwise.

    Args:
        cut: the end was cut off, perhaps within a character, which is then left out.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        return None
    try:
        decoder = codecs.getincrementaldecoder("utf-8")()
        return decoder.decode(data.removeprefix(codecs.BOM_UTF8), final=not cut)
    except UnicodeDecodeError:
        return None


def find_encoding(texts: Sequence[bytes]) -> str | None:
    """The encoding of texts that are no UTF-8 and have no mark, as Python calls it.

    Args:
        texts: of one set, written by one hand; not cut.

    Returns:
        None where it can't be told.
    """
    pool = b"\n".join(texts)[:_SAMPLE]
    # Half of each plain character, space or comma in UTF-16 is a zero: the second or the first.
    second = sum(text[1::2].count(0) for text in texts)
    wide = ("utf_16_le", "utf_16_be") if 2 * second >= pool.count(0) else ("utf_16_be", "utf_16_le")
    found = next((name for name in wide if all(_is_utf16(text, name) for text in texts)), None)
    if b"\0" in pool:
        return found
    if _looks_latin(pool):
        return next((name for name in _LATIN if _is_latin(pool, name)), None)
    plausible = [name for name in _OTHERS if _is_plausible(pool, name)]
    if found and not plausible and len(pool) >= _PLENTY:
        return found
    high = sum(byte > 127 for byte in pool)
    if not plausible or high < (_ENOUGH if len(plausible) == 1 else _PLENTY):
        return None
    if len(plausible) == 1:
        return plausible[0]
    best = from_bytes(pool, cp_isolation=plausible, threshold=0.5).best()
    return best.encoding if best is not None and best.encoding in plausible else None


def _looks_latin(data: bytes) -> bool:
    """Whether words are mostly plain letters, with hardly two others in a row."""
    words = [word for word in re.findall(rb"[A-Za-z\x80-\xff]+", data) if not word.isascii()]
    high = sum(byte > 127 for word in words for byte in word)
    return high <= 0.45 * sum(map(len, words)) and not re.search(rb"[\x80-\xff]{4}", data)


def _is_latin(data: bytes, name: str) -> bool:
    """Whether all letters are of a code page's languages, and no mark stands within a word."""
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        return False
    letters = _LATIN[name] + _LATIN[name].upper() + _MARKS
    within = _is_torn(text) or re.search(
        rf"[^\W\d_][{re.escape(_MARKS.replace('’', '').replace('´', ''))}][^\W\d_]", text
    )
    return all(one.isascii() or one in letters for one in text) and not within


def _is_utf16(data: bytes, name: str) -> bool:
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        return False
    known = sum(character.isascii() and (character.isprintable() or character.isspace())
                for character in text)  # fmt: skip
    marks = "[\u00a0-\u00bf\u2010-\u203a€]"
    strange = [one for one in text if not one.isascii() and not re.match(marks, one)]
    wide = rf"(?:{_KANA}|{_HAN}|[\u3000-\u303f\uff00-\uffef])"
    scripts = (_CYRILLIC, _HANGUL, wide, "[À-ž]")
    one_script = any(all(re.match(script, one) for one in strange) for script in scripts)
    common = all(_is_common(one) for one in strange)
    return known + sum(not one.isascii() for one in text) == len(text) and one_script and common


def _is_common(character: str) -> bool:
    """Whether a Chinese character is among the some 7,000 of one of the older code pages."""
    if not re.match(_HAN, character):
        return True
    for name in ("gb2312", "big5", "cp932"):
        try:
            character.encode(name)
            return True
        except UnicodeEncodeError:
            pass
    return False


def _is_plausible(data: bytes, name: str) -> bool:
    """Whether bytes are text in a code page as people write it."""
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        return False
    strange = [one for one in text if not one.isascii()]
    if not all(one.isprintable() or one in " \u3000\u00a0" for one in strange):
        return False
    letters = "".join(one for one in strange if one.isalpha())
    rest = len(strange) - len(letters)
    if rest > len(strange) / 3:
        return False
    if name in ("cp1251", "koi8_r", "cp866"):
        return _share(_CYRILLIC, letters) == 1 and not _is_torn(text)
    if name == "cp949":
        return _share(_HANGUL, letters) > 0.95
    if name in ("cp932", "euc_jp"):
        return _share(_KANA, letters) >= 0.1 and not re.search(r"[\uff61-\uff9f]", text)
    common = {"gb18030": "gb2312", "big5": "big5"}[name]
    return _share(_HAN, letters) == 1 and len(letters.encode(common, "ignore")) == 2 * len(letters)


def _is_torn(text: str) -> bool:
    """Whether a capital follows a small letter, or another script, as in texts read wrongly."""
    return any(
        not (a.isascii() and b.isascii())
        and (
            (a.islower() and b.isupper())
            or bool(re.match(_CYRILLIC, a + b)) != bool(re.match(_CYRILLIC, b + a))
        )
        for a, b in pairwise(text)
        if a.isalpha() and b.isalpha()
    )


def _share(pattern: str, letters: str) -> float:
    return len(re.findall(pattern, letters)) / len(letters) if letters else 0.0
