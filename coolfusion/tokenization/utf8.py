"""UTF-8 that arrives byte by byte: complete characters, and valid beginnings of one."""

from __future__ import annotations

import codecs


def goes_on(data: bytes) -> bool:
    """Whether ``data`` is the beginning of some UTF-8 text."""
    try:
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def whole_characters(data: bytes) -> str:
    """The complete characters of ``data``, which must be the beginning of a UTF-8 text."""
    return codecs.utf_8_decode(data, "strict", False)[0]
