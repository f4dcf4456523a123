"""The check at the seam: every answer of a backend is proper before anything depends on it.

A backend may be anybody's code. An answer that cannot be true would change the text without a
word: +inf wins every contest, and NaN none. So each answer is looked at once, where it comes in.
One that breaks the contract of ``coolfusion.backends.base`` becomes a ``SourceError`` in its
place, which names the value. The source has then failed, as if it had raised that error.

What passes is plain: tuples of Python's numbers, and arrays of doubles. Numbers of numpy, and of
tensors, are taken as the numbers that they are.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.errors import NonFiniteError, SourceError
from coolfusion.types import Floats

ROUNDING: Final = 1e-3  # nats by which a log-probability may exceed 0; it is then taken as 0
NORMALIZED: Final = 1e-2  # nats by which the total of a distribution may differ from 0

Reply = TypeVar("Reply", Scores, Distributions)
Checked: TypeAlias = list[Reply | SourceError]
_NUMBERS: Final = ("log_probs", "pick_log_probs", "watched")


def checked_scores(answers: object, queries: Sequence[Query], vocab_size: int) -> Checked[Scores]:
    """A proper answer to each query, or the error that stands for it.

    Raises ``SourceError`` where it is not known which answer is whose: there are too few, too
    many, or none at all.
    """
    return _each(answers, queries, lambda answer, query: _scores(answer, query, vocab_size))


def checked_drafts(
    answers: object, queries: Sequence[Query], num_tokens: int, vocab_size: int
) -> Checked[Scores]:
    """A proper draft of at least ``num_tokens`` picks for each query, or its error.

    Raises as ``checked_scores`` does.
    """
    return _each(
        answers, queries, lambda answer, query: _draft(answer, query, num_tokens, vocab_size)
    )


def checked_distributions(
    answers: object, queries: Sequence[Query], vocab_size: int
) -> Checked[Distributions]:
    """Proper distributions for each query, or the error that stands for them.

    Raises as ``checked_scores`` does.
    """
    return _each(answers, queries, lambda answer, query: _distributions(answer, query, vocab_size))


def _each(
    answers: object, queries: Sequence[Query], check: Callable[[Any, Query], Reply]
) -> Checked[Reply]:
    if not isinstance(answers, (list, tuple)):
        raise SourceError(
            f"The backend answered {len(queries)} queries with {_shown(answers)}. It must give a "
            "list with one answer for each, in order."
        )
    if len(answers) != len(queries):
        raise SourceError(
            f"The backend gave {len(answers)} answers to {len(queries)} queries, so that it is not "
            "known which is which. It must answer every query, in order."
        )
    checked: Checked[Reply] = []
    for answer, query in zip(answers, queries, strict=True):
        try:
            checked.append(check(answer, query))
        except SourceError as error:
            checked.append(error)
    return checked


def _scores(answer: object, query: Query, vocab_size: int) -> Scores:
    """The answer to a query with its continuation, whose tokens may have probability 0."""
    scores = _plain(_of_type(answer, Scores))
    num_tokens = len(query.continuation)
    _check_length("log_probs", scores.log_probs, num_tokens)
    for name in ("picks", "pick_log_probs", "watched"):
        _check_length(name, getattr(scores, name), num_tokens + 1)
    _check_values(scores, query, vocab_size)
    return scores


def _draft(answer: object, query: Query, num_tokens: int, vocab_size: int) -> Scores:
    """A draft, whose tokens are its picks."""
    scores = _plain(_of_type(answer, Scores))
    num_picks = len(scores.picks)
    if num_picks < max(1, num_tokens):
        raise SourceError(
            f"The backend drafted {num_picks} tokens where {num_tokens} were asked for, so that the "
            "text would never go on. A draft has at least as many picks as are asked for."
        )
    for name in _NUMBERS:
        _check_length(name, getattr(scores, name), num_picks)
    _check_values(scores, query, vocab_size)
    _check_possible("log_probs", scores.log_probs)
    return scores


def _check_values(scores: Scores, query: Query, vocab_size: int) -> None:
    if scores.picks and not 0 <= min(scores.picks) <= max(scores.picks) < vocab_size:
        foreign = next(token for token in scores.picks if not 0 <= token < vocab_size)
        raise SourceError(
            f"The backend picked the id {foreign}, but its ids are 0 to {vocab_size - 1}. No token "
            "stands for it."
        )
    _check_possible("pick_log_probs", scores.pick_log_probs)
    if not query.watch and any(value != -math.inf for value in scores.watched):
        raise SourceError(
            f"The backend says watched = {_shown(scores.watched)} of a query that watches no id. "
            "The total of no ids is -inf."
        )


def _check_possible(name: str, values: tuple[float, ...]) -> None:
    if values and min(values) == -math.inf:
        raise NonFiniteError(
            f"The backend picked a token and says that it has probability 0: {name} holds -inf. "
            "A pick is a token that can come next."
        )


def _check_length(name: str, values: tuple[float, ...], wanted: int) -> None:
    if len(values) != wanted:
        raise SourceError(
            f"The backend's answer has {len(values)} entries in {name} where {wanted} belong. It is "
            "not known which token each is about."
        )


def _distributions(answer: object, query: Query, vocab_size: int) -> Distributions:
    """Rows that each sum to 1; ids that cannot follow have -inf."""
    found = _of_type(answer, Distributions)
    rows = _doubles("log_probs", found.log_probs)
    wanted = (len(query.continuation) + 1, vocab_size)
    if rows.shape != wanted:
        raise SourceError(
            f"The backend's distributions have the shape {rows.shape} where {wanted} belongs: one "
            "row after the prefix and each further token, with one entry for each id."
        )
    peak = float(rows.max())  # NaN, if there is one
    if not peak <= ROUNDING:
        raise _no_log_prob("log_probs", peak)
    with np.errstate(under="ignore", divide="ignore"):
        totals = np.log(np.exp(rows).sum(axis=1))
    worst = float(totals[np.abs(totals).argmax()])
    if not abs(worst) <= NORMALIZED:
        raise SourceError(
            f"The backend's probabilities of all ids sum to {math.exp(worst):.4g} instead of 1. They "
            "are no distribution; give logarithms of normalised probabilities."
        )
    num_forwarded, num_passes = _counts(found)
    if rows is found.log_probs and num_forwarded is found.num_forwarded:
        return found
    return Distributions(rows, num_forwarded, num_passes)


def _of_type(answer: object, kind: type[Reply]) -> Reply:
    if not isinstance(answer, kind):
        raise SourceError(
            f"The backend answered with {_shown(answer)} where {kind.__name__} were asked for. "
            "Check it with coolfusion.testing.check_backend."
        )
    return answer


def _plain(scores: Scores) -> Scores:
    """The same scores in tuples of Python's numbers, none above 0."""
    if _is_plain(scores):
        return scores
    num_forwarded, num_passes = _counts(scores)
    return replace(
        scores,
        picks=_ids(scores.picks),
        num_forwarded=num_forwarded,
        num_passes=num_passes,
        **{name: _log_probs(name, getattr(scores, name)) for name in _NUMBERS},
    )


