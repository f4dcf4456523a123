"""Matches are those of tokenizers' engine, and what is settled is so whatever follows."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from coolfusion.tokenization.settling.patterns import NotFollowed
from coolfusion.tokenization.settling.scanner import Scanner
from coolfusion.tokenization.settling.stages import GPT2

CASES = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
SMALL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "GPT-2": GPT2,
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "letters by case": rf"[^\r\n\p{{L}}\p{{N}}]?{CASES}*{SMALL}+(?i:'s|'t)?|{CASES}+{SMALL}*"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "possessive": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*",
    "digits from the right": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|\P{N}",
    "digits to a word edge": r"\d{1,3}(?=(?:\d{3})*\b)|\D+",
    "lazy": r"a+?b|\w{2,3}?|[^\W\d]+?\z",
    "looking ahead twice": r"(?=\w\w)\w(?!\d)|\s+(?=\S)|[[:punct:]]+",
}
PIECES = (
    *(
        "a",
        "b",
        "ab",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'S",
        "'ll",
        "\u017f",
        "1",
        "22",
        "0000",
    ),
    *("#", "###", ".", "/", "\u00e9", "e\u0301", "\u65e5\u672c", "A", "Bc", "\u3000", "\u00a0"),
    *("_", "-", "\x1c", "\u200d", "\U0001f44d", "\u01c5", "\u02b0"),
)


@pytest.mark.parametrize("name", PATTERNS)
def test_matches_and_what_is_settled(name: str) -> None:
    scanner, noise = Scanner(PATTERNS[name]), random.Random(name)
    engine = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    for _ in range(250):
        drawn = noise.choices(PIECES, k=noise.randint(1, 12))
        text = "".join(piece * noise.choice([1, 1, 1, 4]) for piece in drawn)
        want = [where for _, where in engine.pre_tokenize_str(text)]
        whole = scanner.segments(text, 0, len(text), closed=True)
        assert [(first, last) for first, last, _ in whole.found] == want
        end = noise.randint(0, len(text))
        known = scanner.segments(text, 0, end, closed=False)
        assert [(first, last) for first, last, _ in known.found] == want[: len(known.found)]
        if known.state.cannot_fail:
            (last,) = [last for first, last in want if first == known.start]
            assert last >= end + known.state.earliest_end


def test_a_run_is_settled_by_what_ends_it() -> None:
    scanner = Scanner(GPT2)
    assert scanner.segments("ab", 0, 2, closed=False).found == ()
    assert scanner.segments("ab ", 0, 3, closed=False).found == ((0, 2, True),)
    # The last of several spaces may belong to a word.
    spaces = scanner.segments("    ", 0, 4, closed=False)
    assert (spaces.found, spaces.state.earliest_end) == ((), -1)


def test_equal_states_go_on_alike() -> None:
    scanner = Scanner(PATTERNS["Llama 3"])
    states = [scanner.segments(t, 0, len(t), closed=False).state for t in ("#.\n\n", ".\n", "\n\n")]
    assert states[0].entries == states[1].entries
    assert states[1].entries != states[2].entries


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<=a)b",
        r"(?<!a)b",
        r"(a)\1",
        r"^a",
        r"a$",
        r"(?>a)",
        r"a*",
        r"(?:a|)+b",
        r"\Ga",
        r"a{2}?",
    ],
)
def test_what_looks_back_is_not_followed(pattern: str) -> None:
    with pytest.raises(NotFollowed):
        Scanner(pattern)
