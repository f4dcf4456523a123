"""Cross-verification: what one source would say next, the others read along with their own.

A source that is asked for its own next token has to make a pass anyway. Whatever the others are
known to say next rides on that pass, as branches of one token tree: a guess that one of them has
written ahead, the segment that it will offer in a contest, words that the text has said before.
The answer cache (``coolfusion.decoding.answer_cache``) keeps the answers. The fusion loop then
runs as it always does, and its outcome cannot depend on what was asked early.

So a guess is never verified in a pass of its own. If all agree, the loop finds its answers known;
if not, the scores of the contest are known. What can be lost is small: the positions that rode in
vain, and the passes of a source that wrote ahead what nobody said. Both are only spent where they
are expected to save more, by the measured pace of every source
(``coolfusion.decoding.pace``) and the measured reliability of its words
(``coolfusion.decoding.segments.guesses``). Verification in one pass is that of speculative
decoding (arXiv 2211.17192), with a contest in place of rejection.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

from coolfusion.backends.source import Source
from coolfusion.checks.arguments import checked_fields
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.request import sampling_of
from coolfusion.decoding.scheduler import ModelRequest, gather
from coolfusion.decoding.segments.drafting import PartialDraft, draft
from coolfusion.decoding.segments.guesses import (
    Rate,
    Saying,
    Trust,
    common_bytes,
    complete_text,
    look_up,
    products,
)
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import PromptError, SourceError
from coolfusion.tokenization.canonical import Canonical, common_length, extend, lengthened
from coolfusion.tokenization.prompts import prompt_for, prompt_text
from coolfusion.types import Usage

AHEAD = (1, 2, 4, 8, 16)  # tokens that a source may plan to write ahead
MAX_AHEAD = 48  # tokens that it writes ahead at most
CHUNK = 4  # bytes of a looked-up text that are believed in together
QUOTE_BYTES = 64
QUOTE = -1  # the number of the author that says again what the text has said before
MAX_TEXTS = 1024


@dataclass(frozen=True, slots=True)
@checked_fields
class Speculation:
    """How to guess. ``drafter`` is an outside model that guesses but takes no part otherwise.

    ``look_up`` allows guesses from the prompt and the response so far.
    """

    drafter: Source | None = None
    look_up: bool = True


@dataclass(slots=True)
class Author:
    """Somebody who says what may come next: a source, an outside drafter, the text so far.

    ``rival`` is how often its word is committed where a source would say something else.
    """

    trust: Trust = field(default_factory=Trust)
    rival: Rate = field(default_factory=lambda: Rate(0.5))


@dataclass(slots=True)
class Memory:
    """What is kept of one response: its last state, and what was believed of the next words.

    ``prompt`` and ``encoded`` are the outside drafter's ids of the prompt and of the response.
    """

    state: State
    quote: bytes = b""
    contested: dict[int, bytes] = field(default_factory=dict)
    prompt: tuple[int, ...] = ()
    encoded: Canonical = field(default_factory=Canonical)
    num_encoded: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source would read of a saying: a request, of which ``num_known`` tokens are known.

    ``reach`` has for each unknown token the probability that all of the text before it is said.
    """

    request: ModelRequest
    num_known: int
    reach: tuple[float, ...]

    def first(self, num_tokens: int) -> ModelRequest:
        """The request for the known tokens and so many of the others."""
        query = self.request.query
        ids = query.continuation[: self.num_known + num_tokens]
        return replace(self.request, query=replace(query, continuation=ids))


