"""Metrics: from an answer and its references to a number.

    exact_match           1 if the answer is a reference, without white space at its ends
    exact_match:REGEX     the same for the last match of REGEX in the answer (its first group,
                          if it has one)
    last_number           1 if the last number in the answer equals the last in a reference
    contains              1 if a reference stands in the answer as whole words, in any case
    perplexity            of the reference after the prompt, as its logarithm: bits per UTF-8
                          byte, which do not depend on the tokenizer; lower is better
    package.module:name   your own function, called with (answer, reference)

With several references the best of them counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from numbers import Real
from typing import Any

import numpy as np
import regex

from coolfusion.checks.arguments import checked
from coolfusion.errors import CoolfusionError, UsageError
from coolfusion.evaluation.tasks import Row

PERPLEXITY = "perplexity"
# A sign counts only where no word or number runs into it: "3-2" ends in 2.
_NUMBER = regex.compile(r"(?:(?<![\w.])[-+\u2212])?\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")


class MetricError(CoolfusionError, RuntimeError):
    """A metric failed on an answer; the message names the metric and the row."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by name.

    ``compare`` maps (answer, reference) to a number. ``extract`` returns the part of an answer
    that a vote counts, or None if there is none. With ``needs_likelihood`` the value comes from
    the log-likelihood of the reference, and nothing is answered.
    """

    name: str
    compare: Callable[[str, str], Any]
    extract: Callable[[str], str | None]
    higher_is_better: bool = True
    needs_likelihood: bool = False

    def value(self, row: Row, answer: str) -> float:
        """The best value over the row's references. Raises ``MetricError`` naming the row."""
        values = []
        for reference in row.references:
            try:
                value = self.compare(answer, reference)
            except (Exception, SystemExit) as error:
                raise MetricError(
                    f"The metric {self.name} failed on {_named(row)}: {type(error).__name__}: {error}"
                ) from error
            if not isinstance(value, (Real, np.bool_)) or not math.isfinite(value):
                raise MetricError(
                    f"The metric {self.name} gave {value!r} for {_named(row)}; it must be a finite number."
                )
            values.append(float(value))
        return max(values) if self.higher_is_better else min(values)


@checked
def metric_named(name: str) -> Metric:
    """Look up a metric by name. Raises ``UsageError`` for an unknown one."""
    kind, _, pattern = name.partition(":")
    if kind == "exact_match":
        extract = extractor(pattern) if pattern else str.strip
        return Metric(name, _matches(extract), extract)
    if name == "last_number":
        return Metric(name, _same_number, last_number)
    if name == "contains":
        return Metric(name, _contains, str.strip)
    if name == PERPLEXITY:
        return Metric(name, _not_asked, str.strip, higher_is_better=False, needs_likelihood=True)
    if pattern:
        return Metric(name, _imported(kind, pattern), str.strip)
    raise UsageError(
        f'There is no metric "{name}". Choose exact_match, exact_match:REGEX, last_number, contains, '
        "perplexity, or a function of your own as package.module:function."
    )


def extractor(pattern: str) -> Callable[[str], str | None]:
    """A function that returns the last match of a regular expression: its first group, if any.

    Raises ``UsageError`` for an invalid pattern.
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise UsageError(f'"{pattern}" is no regular expression: {error}.') from None
    group = min(1, compiled.groups)

    def extract(text: str) -> str | None:
        found = list(compiled.finditer(text))
        read: str | None = found[-1].group(group) if found else None
        return None if read is None else read.strip()

    return extract


def last_number(text: str) -> str | None:
    """The last number in ``text`` in a plain form: "1,250.50" and "1250.5" become equal."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    value = Decimal(found[-1].replace(",", "").replace("\u2212", "-"))
    plain = format(value, "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain == "-0" else plain


def _matches(extract: Callable[[str], str | None]) -> Callable[[str, str], float]:
    def compare(answer: str, reference: str) -> float:
        read = extract(answer)
        return float(read is not None and read in (reference.strip(), extract(reference)))

    return compare


def _same_number(answer: str, reference: str) -> float:
    wanted = last_number(reference)
    if wanted is None:
        raise ValueError(f"the reference {reference!r} holds no number")
    return float(last_number(answer) == wanted)


def _contains(answer: str, reference: str) -> float:
    wanted = regex.escape(reference.strip().casefold(), literal_spaces=True)
    return float(regex.search(rf"(?<!\w){wanted}(?!\w)", answer.casefold()) is not None)


def _not_asked(_: str, __: str) -> float:
    raise TypeError("perplexity judges log-likelihoods, not answers")


def _imported(module: str, function: str) -> Callable[[str, str], Any]:
    """A function by its dotted name, found as by an import statement."""
    try:
        found = getattr(import_module(module), function)
    except (ImportError, ValueError, AttributeError) as error:
        raise UsageError(
            f'The metric "{module}:{function}" cannot be imported: {error}. '
            "Name it package.module:function."
        ) from error
    except Exception as error:
        raise UsageError(
            f'The metric "{module}:{function}" cannot be imported, because its module raises '
            f"{type(error).__name__}: {error}."
        ) from error
    if not callable(found):
        raise UsageError(f'The metric "{module}:{function}" is {found!r}, not a function.')
    metric: Callable[[str, str], Any] = found
    return metric


def _named(row: Row) -> str:
    return f"row {row.id!r}" + (f" ({row.place})" if row.place else "")
