"""UTF-8 that arrives byte by byte: complete characters, and valid beginnings of one."""

from __future__ import annotations

import codecs
from functools import lru_cache
from typing import Final

import numpy as np

from coolfusion.types import Floats

END: Final = 256  # the outcome after the 256 bytes: the text ends
NUM_OUTCOMES: Final = 257


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


@lru_cache(maxsize=4096)
def may_follow(pending: bytes) -> Floats:
    """(257,) 1 for every outcome that may follow the beginning of a character, else 0."""
    allowed = np.zeros(NUM_OUTCOMES)
    allowed[END] = not pending
    allowed[:END] = [goes_on(pending + bytes([byte])) for byte in range(END)]
    allowed.flags.writeable = False
    return allowed
