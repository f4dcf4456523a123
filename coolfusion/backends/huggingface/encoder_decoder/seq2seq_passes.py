"""Passes through encoder-decoder models: each encoder input is read once and stays cached.

The decoders of these models number positions by the count of cached tokens. So the rows of one
pass must have equally many. A row with more is rolled back, if its recomputation is cheaper than a
pass of its own. Shorter rows are padded at the end, where no real token sees it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeAlias, final

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from coolfusion.backends.base import Query
from coolfusion.backends.huggingface.logits import Answer, Read, charged
from coolfusion.backends.huggingface.packed import PADDING
from coolfusion.backends.huggingface.special_ids import first_named

MAX_BRANCHES = 4  # decoder texts after one encoder input that stay cached
FORBIDDEN = -1e9  # the logit of an id that a model's generation settings rule out

Ids: TypeAlias = tuple[int, ...]
Split: TypeAlias = Callable[[Ids], tuple[Ids, Ids]]
KeyValues: TypeAlias = tuple[tuple[torch.Tensor, torch.Tensor], ...]  # (heads, tokens, size) each


@dataclass(frozen=True, slots=True, eq=False)
class DecoderBranch:
    """A decoder text with the keys and values of each layer."""

    ids: Ids
    layers: KeyValues

    def shared(self, ids: Ids) -> int:
        """The number of leading tokens in common with ``ids``."""
        if self.ids[: len(ids)] == ids[: len(self.ids)]:
            return min(len(ids), len(self.ids))
        pairs = zip(self.ids, ids, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@dataclass(slots=True, eq=False)
class Reading:
    """The encoder's output for one input, and the decoder texts cached after it, newest last.

    ``states`` is (tokens, width). ``crossed`` holds their cross-attention keys and values; None
    before the first pass of the decoder.
    """

    states: torch.Tensor
    crossed: KeyValues | None = None
    branches: list[DecoderBranch] = field(default_factory=list)

    def keep(self, branch: DecoderBranch, most: int) -> None:
        """Cache a text in place of those that it continues; at most ``most`` in all."""
        self.branches = [b for b in self.branches if b.shared(branch.ids) < len(b.ids)]
        self.branches.append(branch)
        del self.branches[: max(0, len(self.branches) - most)]


@dataclass(frozen=True, slots=True)
class DecoderRow:
    """One query's share of a pass: ``kept`` tokens are cached, logits from ``start`` on wanted."""

    index: int
    reading: Reading
    ids: Ids
    start: int
    branch: DecoderBranch | None
    kept: int


