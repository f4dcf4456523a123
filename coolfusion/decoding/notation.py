"""Parts by name and by composition: ``leave_one_out(mean_nll)``, ``prompt(0.5)``, ``tokens(500)``.

    term  = word [ "(" term { "," term } ")" ]  |  word "=" word

A word is anything without white space, brackets, commas and equals signs. Nothing is evaluated:
words are looked up, numbers are read as numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from coolfusion.documents import SHOWN
from coolfusion.errors import UsageError

MAX_DEPTH = 8  # of brackets; twice the parts that can be put around another
_TOKEN = re.compile(r"[(),=]|[^\s(),=]+")


@dataclass(frozen=True, slots=True)
class Term:
    """A word with what stands in brackets after it, or with what it is set equal to."""

    word: str
    terms: tuple[Term, ...] = ()
    value: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is a word and nothing else."""
        return not self.terms and self.value is None

    def __str__(self) -> str:
        if self.value is not None:
            return f"{self.word}={self.value}"
        return f"{self.word}({', '.join(map(str, self.terms))})" if self.terms else self.word


def parse(text: str) -> Term:
    """Read one term. Raises ``UsageError`` with the place where the text is not one."""
    depth = deepest = 0
    for bracket in re.findall(r"[()]", text):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise UsageError(
            f'"{_brief(text)}" has brackets in brackets, {deepest} deep. Write at most {MAX_DEPTH}: each one '
            "changes what is in it, and more of them have no meaning of their own."
        )
    tokens = [(match.group(), match.start()) for match in _TOKEN.finditer(text)]
    term, left = _term(text, tokens)
    if left:
        raise _unexpected(text, left, "its end")
    return term


_Tokens = list[tuple[str, int]]


def _term(text: str, tokens: _Tokens) -> tuple[Term, _Tokens]:
    """The term at the beginning of ``tokens``, and those after it."""
    word, left = _word(text, tokens)
    if left and left[0][0] == "=":
        value, left = _word(text, left[1:])
        return Term(word, value=value), left
    if not left or left[0][0] != "(":
        return Term(word), left
    terms = []
    while left[0][0] != ")":
        term, left = _term(text, left[1:])
        terms.append(term)
        if not left or left[0][0] not in (",", ")"):
            raise _unexpected(text, left, '"," or ")"')
    return Term(word, tuple(terms)), left[1:]


def _word(text: str, tokens: _Tokens) -> tuple[str, _Tokens]:
    if not tokens or tokens[0][0] in "(),=":
        raise _unexpected(text, tokens, "a name")
    return tokens[0][0], tokens[1:]


def _unexpected(text: str, left: _Tokens, wanted: str) -> UsageError:
    found = f'has "{left[0][0]}" at position {left[0][1] + 1}' if left else "ends"
    return UsageError(
        f'"{_brief(text)}" {found} where {wanted} should be. Write name or name(name, ...).'
    )


def _brief(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def number_of(term: Term, what: str) -> float:
    """The finite number that a term is. Raises ``UsageError`` that says ``what`` it should be."""
    try:
        number = float(term.word) if term.is_plain else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f'{what} is "{term}"; it must be a number.')
    return number
