"""Token boundaries inside a part that no later text can change.

Byte-pair encodings and Unigram's best paths have one property in common. The encoding of a text,
up to one of its own boundaries, is the encoding of the text up to there. A text that goes on has
a last boundary that is not beyond what is known, and from there a token reaches over the end. So
its encoding begins with that of one of the ends from which some token can. What the encodings up to
all of these ends share is settled.
"""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Protocol, final

import tokenizers
from tokenizers import models, pre_tokenizers

from coolfusion.tokenization.settling.normalizing import Normalizing, spec_of
from coolfusion.tokenization.settling.patterns import NotFollowed
from coolfusion.tokenization.settling.stages import flat
from coolfusion.tokenization.settling.views import View
from coolfusion.tokenization.token_bytes import unknown_id


@dataclass(frozen=True, slots=True)
class Part:
    """The last part of a view. ``edges`` are where its characters begin and end in its symbols.

    ``settled`` has the boundaries, in symbols, that no later text can change. ``tokens`` are where
    the tokens of what is known end.
    """

    edges: tuple[int, ...] = (0,)
    settled: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """The number of symbols."""
        return self.edges[-1]

    def num_tokens(self, boundary: int) -> int:
        """How many tokens end at or before a boundary."""
        return sum(end <= boundary for end in self.tokens)


class Model(Protocol):
    """What is known of a model inside a part."""

    def part(self, view: View, *, early: bool = False) -> Part:
        """The last part of a view; ``early``: even if less than half of it is settled."""
        ...

    def is_own_beginning(self, view: View) -> bool:
        """Whether a text that begins inside a part is encoded as it is in the part."""
        ...


@final
class Unknown:
    """A model of which nothing is known inside a part."""

    def part(self, view: View, *, early: bool = False) -> Part:  # noqa: ARG002
        """Nothing is settled."""
        return Part()

    def is_own_beginning(self, view: View) -> bool:  # noqa: ARG002
        """Nothing is known."""
        return False