@final
class DecoderPasses:
    """Answers queries through the decoder of an encoder-decoder ``model``.

    ``split`` parts a prefix into the ids of the encoder and of the decoder. At most
    ``max_inputs`` encoder inputs stay cached, with ``max_branches`` decoder texts each. With 0
    branches the decoder recomputes everything. Ids in ``forbidden`` get probability 0.
    """

    def __init__(
        self,
        model: Any,
        split: Split,
        *,
        max_inputs: int,
        max_branches: int = MAX_BRANCHES,
        forbidden: Sequence[int] = (),
    ) -> None:
        self._model = model
        self._split = split
        self._encoder = model.get_encoder()
        self._embed = model.get_decoder().get_input_embeddings()
        self._device = model.device
        self._output_class: type[Any] = BaseModelOutput  # then what the encoder's outputs are
        # Padding is never seen, so any id does that the encoder has.
        num_ids = self._encoder.get_input_embeddings().weight.shape[0]
        self._padding = first_named(model, num_ids, "pad_token_id") or 0
        self._max_inputs = max_inputs
        self._max_branches = max_branches
        self._forbidden = torch.tensor(list(forbidden), dtype=torch.long, device=self._device)
        self._readings: OrderedDict[Ids, Reading] = OrderedDict()

    @property
    def keeps(self) -> bool:
        """Whether decoder texts stay cached."""
        return self._max_branches > 0

    def forget(self) -> None:
        """Drop all cached inputs and texts."""
        self._readings.clear()

    def answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        """Answer queries in order. No cached token is recomputed, and no input is read twice."""
        answers: list[Answer] = []
        for start in range(0, len(queries), self._max_inputs):
            with torch.inference_mode():
                answers += self._answer(queries[start : start + self._max_inputs], read)
        return answers

    def _answer(self, queries: Sequence[Query], read: Read[Answer]) -> list[Answer]:
        parts = [self._split(query.prefix) for query in queries]
        read_by = self._read_new([encoder for encoder, _ in parts])
        rows = []
        for index, (query, (encoder, decoder)) in enumerate(zip(queries, parts, strict=True)):
            self._readings.move_to_end(encoder)
            ids = decoder + query.continuation
            rows.append(self._row(index, self._readings[encoder], ids, len(decoder) - 1))
        answers: dict[int, Answer] = {}
        for some in _passes(rows):
            found = self._forward(some, [queries[row.index] for row in some], read)
            answers.update(zip([row.index for row in some], found, strict=True))
        for index in read_by:
            spent = answers[index]
            num_read = len(parts[index][0])
            answers[index] = charged(spent, spent.num_forwarded + num_read, spent.num_passes + 1)
        while len(self._readings) > self._max_inputs:
            self._readings.popitem(last=False)
        return [answers[index] for index in range(len(queries))]

    def _read_new(self, inputs: Sequence[Ids]) -> list[int]:
        """Encode all new inputs in one pass, and return the index at which each first occurs."""
        new = {ids: inputs.index(ids) for ids in inputs if ids not in self._readings}
        if new:
            longest = max(map(len, new))
            padded = [[*ids, *[self._padding] * (longest - len(ids))] for ids in new]
            output = self._encoder(
                input_ids=torch.tensor(padded, device=self._device),
                attention_mask=self._mask([len(ids) for ids in new]),
            )
            self._output_class = type(output)
            for row, ids in enumerate(new):
                states = output.last_hidden_state[row, : len(ids)]
                self._readings[ids] = Reading(states.clone())
        return list(new.values())

    def _row(self, index: int, reading: Reading, ids: Ids, start: int) -> DecoderRow:
        """The row of a query, which continues the cached text with most tokens in common."""
        branch = max(reading.branches, key=lambda each: each.shared(ids), default=None)
        kept = 0 if branch is None else min(branch.shared(ids), start)
        return DecoderRow(index, reading, ids, start, branch if kept else None, kept)

    def _forward(
        self, rows: Sequence[DecoderRow], queries: Sequence[Query], read: Read[Answer]
    ) -> list[Answer]:
        """Compute the missing tokens of all rows in one pass, and read every query's answer."""
        kept = min(row.kept for row in rows)
        end = max(len(row.ids) for row in rows)
        padded = [[*row.ids[kept:], *[0] * (end - len(row.ids))] for row in rows]
        cache = _cache_of(rows, kept)
        # Embeddings instead of ids: given ids, some models number positions by counting those
        # that are no padding.
        output = self._model(
            encoder_outputs=self._output_class(
                last_hidden_state=_stacked([row.reading.states for row in rows])
            ),
            attention_mask=self._mask([len(row.reading.states) for row in rows]),
            decoder_inputs_embeds=self._embed(torch.tensor(padded, device=self._device)),
            past_key_values=cache,
            use_cache=True,
        )
        lines = torch.cat(
            [
                output.logits[number, row.start - kept : len(row.ids) - kept]
                for number, row in enumerate(rows)
            ]
        )
        if len(self._forbidden):
            lines = lines.float().index_fill(1, self._forbidden, FORBIDDEN)
        answers = read(lines, queries)
        self._keep(rows, cache)
        return [
            charged(answer, len(row.ids) - kept, 1)
            for answer, row in zip(answers, rows, strict=True)
        ]

    def _keep(self, rows: Sequence[DecoderRow], cache: EncoderDecoderCache) -> None:
        """Cache the keys and values of every row's text and, if they are new, of its input."""
        if not self._max_branches:
            return
        for number, row in enumerate(rows):
            if row.reading.crossed is None:
                num_read = len(row.reading.states)
                row.reading.crossed = _taken(cache.cross_attention_cache, number, num_read)
            if all(branch.shared(row.ids) < len(row.ids) for branch in row.reading.branches):
                layers = _taken(cache.self_attention_cache, number, len(row.ids))
                row.reading.keep(DecoderBranch(row.ids, layers), self._max_branches)

    def _mask(self, lengths: Sequence[int]) -> torch.Tensor:
        """(rows, tokens): 1 for a token and 0 for padding after the last."""
        places = torch.arange(max(lengths), device=self._device)
        return (places < torch.tensor(lengths, device=self._device)[:, None]).long()


def _passes(rows: Sequence[DecoderRow]) -> list[list[DecoderRow]]:
    """Rows grouped into passes, so that those of one pass waste at most ``PADDING`` tokens."""
    passes: list[list[DecoderRow]] = []
    for row in sorted(rows, key=lambda row: (row.kept, len(row.ids))):
        if passes:
            some = [*passes[-1], row]
            width = max(len(each.ids) for each in some) - min(each.kept for each in some)
            if sum(width - len(each.ids) + each.kept for each in some) <= PADDING:
                passes[-1] = some
                continue
        passes.append([row])
    return passes


def _cache_of(rows: Sequence[DecoderRow], kept: int) -> EncoderDecoderCache:
    """A KV cache of the first ``kept`` tokens of every row, and of all inputs if all are known."""
    own, crossed = DynamicCache(), DynamicCache()
    if kept:
        branches = [row.branch.layers for row in rows if row.branch is not None]
        own = DynamicCache(_joined(branches, kept))
    known = [row.reading.crossed for row in rows if row.reading.crossed is not None]
    if len(known) == len(rows):
        crossed = DynamicCache(_joined(known, None))
    return EncoderDecoderCache(own, crossed)


def _joined(parts: Sequence[KeyValues], end: int | None) -> list[tuple[torch.Tensor, ...]]:
    """The layers of several rows as one batch, with the tokens before ``end`` of each."""
    return [
        tuple(_stacked([part[layer][which] for part in parts])[:, :, :end] for which in range(2))
        for layer in range(len(parts[0]))
    ]


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors (..., tokens, width) as one batch, padded at the end; equal ones are not copied."""
    if all(part is parts[0] for part in parts):
        return parts[0].expand(len(parts), *parts[0].shape)
    longest = max(part.shape[-2] for part in parts)
    return torch.stack([pad(part, (0, 0, 0, longest - part.shape[-2])) for part in parts])


def _taken(cache: DynamicCache, row: int, length: int) -> KeyValues:
    """The first ``length`` tokens of one row; copied if the buffer holds others too."""
    taken = []
    for layer in cache.layers:
        pair = (layer.keys[row, :, :length], layer.values[row, :, :length])
        is_whole = layer.keys.shape[0] == 1 and layer.keys.shape[2] == length
        taken.append(pair if is_whole else (pair[0].clone(), pair[1].clone()))
    return tuple(taken)
