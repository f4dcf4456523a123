"""Parts by name and by composition: ``leave_one_out(mean_nll)``, ``prompt(0.5)``, ``tokens(500)``.

    term  = word [ "(" term { "," term } ")" ]  |  word "=" word

A word is anything without white space, brackets, commas and equals signs. Nothing is evaluated:
words are looked up, numbers are read as numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coolfusion.errors import UsageError
from coolfusion.reranking import (
    RERANKERS,
    Reranker,
    calibrated,
    lead,
    leave_one_out,
    weighted,
    without_outliers,
)

_TOKEN = re.compile(r"[(),=]|[^\s(),=]+")

COMPOSED: Mapping[str, Callable[[Reranker], Reranker]] = {
    "leave_one_out": leave_one_out,
    "calibrated": calibrated,
}
NOTATION = (
    f"{', '.join(RERANKERS)}, lead(NAME), weighted(RERANKER, NAME=1, NAME=2), "
    f"without_outliers(RERANKER, 10), {', '.join(f'{name}(RERANKER)' for name in COMPOSED)}"
)


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
    return UsageError(f'"{text}" {found} where {wanted} should be. Write name or name(name, ...).')


def number_of(term: Term, what: str) -> float:
    """The finite number that a term is. Raises ``UsageError`` that says ``what`` it should be."""
    try:
        number = float(term.word) if term.is_plain else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f'{what} is "{term}"; it must be a number.')
    return number


def reranker_named(text: str) -> Reranker:
    """The reranker that a text names. Raises ``UsageError`` with what can be named."""
    return _reranker(parse(text))


def weights_named(text: str) -> tuple[str | None, dict[str, float]]:
    """The lead source or the weights that the outermost part of a reranker's name gives."""
    term = parse(text)
    if term.word == "lead" and len(term.terms) == 1:
        return term.terms[0].word, {}
    return None, _weights(term.terms[1:]) if term.word == "weighted" else {}


def _reranker(term: Term) -> Reranker:
    if term.value is None and term.word in RERANKERS:
        if term.terms:
            raise UsageError(f'{term.word} takes nothing in brackets, got "{term}".')
        return RERANKERS[term.word]
    if term.word == "lead":
        if len(term.terms) != 1 or not term.terms[0].is_plain:
            raise UsageError(f'"{term}" names no source to lead. Write lead(NAME).')
        return lead(term.terms[0].word)
    if term.value is not None or term.word not in (*COMPOSED, "weighted", "without_outliers"):
        raise UsageError(f'There is no reranker "{term}". Choose one of {NOTATION}.')
    if not term.terms:
        raise UsageError(f"{term.word} changes another reranker. Write {term.word}(mean_nll).")
    inner, more = _reranker(term.terms[0]), term.terms[1:]
    if term.word == "weighted":
        if not more:
            raise UsageError(
                f'"{term}" gives no weights. Write weighted(mean_nll, NAME=1, NAME=2).'
            )
        return weighted(inner, _weights(more))
    if term.word == "without_outliers" and len(more) <= 1:
        return without_outliers(inner, *(number_of(ratio, "The ratio") for ratio in more))
    if more:
        raise UsageError(
            f'"{term}" has "{more[0]}" left over. {term.word} does not take that many.'
        )
    return COMPOSED[term.word](inner)


def _weights(terms: tuple[Term, ...]) -> dict[str, float]:
    for term in terms:
        if term.value is None:
            raise UsageError(f'The weight "{term}" has no number. Write NAME=1.')
    return {
        term.word: number_of(Term(term.value or ""), f"The weight of {term.word}") for term in terms
    }
