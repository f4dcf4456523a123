"""What all conformance checks share: the error they raise and texts that break naive code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from coolfusion.errors import CoolfusionError

HOSTILE_TEXTS = (
    "Tom has 3 apples.\n\nHe eats 1 apple; 12,345.67 are left (10\u00a0000 in all).",
    "  two spaces   three\t\ttabs \n  \n   and an indented line\r\n\r\nafter CRLF ",
    "0000 1234567890 3.14159 1e-9 00:00:00 2024-01-01",
    "e\u0301 cafe\u0301 na\u00efve \u00c5ngstro\u0308m a\u0300\u0301\u0302 n\u0303",
    "ok \U0001f469\u200d\U0001f680 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea flags \U0001f468\u200d\U0001f469\u200d\U0001f467!",
    "<|im_end|> </s> <s> <end> <|endoftext|> [SEP] <unk> <0x41> <0x0A>",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u0645\u0631\u062d\u0628\u0627 \u0628\u0643 123",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002\u4e2d\u6587 mixed\u6df7\u5408 text \uff21\uff11",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 Thai",
    "def f(x):\n    return [y ** 2 for y in x if y != 0]  # ok\n\n\tif True: pass",
    "# Head\n\n* item **bold** `code`\n\n| a | b |\n|---|---|\n\n```py\nx = 1\n```",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! don't \u201cquote\u201d\u2026 \u2014 dash",
)


class ConformanceError(CoolfusionError, AssertionError):
    """An object broke a law of its seam; ``law`` names the law."""

    def __init__(self, law: str, message: str) -> None:
        super().__init__(law, message)  # as they are, so that it can be pickled
        self.law, self.message = law, message

    def __str__(self) -> str:
        return f"Law broken: {self.law}. {self.message}"


def require(holds: bool, law: str, expected: object, actual: object, where: object) -> None:
    """Raise ``ConformanceError`` unless ``holds``."""
    if not holds:
        raise ConformanceError(law, f"Expected {expected!r}, got {actual!r} for {where!r}.")


def require_close(
    law: str,
    expected: Sequence[float],
    actual: Sequence[float],
    tolerance: float,
    where: object,
) -> None:
    """Raise ``ConformanceError`` unless both have equal length and values (-inf equals -inf)."""
    pairs = list(zip_longest(expected, actual))
    differences = [
        0.0 if want == got else float("inf") if None in (want, got) else abs(want - got)
        for want, got in pairs
    ]
    largest = max(differences, default=0.0)
    if not largest <= tolerance:
        raise ConformanceError(
            law,
            f"Expected {tuple(expected)}, got {tuple(actual)}; they differ by {largest:.3g}, "
            f"more than {tolerance:.3g}, for {where!r}.",
        )
