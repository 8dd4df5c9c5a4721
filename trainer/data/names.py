"""Names of files as people see them, and as they are compared."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Control (newline), format (right-to-left override, zero-width space), surrogate (a byte that is
# no UTF-8), unassigned, line and paragraph separator: they hide, reorder or break what is shown.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
_NAMED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_OF_SYSTEMS = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found"),
        *("system volume information", "icon\r", "__macosx", "#recycle", "#snapshot"),
        *("@eadir", "@tmp", "@recycle", "@sharebin", "@syno.metadata"),
    )
)


def display_name(name: str) -> str:
    r"""A file's name with everything invisible made visible, as ``\n`` or ``\u202e``.

    Different names stay different, and the result can always be encoded and printed on one line.
    """
    return "".join(_visible(character) for character in name)


def _visible(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) not in _HIDDEN_CATEGORIES:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def is_of_system(name: str) -> bool:
    """Whether a file or folder is one that a system or a server keeps for itself.

    Such as ``._a.png`` and ``.thumbnails``, macOS's ``__MACOSX``, Windows' ``Thumbs.db``, and
    ``@eaDir`` of Synology's servers; but not ``@jane.jpg``, which is somebody's.
    """
    return name.startswith(".") or name.casefold() in _OF_SYSTEMS


def matching_key(name: str) -> str:
    """What a name is compared by where systems disagree.

    macOS and Windows take ``Cat.png`` and ``cat.png`` for one file; macOS also takes an accented
    letter and a letter with a combining accent (Unicode NFC and NFD) for the same.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def list_names(names: Sequence[str], limit: int = 3) -> str:
    """The first few of some names that are fit for showing, and how many more there are."""
    listed = ", ".join(names[:limit])
    return f"{listed} and {len(names) - limit} more" if len(names) > limit else listed
