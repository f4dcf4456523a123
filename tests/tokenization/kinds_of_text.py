"""Texts of the kinds on which tokenizers differ: prose, code, tables, runs, scripts without spaces."""

from __future__ import annotations

import random
from collections.abc import Callable

RUNS = "#=- \n.\u3042*/_a0\t\u65e5!\u30fc"
_WORDS = ("the", "cat", "sat", "on", "Tom", "don't", "I'll", "running", "x", "\u00c9clair")
_CHINESE = (
    "\u65e5\u672c\u8a9e",
    "\u306e",
    "\u6587\u7ae0",
    "\u3002",
    "\u5b66\u751f",
    "\u3067\u3059",
)


def _one_of(*choices: str) -> Callable[[random.Random], str]:
    return lambda noise: noise.choice(choices)


# Each is made of pieces that are drawn one after another.
_KINDS: dict[str, Callable[[random.Random], str]] = {
    "prose": lambda r: " " + r.choice(_WORDS) + r.choice(["", "", ",", ".", ".\n"]),
    "JSON lines": lambda r: f'{{"id": {r.randint(0, 9999)}, "v": [1, "a"], "k": null}},\n',
    "calls": _one_of("f(x);\n"),
    "tables": lambda r: f"| a | {r.randint(0, 99)} |\n|---|---|\n",
    "HTML": lambda r: f'<td class="a">{r.randint(0, 99)}</td>\n',
    "lines that end in punctuation": _one_of("word.\n\nend!\n?!\n"),
    "script without spaces": _one_of(*_CHINESE),
    "Thai": _one_of("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0e04\u0e23\u0e31\u0e1a"),
    "long number": lambda r: str(r.randint(0, 9)),
    "base64": lambda r: r.choice("ABCDEFGHIJKLMNOPabcdefghijklmnop0123456789+/"),
    "letters": lambda r: r.choice("abcdefghijklmnopqrstuvwxyz"),
    "joined emoji": _one_of(
        "\U0001f469\u200d\U0001f680", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f"
    ),
    "combining marks": _one_of("e\u0301", "a\u0300\u0302", "n\u0303", "o", "\u1112\u1161\u11ab"),
    "line breaks after a full stop": lambda r: "End." if r.random() < 0.01 else "\n",
    "runs of white space": lambda r: r.choice([" " * r.randint(1, 150), "\n" * 9, "\t", "x"]),
    "runs": lambda r: r.choice("#=-*/ ._\n0a\u3042") * r.choice([1, 2, 3, 17, 70, 130]),
    "names of tokens": _one_of(
        *("</s>", " <s>", "  ", "<|im_end|>", "<0x41>", "[SEP]", "a", " b", "<unk>", "\n")
    ),
}
KINDS = (*_KINDS, *(f"run of {character!r}" for character in RUNS))


def text_of(kind: str, size: int, seed: int = 0) -> str:
    """``size`` characters of one of ``KINDS``."""
    noise = random.Random(f"{kind} {seed}")
    if kind not in _KINDS:
        return RUNS[KINDS.index(kind) - len(_KINDS)] * size
    pieces, drawn = [""], 0
    while drawn < size:
        pieces.append(_KINDS[kind](noise))
        drawn += len(pieces[-1])
    return "".join(pieces)[:size]
