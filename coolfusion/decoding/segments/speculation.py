"""Cross-verification: one source guesses several segments ahead, the others check them at once.

Every other source scores a guess in one forward pass, and the answer cache
(``coolfusion.decoding.answer_cache``) keeps the answers. The fusion loop then runs as it always
does, and its outcome cannot depend on any guess. Segments that all sources agree on cost nothing
more. A source that disagrees drafts from the token where it differs. After a contest, the rest of
a guess is still valid if its segment won.

A guess comes from a source, from earlier text, or from an outside drafter. The guesser with the
lowest expected cost per character is chosen. Verification is that of speculative decoding
(arXiv 2211.17192), with a contest in place of rejection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from coolfusion.backends.base import Scores
from coolfusion.backends.source import Source
from coolfusion.checks.arguments import checked_fields
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.request import sampling_of
from coolfusion.decoding.scheduler import as_source_error, ask, gather
from coolfusion.decoding.segments.drafting import Draft, PartialDraft, draft
from coolfusion.decoding.segments.guesses import Acceptance, Guess, expected_tokens, look_up
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.state import State
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import PromptError, SourceError
from coolfusion.tokenization.canonical import Canonical, common_length, extend, lengthened
from coolfusion.tokenization.prompts import prompt_for, prompt_text
from coolfusion.types import Usage

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # of guesses, in the drafter's tokens
CHARS_PER_TOKEN = 4
MAX_TEXTS = 1024


@dataclass(frozen=True, slots=True)
@checked_fields
class Speculation:
    """How to guess. ``drafter`` is an outside model that guesses but takes no part otherwise.

    ``look_up`` allows guesses from the prompt and the response so far.
    """

    drafter: Source | None = None
    look_up: bool = True


@dataclass(frozen=True, slots=True)
class Guesser:
    """Who guesses: a source or an outside drafter (asked as number ``k``), or nobody: a look-up."""

    acceptance: Acceptance
    source: Source | None = None
    k: int = -1


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
        self._memories: OrderedDict[int | None, Memory] = OrderedDict()
        self._guessers = [Guesser(Acceptance(), source, k) for k, source in enumerate(sources)]
        if speculation.look_up:
            self._guessers.append(Guesser(Acceptance((1.0, 1.0))))
        if speculation.drafter is not None:
            self._guessers.append(Guesser(Acceptance(), speculation.drafter, len(caches)))
            caches.append(AnswerCache(speculation.drafter.backend))

    async def prepare(self, state: State, num_texts: int) -> dict[str, Usage]:
        """See to it that a response has a verified guess; returns what that cost, by source."""
        memory = self._memory(state)
        if not self._needs_guess(memory, state):
            return {}
        memory.guess = None
        memory.guesser, length = self._choose(state, num_texts)
        if memory.guesser is None:
            return {}
        guesser = memory.guesser
        (guessed,) = await gather([self._guess(guesser, state, length)])
        spent: dict[str, Usage] = {}
        if isinstance(guessed, SourceError) or not (guessed.text or guessed.ends):
            guesser.acceptance.observe(0, failed=True)
            return spent
        if guesser.k in state.active:
            spent[self._sources[guesser.k].name] = replace(guessed.usage, num_drafted=0)
        spent |= await self._verify(guesser, guessed, state)
        num_tokens = guessed.usage.num_drafted or len(guessed.text) / CHARS_PER_TOKEN
        memory.guess = Guess(len(state.text), guessed.text, guessed.ends, num_tokens)
        return spent

    def _memory(self, state: State) -> Memory:
        memory = self._memories.get(state.sequence_id)
        if memory is None:
            memory = self._memories[state.sequence_id] = Memory()
            if len(self._memories) > MAX_TEXTS:
                self._memories.popitem(last=False)
        return memory

    def _needs_guess(self, memory: Memory, state: State) -> bool:
        """Whether nothing is left of the last guess; what became of it is noted."""
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

    def _choose(self, state: State, num_texts: int) -> tuple[Guesser | None, int]:
        """Whose guess, of how many tokens, costs least for each character that it is worth.

        None where guessing costs more than letting every source draft for itself.
        """
        longest = max(len(state.encoded[k].ids) for k in state.active)
        room = max(1, state.request.max_new_tokens - longest)
        chars = {k: self._chars_per_token(state, k) for k in state.active}
        best = sum(self._seconds(k, 1, num_texts) / chars[k] for k in state.active)
        chosen, chosen_length = None, 0
        for guesser in self._guessers:
            if guesser.k in range(len(self._sources)) and guesser.k not in state.active:
                continue
            if guesser.source is None and not self._looked_up(state, 1):
                continue
            own = self._seconds(guesser.k, 1, num_texts) if guesser.source else 0.0
            worth = chars.get(guesser.k, CHARS_PER_TOKEN)
            for length in LENGTHS:
                checking = sum(
                    self._seconds(k, length * worth / chars[k], num_texts)
                    for k in state.active
                    if k != guesser.k
                )
                cost = length * own + checking
                cost /= worth * expected_tokens(guesser.acceptance.rate, length)
                if cost < best and length <= room:
                    best, chosen, chosen_length = cost, guesser, length
        return chosen, chosen_length

    def _chars_per_token(self, state: State, k: int) -> float:
        """How much text a token of source ``k`` stands for, in the prompt and the response."""
        num_tokens = len(state.prompts[k]) + len(state.encoded[k].ids)
        said = prompt_text(prompt_for(state.prompt, self._sources[k].name))
        return max(1, len(said) + len(state.text)) / num_tokens

    def _seconds(self, k: int, num_tokens: float, num_texts: int) -> float:
        return self._caches[k].pace.seconds(num_tokens, num_texts)

    async def _guess(self, guesser: Guesser, state: State, length: int) -> Draft:
        """What comes next in about ``length`` tokens, by ``guesser``."""
        if guesser.source is None:
            return Draft(self._looked_up(state, length), False, 0.0, None, Usage())

        def cut(partial: PartialDraft) -> int | None:
            if len(partial.ids) < length:
                return None
            cuts = list(self._boundary.propose(partial.text))
            if cuts:
                return cuts[-1]
            return len(partial.text) if len(partial.ids) >= 2 * length + 8 else None

        view = self._view(guesser.k, guesser.source, state)
        room = state.request.max_new_tokens - len(view.encoded.ids)
        return await draft(view, cut, room=max(1, room))

    def _view(self, k: int, source: Source, state: State) -> SourceView:
        """What a source of the decoder sees of the response, or the outside drafter."""
        if k < len(self._sources):
            return state.view(k, source)
        prompt, encoded = self._outside_ids(source, state)
        sampling = sampling_of(state.request, source.name)
        return SourceView(k, source, prompt, encoded, sampling, state.sequence_id)

    def _outside_ids(self, source: Source, state: State) -> tuple[tuple[int, ...], Canonical]:
        """The prompt and the response in the outside drafter's ids."""
        memory = self._memory(state)
        if not memory.prompt:
            # A drafter only guesses, so any prompt will do: of several, the first source's.
            prompt = prompt_for(state.prompt, self._sources[0].name)
            messages = not isinstance(prompt, str)
            if messages and not getattr(source.tokenizer, "has_chat_template", True):
                prompt = prompt_text(prompt) + "\n"
            try:
                memory.prompt = source.tokenizer.encode_prompt(prompt)
            except PromptError as error:  # what a drafter cannot read is no fault of the prompt
                raise as_source_error(error) from error
        fresh = state.text[memory.num_encoded :]
        memory.encoded = extend(memory.encoded, fresh, source.tokenizer)
        memory.num_encoded = len(state.text)
        return memory.prompt, memory.encoded

    def _looked_up(self, state: State, length: int) -> str:
        said = prompt_text(state.prompt) + state.text
        text = look_up(said, length * CHARS_PER_TOKEN)
        cuts = list(self._boundary.propose(text)) if text else []
        return text[: cuts[-1]] if cuts else text

    async def _verify(self, guesser: Guesser, guessed: Draft, state: State) -> dict[str, Usage]:
        """Ask all other sources about a guess; the answer cache keeps what they say.

        Returns what that cost, by source. A source that fails here fails again, and is dealt
        with, in the step itself.
        """
        views = [state.view(k, self._sources[k]) for k in state.active if k != guesser.k]
        checks = await gather([self._check(view, guessed) for view in views])
        return {
            view.name: Usage(0, 0, each.num_forwarded, each.num_passes)
            for view, checked in zip(views, checks, strict=True)
            if not isinstance(checked, SourceError)
            for each in checked
        }

    async def _check(self, view: SourceView, guessed: Draft) -> list[Scores]:
        """Score a guess, as far as the source's context window holds it.

        Nothing is asked where the guess changes how the text before it is encoded.
        """
        longer = lengthened(view.encoded, guessed.text, view.source.tokenizer)
        num_known = len(view.encoded.ids)
        if common_length(view.encoded, longer) < num_known:
            return []
        limit = view.source.backend.context_length
        end = len(longer.ids) if limit is None else limit - len(view.prompt_ids)
        return await ask([view.request(view.prefix, longer.ids[num_known:end])])
