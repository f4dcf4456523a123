"""The backend for ``transformers`` encoder-decoder models, such as translation models.

A prefix is the encoder's input, then the decoder's start and the response. The two sides may have
different vocabularies. So an encoder id ``e`` is written as ``vocab_size + e``, with the decoder's
``vocab_size``. No id then stands for both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch

from coolfusion.backends.base import Distributions, Query, Scores
from coolfusion.backends.huggingface.encoder_decoder.seq2seq_passes import (
    MAX_BRANCHES,
    DecoderPasses,
    Ids,
)
from coolfusion.backends.huggingface.logits import read_distributions, read_scores
from coolfusion.backends.huggingface.probing import (
    agrees,
    check_evaluating,
    check_ids,
    check_weights,
    described,
    drafted,
    length_limit,
    rounding,
)
from coolfusion.backends.huggingface.special_ids import end_ids_of, first_named, ids_named
from coolfusion.backends.huggingface.trials import RECOMPUTED_BECAUSE
from coolfusion.errors import ContextLengthError, SourceError, UsageError

DEFAULT_INPUTS = 64


@dataclass(frozen=True, slots=True)
class Sides:
    """Vocabulary sizes and context windows of an encoder and its decoder (None: limit unknown)."""

    num_encoder_ids: int
    num_decoder_ids: int
    encoder_length: int | None
    decoder_length: int | None

    @classmethod
    def of(cls, model: Any) -> Sides:
        """The sizes of a model."""
        encoder, decoder = model.get_encoder(), model.get_decoder()
        return cls(
            encoder.get_input_embeddings().weight.shape[0],
            decoder.get_input_embeddings().weight.shape[0],
            length_limit(encoder.config, "max_encoder_position_embeddings"),
            length_limit(decoder.config, "max_decoder_position_embeddings"),
        )

    def join(self, encoder: Ids, decoder: Ids) -> Ids:
        """One prefix of the encoder's and the decoder's ids."""
        return tuple(self.num_decoder_ids + token for token in encoder) + decoder

    def split(self, prefix: Ids) -> tuple[Ids, Ids]:
        """The encoder's and the decoder's ids of a prefix, at least one each.

        Raises ``SourceError`` for a prefix that has none for one side, or foreign ids.
        """
        num_read = sum(token >= self.num_decoder_ids for token in prefix)
        encoder = tuple(token - self.num_decoder_ids for token in prefix[:num_read])
        decoder = prefix[num_read:]
        if not encoder or not decoder:
            raise SourceError(
                f"A query of an encoder-decoder model has {len(encoder)} ids for the encoder and "
                f"{len(decoder)} for the decoder; each needs at least one."
            )
        check_ids(encoder, self.num_encoder_ids)
        check_ids(decoder, self.num_decoder_ids)
        return encoder, decoder

    def check(self, query: Query) -> None:
        """Raise ``SourceError`` for a query that the model cannot answer."""
        encoder, decoder = self.split(query.prefix)
        check_ids(query.continuation, self.num_decoder_ids)
        check_ids(query.watch, self.num_decoder_ids)
        for side, length, limit in (
            ("encoder", len(encoder), self.encoder_length),
            ("decoder", len(decoder) + len(query.continuation), self.decoder_length),
        ):
            if limit is not None and length > limit:
                raise ContextLengthError(
                    f"The query has {length} tokens for the {side}, which takes {limit}."
                )


@final
class EncoderDecoderBackend:
    """Any ``AutoModelForSeq2SeqLM`` behind the seam of ``coolfusion.backends.base``.

    The model must be in evaluation mode and is never altered. Ids are those of the decoder. A
    prefix begins with the encoder's ids, as ``sides.join`` writes them. ``max_inputs`` is the
    most encoder inputs that stay cached between calls. Ids that the model's generation settings
    rule out (``bad_words_ids``, ``suppress_tokens``) have probability 0. So have all that are
    not in ``token_ids`` (None: all are). Raises ``UsageError`` for a model that cannot be used,
    and ``NonFiniteError`` for weights that are NaN or infinite.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_inputs: int = DEFAULT_INPUTS,
        token_ids: Collection[int] | None = None,
    ) -> None:
        check_evaluating(model)
        check_weights(model)
        self._model = model
        try:
            self.sides = Sides.of(model)
        except AttributeError as error:
            raise UsageError(
                f"A {type(model).__name__} does not name its two vocabularies ({error}), so its ids "
                "cannot be told apart. Leave this source out."
            ) from error
        size = self.sides.num_decoder_ids
        forbidden = _ruled_out(model, size)
        if token_ids is not None:
            allowed = end_ids_of(model, size).union(token_ids)
            forbidden |= set(range(size)) - allowed
        self._passes = _choose_passes(model, self.sides, max_inputs, sorted(forbidden))

    def __repr__(self) -> str:
        return described(self, self._model)

    @property
    def vocab_size(self) -> int:
        """Number of the decoder's ids."""
        return self.sides.num_decoder_ids

    @property
    def context_length(self) -> int | None:
        """Most tokens of both sides together; each side also has its own limit."""
        if self.sides.encoder_length is None or self.sides.decoder_length is None:
            return None
        return self.sides.encoder_length + self.sides.decoder_length

    @property
    def device(self) -> str:
        """The model's device; sources on different devices compute at the same time."""
        return str(self._model.device)

    @property
    def strategy(self) -> str:
        """How queries are answered: "cached", or "recomputed" if rollback does not work."""
        return "cached" if self._passes.keeps else "recomputed"

    @property
    def slow_because(self) -> str | None:
        """Why texts are computed anew for every question, if they are; None: they are cached."""
        return None if self._passes.keeps else RECOMPUTED_BECAUSE

    def forget(self) -> None:
        """Drop all cached inputs and texts, so that the next answers cost what the first ones did."""
        self._passes.forget()

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """Answer a batch of queries. Cached tokens of a prefix are not computed again.

        Raises ``SourceError`` for a query that the model cannot answer.
        """
        for query in queries:
            self.sides.check(query)
        return self._passes.answer(queries, read_scores)

    def distributions(self, queries: Sequence[Query]) -> list[Distributions]:
        """Whole distributions for each query of a batch. Raises as ``score`` does."""
        for query in queries:
            self.sides.check(query)
        return self._passes.answer(queries, read_distributions)

    def draft(self, queries: Sequence[Query], num_tokens: int) -> list[Scores]:
        """Let the model continue each query by ``num_tokens`` picks."""
        return drafted(self.score, queries, num_tokens)


