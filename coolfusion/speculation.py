"""Cross-verification: one source guesses several segments ahead, the others check them at once.

A guess is verified by asking every source about it in one pass. What the sources then say,
token by token, they say from memory (``coolfusion.recall``), so the fusion loop runs as it
always does and its outcome cannot depend on any guess: agreed segments cost nothing more, a
source that disagrees drafts from where it parts ways, and what is left of a guess after a
contest is still remembered. Guesses come from the source that is cheapest for what its
guesses are worth, from text that has been said before, or from an outside drafter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

from coolfusion.backend import Query, Scores
from coolfusion.boundaries import Boundary
from coolfusion.canonical import Canonical, common_length, extend
from coolfusion.drafting import Draft, DraftRequest, Pen, draft
from coolfusion.errors import SourceError
from coolfusion.guesses import Guess, forks, look_up
from coolfusion.measuring import Acceptance, Pace, Timed, expected_tokens
from coolfusion.recall import Recall
from coolfusion.sources import Source, isolated
from coolfusion.state import State, sampling_of
from coolfusion.tokenizer import Prompt
from coolfusion.types import Usage

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # of guesses, in the drafter's tokens
CHARS_PER_TOKEN = 4
MAX_TEXTS = 1024


@dataclass(frozen=True, slots=True)
class Speculation:
    """How to guess. ``drafter`` is an outside model that guesses but takes no part otherwise.

    ``look_up`` allows guesses from the prompt and the response so far.
    """

    drafter: Source | None = None
    look_up: bool = True


@dataclass(frozen=True, slots=True)
class Guesser:
    """Who guesses: a source (its number ``k``), an outside drafter, or, without either, a look-up."""

    acceptance: Acceptance
    pace: Pace | None = None
    source: Source | None = None
    k: int | None = None


@dataclass(slots=True)
class Memory:
    """What is kept of one response: the last guess, and how its guesser reads the response."""

    guess: Guess | None = None
    guesser: Guesser | None = None
    prompt: tuple[int, ...] = ()
    encoded: Canonical = field(default_factory=Canonical)
    num_encoded: int = 0


@final
class Speculator:
    """Keeps a guess for every response, and the measurements by which guessers are chosen.

    ``sources`` remember their answers; ``paces`` are theirs.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        paces: Sequence[Pace],
        boundary: Boundary,
        speculation: Speculation,
    ) -> None:
        self._sources = sources
        self._paces = paces
        self._boundary = boundary
        self._memories: OrderedDict[int, Memory] = OrderedDict()
        self._guessers = [
            Guesser(Acceptance(), pace, source, k)
            for k, (source, pace) in enumerate(zip(sources, paces, strict=True))
        ]
        if speculation.look_up:
            self._guessers.append(Guesser(Acceptance((1.0, 1.0))))
        if speculation.drafter is not None:
            drafter, pace = remembering(speculation.drafter)
            self._guessers.append(Guesser(Acceptance(), pace, drafter))

    def is_agreed(self, state: State) -> bool:
        """Whether the next segment is known to need neither a pass nor a contest."""
        guess = self._memory(state).guess
        return guess is not None and guess.is_agreed(state.text, state.active)

    def prepare(self, states: Sequence[State]) -> list[dict[str, Usage]]:
        """Give every response a verified guess; returns what that cost, per source name."""
        spent: list[dict[str, Usage]] = [{} for _ in states]
        lengths: dict[int, int] = {}
        for row, state in enumerate(states):
            if self._needs_guess(state):
                memory = self._memory(state)
                memory.guess, memory.guesser = None, None
                lengths[row] = self._choose(state, memory, len(states))
        guessed: dict[int, Draft] = {}
        for guesser in self._guessers:
            rows = [row for row in lengths if self._memory(states[row]).guesser is guesser]
            drafts = self._guess(guesser, [(states[row], lengths[row]) for row in rows])
            for row, found in zip(rows, drafts, strict=True):
                if isinstance(found, SourceError):
                    guesser.acceptance.observe(0, failed=True)
                elif found.text or found.ends:
                    guessed[row] = found
                if isinstance(found, Draft) and guesser.k is not None:
                    spent[row][self._sources[guesser.k].name] = replace(found.usage, num_drafted=0)
        self._verify(states, guessed, spent)
        return spent

    def _memory(self, state: State) -> Memory:
        memory = self._memories.get(state.lane)
        if memory is None:
            memory = self._memories[state.lane] = Memory()
            if len(self._memories) > MAX_TEXTS:
                self._memories.popitem(last=False)
        return memory

    def _needs_guess(self, state: State) -> bool:
        """Whether nothing is left of the last guess; what became of it is noted."""
        memory = self._memory(state)
        guess = memory.guess
        if guess is None or memory.guesser is None:
            return True
        if guess.remains(state.text):
            return False
        share = guess.num_right(state.text) / max(1, len(guess.text))
        failed = guess.failed(state.text)
        memory.guesser.acceptance.observe(share * guess.num_tokens, failed=failed)
        for guesser in self._guessers:
            if guesser is not memory.guesser:
                guesser.acceptance.forget()
        return True

    def _choose(self, state: State, memory: Memory, num_texts: int) -> int:
        """Note the guesser whose guesses cost least per token they are worth; returns how many.

        Without any better than no guess at all, none is noted.
        """
        longest = max(len(state.encoded[k].ids) for k in state.active)
        room = state.request.max_new_tokens - longest
        best = sum(self._paces[k].seconds(1, num_texts) for k in state.active)
        chosen = 0
        for guesser in self._guessers:
            if guesser.k is not None and guesser.k not in state.active:
                continue
            if guesser.source is None and not self._looked_up(state, 1):
                continue
            checkers = [self._paces[k] for k in state.active if k != guesser.k]
            for length in LENGTHS:
                if length > max(1, room):
                    break
                cost = sum(pace.seconds(length, num_texts) for pace in checkers)
                if guesser.pace is not None:
                    cost += length * guesser.pace.seconds(1, num_texts)
                cost /= expected_tokens(guesser.acceptance.rate, length)
                if cost < best:
                    best, chosen, memory.guesser = cost, length, guesser
        return chosen

    def _guess(
        self, guesser: Guesser, rows: Sequence[tuple[State, int]]
    ) -> list[Draft | SourceError]:
        """What comes next, as ``guesser`` thinks; each state with the length it is to have."""
        if guesser.source is None:
            return [
                Draft(self._looked_up(state, length), False, 0.0, None, Usage())
                for state, length in rows
            ]
        return isolated(partial(self._draft, guesser, guesser.source), rows)

    def _draft(
        self, guesser: Guesser, source: Source, rows: Sequence[tuple[State, int]]
    ) -> list[Draft]:
        lengths = {state.lane: length for state, length in rows}

        def cut(pen: Pen) -> int | None:
            length = lengths[pen.request.lane or 0]
            if len(pen.ids) < length:
                return None
            cuts = list(self._boundary.propose(pen.text))
            if cuts:
                return cuts[-1]
            return len(pen.text) if len(pen.ids) >= 2 * length + 8 else None

        return draft(source, [self._request(guesser, source, state) for state, _ in rows], cut)

    def _request(self, guesser: Guesser, source: Source, state: State) -> DraftRequest:
        if guesser.k is not None:
            prompt, encoded = state.prompts[guesser.k], state.encoded[guesser.k]
        else:
            prompt, encoded = self._outside_view(source, state)
        return DraftRequest(
            prefix=prompt + encoded.ids,
            context="",
            sampling=sampling_of(state.request, source.name),
            max_tokens=None,
            room=max(1, state.request.max_new_tokens - len(encoded.ids)),
            lane=state.lane,
        )

    def _outside_view(self, source: Source, state: State) -> tuple[tuple[int, ...], Canonical]:
        """The prompt and the response in the outside drafter's ids."""
        memory = self._memory(state)
        if not memory.prompt:
            messages = not isinstance(state.prompt, str)
            plain = messages and not getattr(source.tokenizer, "has_chat_template", True)
            prompt = prompt_text(state.prompt) + "\n" if plain else state.prompt
            memory.prompt = source.tokenizer.encode_prompt(prompt)
        fresh = state.text[memory.num_encoded :]
        memory.encoded = extend(memory.encoded, fresh, source.tokenizer)
        memory.num_encoded = len(state.text)
        return memory.prompt, memory.encoded

    def _looked_up(self, state: State, length: int) -> str:
        said = prompt_text(state.prompt) + state.text
        text = look_up(said, length * CHARS_PER_TOKEN)
        cuts = list(self._boundary.propose(text)) if text else []
        return text[: cuts[-1]] if cuts else text

    def _verify(
        self,
        states: Sequence[State],
        guessed: dict[int, Draft],
        spent: list[dict[str, Usage]],
    ) -> None:
        """Ask every source about every guess it did not make, and note where it disagrees."""
        found: dict[int, dict[int, tuple[int, ...]]] = {row: {} for row in guessed}
        for k, source in enumerate(self._sources):
            rows, queries = [], []
            for row, guess in guessed.items():
                guesser = self._memory(states[row]).guesser
                if guesser is not None and guesser.k == k:
                    found[row][k] = ()
                elif k in states[row].active:
                    query = self._question(states[row], guess, k)
                    if query is not None:
                        rows.append(row)
                        queries.append(query)
            answers = isolated(source.backend.score, queries) if queries else []
            for row, query, scores in zip(rows, queries, answers, strict=True):
                if isinstance(scores, Scores):
                    found[row][k] = _parted(states[row], guessed[row], query, scores, source)
                    spent[row][source.name] = Usage(0, 0, scores.num_forwarded, scores.num_passes)
        for row, guess in guessed.items():
            start = len(states[row].text)
            cuts = tuple(start + cut for cut in self._boundary.propose(guess.text))
            self._memory(states[row]).guess = Guess(
                start,
                guess.text,
                guess.ends,
                cuts,
                found[row],
                guess.usage.num_drafted or len(guess.text) / CHARS_PER_TOKEN,
            )

    def _question(self, state: State, guess: Draft, k: int) -> Query | None:
        """The guess in source ``k``'s ids, as far as its context window holds them."""
        source = self._sources[k]
        encoded = state.encoded[k]
        longer = extend(encoded, guess.text, source.tokenizer)
        if common_length(encoded, longer) < len(encoded.ids):
            return None
        prefix = state.prompts[k] + encoded.ids
        limit = source.backend.context_length
        end = len(longer.ids) if limit is None else limit - len(state.prompts[k])
        return Query(
            prefix,
            longer.ids[len(encoded.ids) : end],
            tuple(sorted(source.tokenizer.end_ids)),
            sampling_of(state.request, source.name),
            state.lane,
        )


def remembering(source: Source) -> tuple[Source, Pace]:
    """The source with a memory of its answers, and the pace it shows from now on."""
    pace = Pace()
    return replace(source, backend=Recall(Timed(source.backend, pace))), pace


def prompt_text(prompt: Prompt) -> str:
    """The words of a prompt."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt)


def _parted(
    state: State, guess: Draft, query: Query, scores: Scores, source: Source
) -> tuple[int, ...]:
    """Where, in the response, a source would have gone on otherwise."""
    start = len(state.text)
    parted = [
        start + place
        for place in forks(guess.text, query.continuation, scores.picks, source.tokenizer)
    ]
    if guess.ends and scores.picks[-1] not in source.tokenizer.end_ids:
        parted.append(start + len(guess.text))
    return tuple(parted)
