"""The union route: UniTE's published rule for sources with different vocabularies.

For comparison only. In every step (arXiv 2410.03777) each source's ``k`` likeliest tokens are
read as strings; the union of these is what can come next. Where a source has a string as a token,
that token's probability counts. Where it does not, that of the first token of the string's
encoding counts. Each source is renormalised over the union, and the weighted mean is taken. The
chosen string is appended to the text, which every source encodes anew.

This is an approximation. The first token of a string is likelier than the string, and long tokens
compete with their own beginnings. A source may have to go on from a place where it would never
stop. What is exact is the byte-wise route. Only strings of whole characters take part, and the
end, which is a string like any other here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, final

import numpy as np

from coolfusion.backends.base import Distributions
from coolfusion.backends.sampling import log_sum_exp, pick
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.route import Continuation, next_distributions, spent
from coolfusion.decoding.mixture.rules import (
    Arithmetic,
    TopKUnion,
    likeliest,
    mixed,
)
from coolfusion.decoding.mixture.state import MixtureState, shares, voters
from coolfusion.decoding.mixture.vocabulary import Vocabulary
from coolfusion.decoding.request import sampling_of
from coolfusion.errors import SourceError
from coolfusion.tokenization.base import Tokenizer
from coolfusion.tokenization.canonical import Canonical, extend
from coolfusion.tokenization.utf8 import whole_characters
from coolfusion.types import Floats

END: Final = b""  # how the end is written among strings
Encodings: TypeAlias = tuple[Canonical, ...]


@final
class StringVocabulary:
    """A source's tokens by the strings they write, those of whole characters alone."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary(tokenizer, size)
        excluded = set(self._vocabulary.excluded(b"").tolist())
        self._ids: dict[bytes, int] = {}
        for token in range(size):
            piece = self._vocabulary.piece(token)
            if token not in excluded and piece and _is_whole(piece):
                self._ids.setdefault(piece, token)
        if self._vocabulary.end is not None:
            self._ids[END] = self._vocabulary.end
        self._strings = {token: string for string, token in self._ids.items()}
        self._others = np.array([t for t in range(size) if t not in self._strings], np.int64)

    def outcomes(self, log_probs: Floats) -> Floats:
        """(size,) nats: a distribution over ids as one over tokens that are strings."""
        row = self._vocabulary.outcomes(log_probs, b"")
        row[self._others] = -np.inf
        total = log_sum_exp(row)
        if not np.isfinite(total):
            raise SourceError("The model gives all probability to parts of characters.")
        return row - total

    def likeliest(self, row: Floats, size: int) -> list[bytes]:
        """The strings of the ``size`` likeliest tokens."""
        return [self._strings[token] for token in np.flatnonzero(likeliest(row, size)).tolist()]

    def log_prob(self, row: Floats, string: bytes) -> float:
        """Of a string: that of its token, or of the first token of its encoding."""
        token = self._ids.get(string)
        if token is None:
            ids = self._tokenizer.encode(string.decode()) if string else ()
            token = ids[0] if ids else None
        return -np.inf if token is None or token >= len(row) else float(row[token])


@final
class UnionRoute:
    """Walks string by string, by UniTE's rule."""

    def __init__(self, sources: Sequence[Source], rule: TopKUnion) -> None:
        self._sources = tuple(sources)
        self._size = rule.size
        self._vocabularies = [
            StringVocabulary(source.tokenizer, source.backend.vocab_size) for source in sources
        ]

    def begin(self, prompts: tuple[tuple[int, ...], ...]) -> Encodings:
        """Nothing said yet, by any source."""
        return tuple(Canonical() for _ in prompts)

    async def walk(self, state: MixtureState) -> Continuation:
        """Decide one more string, or the end."""
        position: Encodings = state.position
        views = [state.view(k, self._sources[k]) for k in voters(state)]
        answers = await next_distributions(views, [position[view.index].ids for view in views])
        rows: dict[int, Floats] = {}
        dropped = {k: each for k, each in answers.items() if isinstance(each, SourceError)}
        told = {k: each for k, each in answers.items() if isinstance(each, Distributions)}
        for k, answer in told.items():
            try:
                rows[k] = self._vocabularies[k].outcomes(answer.log_probs[0])
            except SourceError as error:
                dropped[k] = error
        names = [source.name for source in self._sources]
        usage = {names[k]: spent(answer) for k, answer in told.items()}
        lost = {names[k]: error for k, error in dropped.items()}
        if not rows:
            return Continuation(b"", False, position, usage=usage, dropped=lost)
        table, union = self._table(rows)
        combined = mixed(Arithmetic(), table, shares(state, tuple(rows)))
        chosen = pick(combined, sampling_of(state.request, "mixture"), len(state.data))
        text = union[chosen].decode()
        encodings = tuple(
            extend(old, text, source.tokenizer) if k in state.active else old
            for k, (old, source) in enumerate(zip(position, self._sources, strict=True))
        )
        left = [k for k in state.active if k not in dropped]
        return Continuation(
            union[chosen],
            union[chosen] == END,
            encodings,
            float(combined[chosen]),
            {names[k]: float(table[i, chosen]) for i, k in enumerate(rows)},
            {names[k]: len(encodings[k].ids) for k in left},
            usage,
            tuple(names[k] for i, k in enumerate(rows) if int(table[i].argmax()) == chosen),
            lost,
            min(len(encodings[k].ids) for k in left) >= state.request.max_new_tokens,
        )

    def _table(self, rows: dict[int, Floats]) -> tuple[Floats, list[bytes]]:
        """(sources, union) nats, each source normalised over the union, and its strings in order."""
        found = {
            s for k, row in rows.items() for s in self._vocabularies[k].likeliest(row, self._size)
        }
        union = sorted(found, key=lambda string: (string == END, string))
        table = np.array(
            [
                [self._vocabularies[k].log_prob(row, string) for string in union]
                for k, row in rows.items()
            ]
        )
        return table - np.array([[log_sum_exp(row)] for row in table]), union


def _is_whole(piece: bytes) -> bool:
    return whole_characters(piece).encode() == piece