def _choose_passes(
    model: Any, sides: Sides, max_inputs: int, ruled_out: Sequence[int]
) -> DecoderPasses:
    """The fastest passes that give the numbers of a plain forward pass of this model.

    Texts stay cached if rollback works. Otherwise everything is recomputed. Queries go one by one
    if texts of one pass affect each other, as in some mixtures of experts.
    """
    probe = _probe(sides, first_named(model, sides.num_encoder_ids, "pad_token_id"))
    try:
        with torch.inference_mode():
            expected = {query: _plain_logits(model, sides, query) for query in probe}
    except Exception as error:
        raise UsageError(f"The model cannot be run: {type(error).__name__}: {error}") from error

    def make(most: int, num_branches: int, forbidden: Sequence[int]) -> DecoderPasses:
        return DecoderPasses(
            model,
            sides.split,
            max_inputs=most,
            max_branches=num_branches,
            forbidden=forbidden,
        )

    for most, num_branches in ((max_inputs, MAX_BRANCHES), (max_inputs, 0)):
        passes = partial(make, most, num_branches, ())
        if agrees(passes, (probe[:-1], probe[-1:]), expected.__getitem__, rounding(model)):
            return make(most, num_branches, ruled_out)
    return make(1, 0, ruled_out)


def _probe(sides: Sides, padding: int | None) -> list[Query]:
    """Candidates after one input and after a shorter one, then a continuation of the first."""
    usable = [token for token in range(sides.num_decoder_ids) if token != padding]
    ids = tuple(usable[(7 * i * i + 3 * i + 1) % len(usable)] for i in range(12))
    read = tuple((5 * i * i + i + 2) % sides.num_encoder_ids for i in range(7))
    if padding is not None:
        read = tuple(
            (token + 1) % sides.num_encoder_ids if token == padding else token for token in read
        )
    first, second = sides.join(read, ids[:3]), sides.join(read[:4], ids[1:3])
    return [
        Query(first, ids[3:6]),
        Query(first, ids[7:9]),
        Query(second, ids[5:7]),
        Query((*first, *ids[3:5]), ids[9:12]),
    ]


def _plain_logits(model: Any, sides: Sides, query: Query) -> torch.Tensor:
    """(tokens, vocabulary) from the last token of the prefix on."""
    encoder, decoder = sides.split(query.prefix)
    output = model(
        input_ids=torch.tensor([encoder], device=model.device),
        decoder_input_ids=torch.tensor([decoder + query.continuation], device=model.device),
        use_cache=False,
    )
    logits: torch.Tensor = output.logits[0, -len(query.continuation) - 1 :]
    return logits


def _ruled_out(model: Any, size: int) -> frozenset[int]:
    """Ids that a model's generation settings never allow. Raises ``LoadError`` for odd shapes."""
    settings, file = model.generation_config, "generation_config.json"
    words = getattr(settings, "bad_words_ids", None) or []
    single = [
        ids_named(word, size, f"an entry of bad_words_ids of {file}")
        for word in words
        if not isinstance(word, list) or len(word) == 1
    ]
    suppressed = getattr(settings, "suppress_tokens", None)
    return frozenset().union(*single, ids_named(suppressed, size, f"suppress_tokens of {file}"))