@final
class LongWords:
    """WordPiece: a word longer than ``limit`` characters is one unknown token, however long."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def part(self, view: View, *, early: bool = False) -> Part:  # noqa: ARG002
        """Settled is what more than ``limit`` characters follow: it adds no token of its own."""
        start, sure = view.trace.start, view.trace.sure
        last = view.whole_piece(sure - self._limit - 1) - start if sure - start > self._limit else 0
        return Part(tuple(range(sure - start + 1)), (last,) if last > 0 else ())

    def is_own_beginning(self, view: View) -> bool:  # noqa: ARG002
        """It is the unknown token in both."""
        return True


@final
class SharedBeginnings:
    """Byte-pair encodings and Unigram."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, in_context: bool) -> None:
        self._tokenizer = tokenizer
        self._in_context = in_context
        model: Any = tokenizer.model
        # Such a model takes a part that is a token for that token, whatever its merges say.
        self._whole_parts = getattr(model, "ignore_merges", False)
        self._drops_unknown = isinstance(model, models.BPE) and model.unk_token is None
        self._falls_back = getattr(model, "byte_fallback", False)
        kinds = {
            part["type"]: part for part in flat(spec_of(tokenizer.pre_tokenizer), "pretokenizers")
        }
        marks = kinds.get("Metaspace", {})
        self._is_bytes = "ByteLevel" in kinds
        self._space = marks.get("replacement", " ")
        self._marks_parts = marks.get("prepend_scheme", "never") != "never"
        self._prefix = Normalizing(tokenizer.normalizer).prefix

    @cached_property
    def _vocabulary(self) -> list[str]:
        return sorted(self._tokenizer.get_vocab(with_added_tokens=False))

    @cached_property
    def _longest(self) -> dict[str, int]:
        """The length of the longest token that begins with one or two symbols."""
        longest: dict[str, int] = {}
        for token in self._vocabulary:
            for beginning in {token[:1], token[:2]}:
                longest[beginning] = max(len(token), longest.get(beginning, 0))
        return longest

    @cached_property
    def _alphabet(self) -> set[str]:
        return set().union(*self._vocabulary)

    @cached_property
    def _known(self) -> set[str]:
        return set(self._vocabulary)

    @cached_property
    def _kept(self) -> set[str]:
        return {token for token in self._vocabulary if len(token) == 1}

    @cached_property
    def _reach(self) -> int:
        return max(self._longest.values(), default=0)

    @cached_property
    def _unknown(self) -> int | None:
        return unknown_id(self._tokenizer)

    def _written(self) -> dict[str, Any]:
        """The model's JSON, which takes much more memory than the model."""
        written: dict[str, Any] = json.loads(self._tokenizer.model.__getstate__())
        return written

    @cached_property
    def _neighbours(self) -> set[str]:
        """Two symbols that stand beside one another in some token."""
        return {token[i : i + 2] for token in self._vocabulary for i in range(len(token) - 1)}

    def _never_joined(self, symbols: str, end: int) -> bool:
        """Whether no token reaches over a place and it also counts as a boundary, whatever follows.

        Two symbols of no token are one unknown token, whose only id comes from what is right of it.
        """
        if not self._alphabet.intersection(symbols[end - 1 : end + 1]):
            return True
        # Unigram joins what it does not know, too, but not where it falls back to bytes.
        return self._spells_unknown and symbols[end - 1 : end + 1] not in self._neighbours

    @cached_property
    def _spells_unknown(self) -> bool:
        is_unigram = isinstance(self._tokenizer.model, models.Unigram)
        return is_unigram and bool(self._written().get("byte_fallback"))

    @cached_property
    def _bare(self) -> tokenizers.Tokenizer:
        """The model alone, which merges even where a whole part is a token."""
        if not self._whole_parts:
            return tokenizers.Tokenizer(self._tokenizer.model)
        model = self._written()
        # Older files write the two sides of a merge in one string.
        pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
        return tokenizers.Tokenizer(
            models.BPE(vocab=model["vocab"], merges=[(left, right) for left, right in pairs])
        )

    def part(self, view: View, *, early: bool = False) -> Part:
        """The last part, with the boundaries that all its possible encodings share."""
        start, sure = view.trace.start, view.trace.sure
        spelled = [self._spelled(character) for character in view.shown[start:sure]]
        mark = self._mark(view)
        edges = tuple(accumulate(map(len, spelled), initial=len(mark)))
        symbols = mark + "".join(spelled)
        ends = [*self._overreached(symbols), len(symbols)]
        # Half of a part is settled at once, so that each character costs the same.
        if ends[0] <= len(mark) or not (early or len(symbols) >= 2 * (len(symbols) - ends[0])):
            return Part(edges)
        if self._whole_parts and self._begins_token(symbols):
            return Part(edges)
        tokens = self._ends(symbols)
        common = _apart(tokens, self._unknown)
        for end in reversed(ends[:-1]):
            common &= _apart(self._ends(symbols[:end]), self._unknown)
        common |= {end for end in range(1, len(symbols)) if self._never_joined(symbols, end)}
        settled = tuple(sorted(end for end in common if len(mark) < end <= ends[0]))
        return Part(edges, settled, tuple(end for _, end in tokens))

    def is_own_beginning(self, view: View) -> bool:
        """Whether nothing is put before it, and it cannot become a token that nothing merges to."""
        if view.trace.start:
            return self._in_context
        symbols = "".join(map(self._spelled, view.shown))
        return not self._mark(view) and not (self._whole_parts and self._begins_token(symbols))

    def _begins_token(self, symbols: str) -> bool:
        place = bisect.bisect_left(self._vocabulary, symbols)
        return place < len(self._vocabulary) and self._vocabulary[place].startswith(symbols)

    def _mark(self, view: View) -> str:
        """What the last part is given before its first character."""
        start = view.trace.start
        if start >= view.trace.sure or (self._in_context and not start):
            return ""
        if self._marks_parts:
            return "" if view.shown[start] in (" ", self._space) else self._space
        return self._prefix

    def _spelled(self, character: str) -> str:
        """A character in the symbols of the vocabulary, without those that the model drops."""
        if self._is_bytes:
            symbols = _in_bytes(character)
        else:
            symbols = self._space if character == " " else character
        if self._kept.issuperset(symbols) or not self._drops_unknown:
            return symbols
        return "".join(symbol for symbol in symbols if self._is_kept(symbol))

    def _is_kept(self, symbol: str) -> bool:
        # Without an unknown token, what is on both sides of a dropped symbol is merged.
        spelled = self._falls_back and self._known.issuperset(
            f"<0x{byte:02X}>" for byte in symbol.encode()
        )
        return spelled or symbol in self._kept

    def _overreached(self, symbols: str) -> list[int]:
        """The ends before the last one from which a token may reach over it, in order."""
        size = len(symbols)
        return [
            end
            for end in range(max(0, size - self._reach), size)
            if self._longest.get(symbols[end : end + 2], 0) > size - end
            and self._begins_longer(symbols[end:])
        ]

    def _begins_longer(self, symbols: str) -> bool:
        place = bisect.bisect_right(self._vocabulary, symbols)
        return place < len(self._vocabulary) and self._vocabulary[place].startswith(symbols)

    def _ends(self, symbols: str) -> list[tuple[int, int]]:
        """Tokens and where each ends."""
        encoding = self._bare.encode(symbols, add_special_tokens=False)
        return [(i, end) for i, (_, end) in zip(encoding.ids, encoding.offsets, strict=True)]


def model_of(tokenizer: tokenizers.Tokenizer, *, in_context: bool) -> Model:
    """What is known of a tokenizer's model. Raises ``NotFollowed`` for one that draws lots.

    ``in_context``: texts are encoded as in the middle of others, so nothing is put before them.
    """
    model: Any = tokenizer.model
    if isinstance(model, models.WordPiece):
        return LongWords(model.max_input_chars_per_word)
    if isinstance(model, models.Unigram):
        return SharedBeginnings(tokenizer, in_context=in_context)
    if not isinstance(model, models.BPE):
        return Unknown()
    if model.dropout:
        raise NotFollowed("dropout, which encodes equal texts in different ways")
    # Letters at the edges of a part have symbols of their own there.
    marked = model.continuing_subword_prefix or model.end_of_word_suffix
    return Unknown() if marked else SharedBeginnings(tokenizer, in_context=in_context)


def _apart(tokens: list[tuple[int, int]], unknown: int | None) -> set[int]:
    """The ends that are boundaries for sure: unknown tokens that meet may become one."""
    known = {end for _, end in tokens}
    start = 0
    for token, end in tokens:
        if token == unknown:
            known -= {start, end}
        start = end
    return known


@lru_cache(maxsize=1 << 16)
def _in_bytes(character: str) -> str:
    """A character in the alphabet of byte-level tokenizers."""
    return "".join(part for part, _ in _BYTES.pre_tokenize_str(character))


_BYTES: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
