"""Everybody who says what may come next in a response, and what came of it.

Nobody is asked anything here. What an author would say next is read from the answer caches, where
it is known from earlier questions. How far an author can be believed is learnt from every committed
token, whether that author guessed or not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from coolfusion.backends.source import Source
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.request import sampling_of
from coolfusion.decoding.segments.guesses import (
    Rate,
    Saying,
    Trust,
    Words,
    common_bytes,
    look_up,
    saying,
)
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import PromptError
from coolfusion.tokenization.canonical import Canonical, common_length, extend
from coolfusion.tokenization.prompts import prompt_for, prompt_text

QUOTE = -1  # the number of the author that says again what the text has said before
QUOTE_CHARS = 64
CHUNK = 4  # bytes of a quote that are believed in together: about a token of English
MAX_TEXTS = 1024
UNLIKELY = 0.1  # of a word that only an author without a vote would say


@dataclass(slots=True)
class Memory:
    """What is kept of one response: its last state, and what was believed of the next words.

    ``views`` are those of everybody with a model, by number. ``quote`` is what the text may say
    again. ``contested`` are first words that were said against others, by author.
    """

    state: State
    views: dict[int, SourceView] = field(default_factory=dict)
    quote: bytes = b""
    contested: dict[int, bytes] = field(default_factory=dict)


@final
class Authors:
    """The active sources of a response, an outside ``drafter``, and the text so far (a quote).

    They are known by number: that of their cache, and ``QUOTE``.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        caches: Sequence[AnswerCache],
        *,
        drafter: Source | None,
        quotes: bool,
    ) -> None:
        self._sources = sources
        self._caches = caches
        self._drafter = drafter
        self._memories: OrderedDict[int | None, Memory] = OrderedDict()
        self.trust = {k: Trust() for k in range(len(sources))}
        if drafter is not None:
            self.trust[len(sources)] = Trust(Rate(UNLIKELY))
        if quotes:
            self.trust[QUOTE] = Trust(Rate(UNLIKELY))

    def memory(self, sequence_id: int | None) -> Memory | None:
        """What is kept of a response; None for one that was never followed."""
        return self._memories.get(sequence_id)

    def follow(self, state: State) -> Memory:
        """Learn from what was committed since a response was last seen, and go on from there."""
        memory = self._memories.get(state.sequence_id)
        if memory is None:
            memory = self._memories[state.sequence_id] = Memory(state)
            if len(self._memories) > MAX_TEXTS:
                self._memories.popitem(last=False)
        elif state == memory.state:
            return memory
        views = self._views(memory, state)
        said = memory.state.text
        if len(state.text) > len(said) and state.text.startswith(said):
            self._learn(memory, views, state.text[len(said) :].encode())
        memory.state, memory.views, memory.contested = state, views, {}
        if QUOTE in self.trust:
            said = prompt_text(state.prompt) + state.text
            memory.quote = look_up(said, QUOTE_CHARS).encode(errors="replace")
        return memory

    def sayings(self, memory: Memory) -> dict[int, Saying]:
        """What everybody is known to say next, by number."""
        words = {k: self._words(k, view) for k, view in memory.views.items()}
        if memory.quote:
            starts = range(0, len(memory.quote), CHUNK)
            words[QUOTE] = [(memory.quote[start : start + CHUNK], 0.0) for start in starts]
        said = {k: b"".join(piece for piece, _ in each) for k, each in words.items()}
        sayings = {}
        for author, each in words.items():
            others = [said[k] for k in memory.state.active if k != author]
            sayings[author] = saying(each, self.trust[author], others)
            if sayings[author].is_contested:
                memory.contested[author] = each[0][0]
        return sayings

    def _words(self, k: int, view: SourceView) -> Words:
        """What somebody with a model is known to write next, up to an end of the response."""
        words = []
        tokenizer = view.source.tokenizer
        for pick in self._caches[k].known(view.draft_request(view.prefix).query).picks:
            piece = None if pick.token in tokenizer.end_ids else tokenizer.piece(pick.token)
            if piece is None:
                break
            words.append((piece, math.exp(pick.log_prob)))
        return words

    def _learn(self, memory: Memory, views: dict[int, SourceView], committed: bytes) -> None:
        """Note what came of all that was believed of the next words."""
        for author, word in memory.contested.items():
            held = committed.startswith(word) or word.startswith(committed)
            self.trust[author].rival.observe(held=held)
            if held:
                self.trust[author].whole.observe(held=len(committed) <= len(word))
        alike = common_bytes(committed, memory.quote)
        for end in range(CHUNK, min(len(committed), len(memory.quote)) + 1, CHUNK):
            self.trust[QUOTE].observe(0.0, held=end <= alike)
            if end > alike:
                break
        for k in memory.views.keys() & views.keys():
            self._learn_trust(k, memory.views[k], views[k])

    def _learn_trust(self, k: int, before: SourceView, after: SourceView) -> None:
        """Note of every committed token whether an author would have written it there."""
        shared = common_length(before.encoded, after.encoded)
        ids = after.encoded.ids[shared:]
        prefix = after.prompt_ids + after.encoded.ids[:shared]
        picks, _, _ = self._caches[k].known(before.draft_request(prefix).query).along(ids)
        if not picks:
            self.trust[k].forget()
        for pick, token in zip(picks, ids, strict=False):
            self.trust[k].observe(math.exp(pick.log_prob), held=pick.token == token)

    def _views(self, memory: Memory, state: State) -> dict[int, SourceView]:
        """What everybody with a model sees of the response now."""
        views = {k: state.view(k, self._sources[k]) for k in state.active}
        outside = len(self._sources)
        if self._drafter is not None:
            before = memory.views.get(outside)
            if before is not None and state.text.startswith(memory.state.text):
                fresh = state.text[len(memory.state.text) :]
                encoded = extend(before.encoded, fresh, self._drafter.tokenizer)
                views[outside] = replace(before, encoded=encoded)
            else:
                views |= self._outside_view(self._drafter, state)
        return views

    def _outside_view(self, drafter: Source, state: State) -> dict[int, SourceView]:
        """What the outside drafter sees of a response, by its number; nothing if it cannot read."""
        # A drafter only guesses, so any prompt will do: of several, the first source's.
        prompt = prompt_for(state.prompt, self._sources[0].name)
        messages = not isinstance(prompt, str)
        if messages and not getattr(drafter.tokenizer, "has_chat_template", True):
            prompt = prompt_text(prompt) + "\n"
        try:
            prompt_ids = drafter.tokenizer.encode_prompt(prompt)
        except PromptError:  # what a drafter cannot read is no fault of the prompt
            return {}
        number = len(self._sources)
        encoded = extend(Canonical(), state.text, drafter.tokenizer)
        sampling = sampling_of(state.request, drafter.name)
        view = SourceView(number, drafter, prompt_ids, encoded, sampling, state.sequence_id)
        return {number: view}