@final
class Speculator:
    """Lets sources read along what others would say, and write ahead where that pays.

    An outside drafter is asked through one more of ``caches``, which it is added to.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        caches: list[AnswerCache],
        recipe: Recipe,
        speculation: Speculation,
    ) -> None:
        self._sources = sources
        self._caches = caches
        self._boundary = recipe.boundary
        self._drafter = speculation.drafter
        self._memories: OrderedDict[int | None, Memory] = OrderedDict()
        for k, cache in enumerate(caches):
            cache.riders = partial(self._riders, k)
        self._authors = {k: Author() for k in range(len(sources))}
        if speculation.look_up:
            self._authors[QUOTE] = Author(rival=Rate(0.1))
        if speculation.drafter is not None:
            self._authors[len(caches)] = Author(rival=Rate(0.1))
            caches.append(AnswerCache(speculation.drafter.backend))

    def follow(self, state: State) -> Memory:
        """Learn from what was committed since a response was last seen, and look on from there."""
        memory = self._memories.get(state.sequence_id)
        if memory is None:
            memory = self._memories[state.sequence_id] = Memory(state)
            if len(self._memories) > MAX_TEXTS:
                self._memories.popitem(last=False)
        if len(state.text) > len(memory.state.text) and state.text.startswith(memory.state.text):
            self._learn(memory, state)
        memory.state = state
        memory.contested = {}
        memory.quote = self._quote(state) if QUOTE in self._authors else b""
        return memory

    async def prepare(self, state: State, num_texts: int) -> dict[str, Usage]:
        """Let the source that pays most write ahead; returns what that cost, by source."""
        memory = self.follow(state)
        sayings = self._sayings(memory)
        gains = {d: self._gain(d, memory, sayings, num_texts) for d in self._views(memory)}
        author = max(gains, key=gains.__getitem__)
        if gains[author] <= 0:
            return {}

        def cut(written: PartialDraft) -> int | None:
            pays = self._gain(author, memory, self._sayings(memory), num_texts) > 0
            return None if pays and len(written.ids) < MAX_AHEAD else len(written.text)

        view = self._views(memory)[author]
        room = max(1, state.request.max_new_tokens - len(view.encoded.ids))
        (written,) = await gather([draft(view, cut, room=room)])
        if isinstance(written, SourceError) or author not in state.active:
            return {}
        return {view.name: replace(written.usage, num_drafted=0)}

    def _learn(self, memory: Memory, state: State) -> None:
        """Note what came of all that was believed of the next words."""
        before = memory.state
        committed = state.text[len(before.text) :].encode()
        for author, word in memory.contested.items():
            held = committed.startswith(word) or word.startswith(committed)
            self._authors[author].rival.observe(held=held)
        if memory.quote:
            alike = common_bytes(committed, memory.quote)
            for end in range(CHUNK, min(len(committed), len(memory.quote)) + 1, CHUNK):
                self._authors[QUOTE].trust.observe(0.0, held=end <= alike)
                if end > alike:
                    break
        views = self._views(memory)
        after = self._views(memory, state)
        for k, view in views.items():
            if k in after:
                self._learn_trust(self._authors[k].trust, k, view, after[k])

    def _learn_trust(self, trust: Trust, k: int, before: SourceView, after: SourceView) -> None:
        """Note of every committed token whether source ``k`` would have written it."""
        shared = common_length(before.encoded, after.encoded)
        ids = after.encoded.ids[shared:]
        prefix = after.prompt_ids + after.encoded.ids[:shared]
        known = self._caches[k].known(before.draft_request(prefix).query)
        picks, _, _ = known.along(ids)
        if not picks:
            trust.forget()
        for pick, token in zip(picks, ids, strict=False):
            trust.observe(math.exp(pick.log_prob), held=pick.token == token)

    def _views(self, memory: Memory, state: State | None = None) -> dict[int, SourceView]:
        """What everybody with a model sees of a response: active sources, an outside drafter."""
        state = state or memory.state
        views = {k: state.view(k, self._sources[k]) for k in state.active}
        if self._drafter is not None:
            outside = self._outside_view(self._drafter, memory, state)
            if outside is not None:
                views[len(self._sources)] = outside
        return views

    def _outside_view(self, source: Source, memory: Memory, state: State) -> SourceView | None:
        """What the outside drafter sees; None if it cannot read the prompt."""
        if not memory.prompt:
            # A drafter only guesses, so any prompt will do: of several, the first source's.
            prompt = prompt_for(state.prompt, self._sources[0].name)
            messages = not isinstance(prompt, str)
            if messages and not getattr(source.tokenizer, "has_chat_template", True):
                prompt = prompt_text(prompt) + "\n"
            try:
                memory.prompt = source.tokenizer.encode_prompt(prompt)
            except PromptError:  # what a drafter cannot read is no fault of the prompt
                return None
        text = state.text[memory.num_encoded :]
        memory.encoded = extend(memory.encoded, text, source.tokenizer)
        memory.num_encoded = len(state.text)
        sampling = sampling_of(state.request, source.name)
        return SourceView(
            len(self._sources), source, memory.prompt, memory.encoded, sampling, state.sequence_id
        )

    def _quote(self, state: State) -> bytes:
        """What followed the last words of the text when they were last said."""
        return look_up(prompt_text(state.prompt) + state.text, QUOTE_BYTES).encode()

    def _sayings(self, memory: Memory) -> dict[int, Saying]:
        """What everybody is known to say next."""
        words = {k: self._words(k, view) for k, view in self._views(memory).items()}
        if memory.quote:
            ends = [*range(CHUNK, len(memory.quote), CHUNK), len(memory.quote)]
            trust = self._authors[QUOTE].trust.at(0.0)
            words[QUOTE] = [(memory.quote[max(0, end - CHUNK) : end], trust) for end in ends]
        said = {k: b"".join(piece for piece, _ in each) for k, each in words.items()}
        sayings = {}
        for author, each in words.items():
            others = [said[k] for k in memory.state.active if k != author]
            sayings[author], contested = self._believed(self._authors[author], each, others)
            if contested:
                memory.contested[author] = each[0][0]
        return sayings

    def _words(self, k: int, view: SourceView) -> list[tuple[bytes, float]]:
        """The pieces that a source is known to write next, and how far each is to be trusted."""
        words = []
        for pick in self._caches[k].known(view.draft_request(view.prefix).query).picks:
            tokenizer = view.source.tokenizer
            piece = None if pick.token in tokenizer.end_ids else tokenizer.piece(pick.token)
            if piece is None:
                break
            words.append((piece, self._authors[k].trust.at(math.exp(pick.log_prob))))
        return words

    def _believed(
        self, author: Author, words: Sequence[tuple[bytes, float]], others: Sequence[bytes]
    ) -> tuple[Saying, bool]:
        """A saying as far as it can be believed, and whether its first word is contested.

        What all others would say as well is sure; where one would say something else, there will
        be a contest.
        """
        data = b"".join(piece for piece, _ in words)
        alike = [(common_bytes(data, other), len(other)) for other in others]
        rates: list[float] = []
        ends: list[int] = []
        end = 0
        for piece, trust in words:
            begin, end = end, end + len(piece)
            if any(begin <= same < min(end, length) for same, length in alike):
                rates.append(author.rival.mean)
            elif alike and all(same >= end for same, _ in alike):
                rates.append(1.0)
            else:
                rates.append(trust)
            ends.append(end)
        contested = bool(ends) and any(same < min(ends[0], length) for same, length in alike)
        return Saying(complete_text(data), tuple(ends), products(rates)), contested

    def _riders(self, k: int, requests: Sequence[ModelRequest]) -> list[ModelRequest]:
        """What source ``k`` should read along in a call for ``requests``."""
        seconds = self._caches[k].pace.seconds
        size = sum(len(request.query.continuation) + 1 for request in requests)
        sequences = dict.fromkeys(request.query.sequence_id for request in requests)
        once = seconds(1, len(sequences))
        riders = []
        for sequence in sequences:
            memory = self._memories.get(sequence)
            if memory is None or k not in memory.state.active:
                continue
            view = memory.state.view(k, self._sources[k])
            sayings = self._sayings(memory)
            for author, saying in sayings.items():
                reading = self._reading(k, view, saying, sayings[k]) if author != k else None
                if reading is None:
                    continue
                num_tokens, best, saved = 0, 0.0, 0.0
                for number, reach in enumerate(reading.reach, 1):
                    saved += reach * once
                    gain = saved - (seconds(size + number + 1) - seconds(size))
                    if gain > best:
                        num_tokens, best = number, gain
                if num_tokens:
                    riders.append(reading.first(num_tokens))
                    size += num_tokens + 1
        return riders

    def _reading(self, k: int, view: SourceView, saying: Saying, own: Saying) -> Reading | None:
        """What source ``k`` would read of a saying, as far as its window holds it; None: nothing.

        ``own`` is what it would say itself.
        """
        if not saying.text:
            return None
        tokenizer = view.source.tokenizer
        longer = lengthened(view.encoded, saying.text, tokenizer)
        shared = common_length(view.encoded, longer)
        limit = view.source.backend.context_length
        end = len(longer.ids) if limit is None else max(shared, limit - len(view.prompt_ids))
        prefix, ids = view.prompt_ids + longer.ids[:shared], longer.ids[shared:end]
        request = view.request(prefix, ids)
        _, known, _ = self._caches[k].known(request.query).along(ids)
        if len(known) == len(ids):
            return None
        left = len(saying.text.encode()) - sum(
            len(tokenizer.piece(token) or b"") for token in longer.ids[shared + len(known) :]
        )
        starts = []
        for token in ids[len(known) :]:
            starts.append(left)
            left += len(tokenizer.piece(token) or b"")
        reach = [saying.reach_at(start) for start in starts]
        # The segment that another source offers in a contest takes one pass, however many its
        # tokens are; beyond it every token would take one.
        contested = sum(start < self._rival_end(saying.text, own.text) for start in starts)
        reach[:contested] = [1 / max(1, contested)] * contested
        return Reading(request, len(known), tuple(reach))

    def _gain(
        self, author: int, memory: Memory, sayings: Mapping[int, Saying], num_texts: int
    ) -> float:
        """Seconds that an author saves by writing ahead, for the best number of tokens.

        A token is worth what its text would cost otherwise, as far as it will be said. It costs
        a pass of the author and a position more in the passes of the others.
        """
        state, saying = memory.state, sayings[author]
        waiting = [k for k in state.active if k != author and not self._is_drafted(sayings[k])]
        # Whoever has said nothing yet must be heard first: its first word costs a pass anyway,
        # and tells whether anything is worth writing.
        if not waiting or not all(sayings[k].ends for k in waiting):
            return 0.0
        views = self._views(memory)
        sizes = {k: self._bytes_per_token(state, view) for k, view in views.items()}
        longest = max(len(state.encoded[k].ids) for k in state.active)
        room = state.request.max_new_tokens - longest - len(saying.ends)
        reach = saying.reach[-1] if saying.reach else 1.0
        worth = self._price(state, sizes, num_texts) * sizes[author] * reach
        unread = {k: self._num_unread(k, views[k], sayings, author) for k in waiting}
        return max(
            worth * _powers(self._authors[author].trust.mean, ahead)
            - ahead * self._seconds(author, 1, num_texts)
            - sum(
                self._seconds(k, 1 + num + ahead * sizes[author] / sizes[k], num_texts)
                - self._seconds(k, 1 + num, num_texts)
                for k, num in unread.items()
            )
            for ahead in AHEAD
            if ahead <= max(1, room)
        )

    def _price(self, state: State, sizes: Mapping[int, float], num_texts: int) -> float:
        """Seconds that a byte of the response will cost, in the best way to go on."""
        prices = [sum(self._seconds(k, 1, num_texts) / sizes[k] for k in state.active)]
        for d, size in sizes.items():
            for ahead in AHEAD:
                cost = ahead * self._seconds(d, 1, num_texts) + sum(
                    self._seconds(k, max(1.0, ahead * size / sizes[k]), num_texts)
                    for k in state.active
                    if k != d
                )
                prices.append(cost / (size * _powers(self._authors[d].trust.mean, ahead)))
        return min(prices)

    def _num_unread(
        self, k: int, view: SourceView, sayings: Mapping[int, Saying], author: int
    ) -> int:
        reading = self._reading(k, view, sayings[author], sayings[k])
        return 0 if reading is None else len(reading.reach)

    def _seconds(self, k: int, num_positions: float, num_texts: int) -> float:
        return self._caches[k].pace.seconds(num_positions, num_texts)

    def _bytes_per_token(self, state: State, view: SourceView) -> float:
        """How much text a token of a source stands for, in the prompt and the response."""
        said = prompt_text(prompt_for(state.prompt, view.name))
        num_bytes = len(said.encode()) + len(state.text.encode())
        return max(1, num_bytes) / max(1, len(view.prompt_ids) + len(view.encoded.ids))

    def _rival_end(self, text: str, own: str) -> int:
        """Where the first segment of a text ends, in bytes, if another is offered against it."""
        segment = text[: next(iter(self._boundary.propose(text)), len(text))].encode()
        other = own.encode()
        return len(segment) if common_bytes(segment, other) < min(len(segment), len(other)) else 0

    def _is_drafted(self, saying: Saying) -> bool:
        """Whether the next segment is known."""
        return next(iter(self._boundary.propose(saying.text)), None) is not None


def _powers(rate: float, number: int) -> float:
    """1 + rate + ... of so many terms."""
    return float(number) if rate >= 1.0 else (1.0 - rate**number) / (1.0 - rate)
