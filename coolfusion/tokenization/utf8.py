"""Characters in bytes that arrive piece by piece: whole ones, and what may yet become one."""

from __future__ import annotations

import codecs


def goes_on(data: bytes) -> bool:
    """Whether ``data`` is the beginning of a text in UTF-8."""
    try:
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def whole_characters(data: bytes) -> str:
    """The text of ``data``, which is the beginning of one in UTF-8, without a half character."""
    return codecs.utf_8_decode(data, "strict", False)[0]