def _is_plain(scores: Scores) -> bool:
    """Whether nothing has to be converted. Nearly all answers are, so this has to be quick."""
    # Subtle: NaN fails the comparison with 0 too, and a bool is no int here.
    parts = (scores.log_probs, scores.pick_log_probs, scores.watched, scores.picks)
    if any(type(part) is not tuple for part in parts):
        return False
    every = scores.log_probs + scores.pick_log_probs + scores.watched
    return (
        set(map(type, every)) <= {float}
        and all(map((0.0).__ge__, every))
        and {*map(type, scores.picks), type(scores.num_forwarded), type(scores.num_passes)} == {int}
        and min(scores.num_forwarded, scores.num_passes) >= 0
    )


def _log_probs(name: str, values: object) -> tuple[float, ...]:
    """Logarithms of probabilities: -inf for 0, and at most 0."""
    numbers = [_real(name, value) for value in _entries(name, values)]
    for number in numbers:
        if not number <= ROUNDING:
            raise _no_log_prob(name, number)
    return tuple(min(number, 0.0) for number in numbers)


def _no_log_prob(name: str, value: float) -> SourceError:
    text = f"The backend says {value!r} in {name}, which is the logarithm of no probability: "
    if math.isfinite(value):
        return SourceError(f"{text}it is above 0. Give logarithms of normalised probabilities.")
    return NonFiniteError(
        f"{text}it is NaN or infinity. Its weights may be damaged, or its dtype too narrow for it."
    )


def _ids(values: object) -> tuple[int, ...]:
    return tuple(_whole("picks", value) for value in _entries("picks", values))


def _counts(answer: Scores | Distributions) -> tuple[int, int]:
    """What an answer cost, as Python's integers."""
    counts = [_whole(name, getattr(answer, name)) for name in ("num_forwarded", "num_passes")]
    if min(counts) < 0:
        raise SourceError(
            f"The backend says that an answer cost {counts[0]} tokens and {counts[1]} passes. "
            "Counts are 0 or above."
        )
    return counts[0], counts[1]


def _whole(name: str, value: object) -> int:
    try:
        plain = _unwrapped(value)
        if not isinstance(plain, bool):
            return operator.index(plain)
    except Exception:  # of whatever type the value's own code raises
        pass
    raise SourceError(
        f"The backend says {_shown(value)} in {name}, where an integer belongs. Numbers that "
        "stand for ids and counts are whole."
    )


def _real(name: str, value: object) -> float:
    try:
        plain = _unwrapped(value)
        if isinstance(plain, (int, float)) and not isinstance(plain, bool):
            return float(plain)
    except Exception:  # of whatever type the value's own code raises
        pass
    raise SourceError(f"The backend says {_shown(value)} in {name}, where a real number belongs.")


def _unwrapped(value: Any) -> Any:
    """The number in a scalar of numpy or a tensor without dimensions; all else as it is."""
    return value.item() if hasattr(value, "item") else value


def _entries(name: str, values: object) -> list[Any]:
    """The entries of a tuple, a list, an array or a tensor of one dimension."""
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, dict, set)):
        try:
            return list(values)
        except Exception as error:
            raise _unreadable(name, error) from error
    raise SourceError(
        f"The backend says {name} = {_shown(values)}, where a tuple of numbers belongs."
    )


def _doubles(name: str, values: object) -> Floats:
    """An array of doubles from an array or tensor of real numbers, and from nothing else."""
    try:
        array = np.asarray(values)
    except Exception as error:
        raise _unreadable(name, error) from error
    if array.dtype.kind not in "fiu":
        raise SourceError(f"The backend says {name} = {_shown(values)}, where real numbers belong.")
    return array.astype(np.float64, copy=False)


def _unreadable(name: str, error: Exception) -> SourceError:
    return SourceError(f"The backend's {name} cannot be read: {type(error).__name__}: {error}")


def _shown(value: object) -> str:
    """A value as an error can hold it, with its type."""
    try:
        text = repr(value)
    except Exception:
        text = "a value that cannot be shown"
    return f"{text[:77]}..." if len(text) > 80 else text
