"""Cross-verification: what one source would say next, the others read along with their own.

A source that is asked for its own next token makes a pass anyway. Whatever the others are known
to say next rides on that pass, as branches of one token tree. It may be a guess that one of them
has written ahead, or the segment that it will offer in a contest. It may also be what the text
has said before. The answer cache (``coolfusion.decoding.answer_cache``) keeps the answers. The fusion loop then
runs as it always does, and its outcome cannot depend on what was asked early.

So a guess is never verified in a pass of its own. If all agree, the loop finds its answers known;
if not, it finds the scores of the contest. Two things can be lost: the positions that rode in
vain, and the passes of an author that wrote ahead what nobody said. Both are spent only where they
are expected to save more. That is known from the measured pace of every source
(``coolfusion.decoding.pace``) and from how far its words could be believed
(``coolfusion.decoding.segments.guesses``). Verification in one pass is that of speculative
decoding (arXiv 2211.17192), with a contest in place of rejection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

from coolfusion.backends.base import Query
from coolfusion.backends.source import Source
from coolfusion.checks.arguments import checked_fields
from coolfusion.decoding.answer_cache import AnswerCache, positions
from coolfusion.decoding.scheduler import ModelRequest, gather
from coolfusion.decoding.segments.authors import Authors, Memory
from coolfusion.decoding.segments.drafting import PartialDraft, draft
from coolfusion.decoding.segments.guesses import Saying, common_bytes, expected_tokens
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import SourceError
from coolfusion.tokenization.boundaries import Boundary
from coolfusion.tokenization.canonical import common_length, lengthened
from coolfusion.tokenization.prompts import prompt_for, prompt_text
from coolfusion.types import Usage

AHEAD = (1, 2, 4, 8, 16)  # tokens that an author may plan to write ahead
MAX_AHEAD = 48  # tokens that an author writes ahead at most
# What is spent early must be expected to save this much more. Paces and rates are estimates, and
# of many small chances one would else take those that were overrated.
MARGIN = 1.1


@dataclass(frozen=True, slots=True)
@checked_fields
class Speculation:
    """How to guess. ``drafter`` is an outside model that guesses but takes no part otherwise.

    ``look_up`` allows guesses from the prompt and the response so far.
    """

    drafter: Source | None = None
    look_up: bool = True


@dataclass(frozen=True, slots=True)
class ReadAlong:
    """What a source would read of a saying: a request, of which ``num_known`` tokens are known.

    ``worth`` has for every other token how many passes it is expected to save.
    """

    request: ModelRequest
    num_known: int
    worth: tuple[float, ...]

    @property
    def places(self) -> list[tuple[int, ...]]:
        """The ids before every token that is not known, and all ids."""
        query = self.request.query
        ids = query.prefix + query.continuation
        return [ids[:end] for end in range(len(query.prefix) + self.num_known, len(ids) + 1)]

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
        for k, cache in enumerate(caches):
            cache.riders = partial(self._riders, k)
        if speculation.drafter is not None:
            caches.append(AnswerCache(speculation.drafter.backend))
        self._caches = caches
        self._boundary = recipe.boundary
        self._authors = Authors(
            sources, caches, drafter=speculation.drafter, quotes=speculation.look_up
        )

    def follow(self, state: State) -> None:
        """Learn from what was committed since a response was last seen."""
        self._authors.follow(state)

    async def prepare(self, state: State, num_texts: int) -> dict[str, Usage]:
        """Let the author that saves most write ahead; returns what that cost, by source."""
        memory = self._authors.follow(state)
        prospect = self._prospect(memory, num_texts)
        author = max(memory.views, key=prospect.gain)
        if prospect.gain(author) <= 0:
            return {}

        def cut(written: PartialDraft) -> int | None:
            pays = self._prospect(memory, num_texts).gain(author) > 0
            return None if pays and len(written.ids) < MAX_AHEAD else len(written.text)

        view = memory.views[author]
        fewest = min(state.num_tokens[k] for k in state.active)
        room = max(1, state.request.max_new_tokens - fewest)
        (written,) = await gather([draft(view, cut, room=room)])
        if isinstance(written, SourceError) or author not in state.active:
            return {}
        return {view.name: replace(written.usage, num_drafted=0)}

    def _riders(self, k: int, queries: Sequence[Query]) -> list[ModelRequest]:
        """What source ``k`` should read along in a call for ``queries``."""
        seconds = self._caches[k].pace.seconds
        asked = positions(queries)
        sequences = dict.fromkeys(query.sequence_id for query in queries)
        once = seconds(1, len(sequences))
        riders = []
        for sequence in sequences:
            memory = self._authors.memory(sequence)
            if memory is None or k not in memory.state.active:
                continue
            sayings = self._authors.sayings(memory)
            for author in [author for author in sayings if author != k]:
                read = self._reading(memory.views[k], sayings[author], sayings[k])
                places = [(sequence, ids) for ids in read.places]
                size = len(asked) + (places[0] not in asked)
                num_tokens, best, saved = 0, 0.0, 0.0
                for number, worth in enumerate(read.worth, 1):
                    if places[number] in asked:  # it is read anyway
                        continue
                    size += 1
                    saved += worth * once
                    gain = saved - MARGIN * (seconds(size) - seconds(len(asked)))
                    if gain > best:
                        num_tokens, best = number, gain
                if num_tokens:
                    riders.append(read.first(num_tokens))
                    asked.update(places[: num_tokens + 1])
        return riders

    def _reading(self, view: SourceView, saying: Saying, own: Saying) -> ReadAlong:
        """What a source would read of a saying, as far as its window holds it.

        ``own`` is what it would say itself.
        """
        return reading(self._caches[view.index], self._boundary, view, saying, own)

    def _prospect(self, memory: Memory, num_texts: int) -> Prospect:
        """What writing ahead promises, as far as anything is known now."""
        sayings = self._authors.sayings(memory)
        return Prospect(self._caches, self._authors, self._boundary, memory, sayings, num_texts)


def reading(
    cache: AnswerCache, boundary: Boundary, view: SourceView, saying: Saying, own: Saying
) -> ReadAlong:
    """What the source behind ``cache`` would read of a saying, as far as its window holds it.

    ``own`` is what it would say itself.
    """
    tokenizer = view.source.tokenizer
    longer = lengthened(view.encoded, saying.text, tokenizer)
    shared = common_length(view.encoded, longer)
    limit = view.source.backend.context_length
    end = len(longer.ids) if limit is None else max(shared, limit - len(view.prompt_ids))
    ids = longer.ids[shared:end]
    request = view.request(view.prompt_ids + longer.ids[:shared], ids)
    num_known = len(cache.known(request.query).along(ids)[0])
    sizes = [len(tokenizer.piece(token) or b"") for token in longer.ids[shared + num_known :]]
    start = len(saying.text.encode()) - sum(sizes)
    starts = [start + sum(sizes[:i]) for i in range(len(ids) - num_known)]
    worth = [saying.reach_at(start) for start in starts]
    # The segment that is offered against one's own takes one pass to score, however many tokens
    # it has. That pass is saved only if all of the segment is known. Of all other text that is
    # said, every token takes a pass.
    segment = first_segment(boundary, saying.text)
    if is_rival(segment, own.text):
        num_rival = sum(start < len(segment.encode()) for start in starts)
        saved = 1.0 if len(segment) < len(saying.text) else saying.whole
        worth[:num_rival] = [saved / max(1, num_rival)] * num_rival
    return ReadAlong(request, num_known, tuple(worth))


def is_rival(segment: str, own: str) -> bool:
    """Whether a source that would say ``own`` says something else than ``segment``."""
    one, other = segment.encode(), own.encode()
    return common_bytes(one, other) < min(len(one), len(other))


def first_segment(boundary: Boundary, text: str) -> str:
    """The text up to its first cut; all of it if it has none."""
    return text[: next(iter(boundary.propose(text)), len(text))]


@dataclass(frozen=True, slots=True)
class Prospect:
    """What it would save if somebody wrote ahead, in a response that shares calls with others."""

    caches: Sequence[AnswerCache]
    authors: Authors
    boundary: Boundary
    memory: Memory
    sayings: Mapping[int, Saying]
    num_texts: int

    def gain(self, author: int) -> float:
        """Seconds that an author saves by writing ahead, for the best number of tokens.

        A token is worth what its text costs otherwise, as far as it will be said. It costs a pass
        of the author, and a position more in the passes of the others.
        """
        state, saying = self.memory.state, self.sayings[author]
        waiting = [k for k in state.active if k != author and not self._is_drafted(k)]
        # Whoever has said nothing yet is heard first. His first word costs a pass anyway, and
        # tells whether anything is worth writing.
        if not waiting or not all(self.sayings[k].ends for k in waiting):
            return 0.0
        fewest = min(state.num_tokens[k] for k in state.active)
        room = max(1, state.request.max_new_tokens - fewest - len(saying.ends))
        size = self._bytes_per_token(author)
        reach = saying.reach[-1] if saying.reach else 1.0
        worth = self._price() * size * reach
        unread = {k: len(self._reading(k, author).worth) for k in waiting}
        return max(
            worth * expected_tokens(self.authors.trust[author].mean, ahead)
            - MARGIN
            * sum(
                self._seconds(k, 1 + num + ahead * size / self._bytes_per_token(k))
                - self._seconds(k, 1 + num)
                for k, num in unread.items()
            )
            - MARGIN * ahead * self._seconds(author, 1)
            for ahead in AHEAD
            if ahead <= room
        )

    def _price(self) -> float:
        """Seconds that a byte of the response will cost, in the best way to go on."""
        active = self.memory.state.active
        prices = [sum(self._seconds(k, 1) / self._bytes_per_token(k) for k in active)]
        for author in self.memory.views:
            size, trust = self._bytes_per_token(author), self.authors.trust[author].mean
            for ahead in AHEAD:
                cost = ahead * self._seconds(author, 1) + sum(
                    self._seconds(k, max(1.0, ahead * size / self._bytes_per_token(k)))
                    for k in active
                    if k != author
                )
                prices.append(cost / (size * expected_tokens(trust, ahead)))
        return min(prices)

    def _reading(self, k: int, author: int) -> ReadAlong:
        view = self.memory.views[k]
        return reading(self.caches[k], self.boundary, view, self.sayings[author], self.sayings[k])

    def _is_drafted(self, k: int) -> bool:
        """Whether the next segment of a source is known."""
        return next(iter(self.boundary.propose(self.sayings[k].text)), None) is not None

    def _seconds(self, k: int, num_positions: float) -> float:
        return self.caches[k].pace.seconds(num_positions, self.num_texts)

    def _bytes_per_token(self, k: int) -> float:
        """How much text a token of somebody stands for, in the prompt and the response."""
        view, state = self.memory.views[k], self.memory.state
        # An outside drafter has no prompt of its own.
        named = view if k in state.active else self.memory.views[state.active[0]]
        said = prompt_text(prompt_for(state.prompt, named.name))
        num_bytes = len(said.encode()) + len(state.text.encode())
        return max(1, num_bytes) / max(1, len(view.prompt_ids) + len(view.encoded.ids))
