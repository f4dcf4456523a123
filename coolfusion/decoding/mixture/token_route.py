"""The token-wise route: sources that share a vocabulary mix their next-token distributions.

The ids of the response are the tokens as they were drawn, so that a source alone says what its
own greedy ``generate`` says. Only tokens that write text, and the end, can come next (see
``coolfusion.decoding.mixture.vocabulary``); every source is renormalised over them.

Where a sample is filtered depends on the rule. Under a linear rule, temperature, top-k and top-p
apply to each source's own distribution before it is mixed: with ``F`` the filter,

    p(o) = sum_k w_k F(p_k)(o)

so that drawing source ``k`` by ``w_k`` and then ``o`` from ``F(p_k)`` is exact. Were the mixture
itself filtered, the drawn source could not know what is kept. Under any other rule no source can
be drawn alone, and the combined distribution is filtered. Filtering before mixing is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np

from coolfusion.backends.base import Distributions
from coolfusion.backends.sampling import (
    Sampling,
    draw,
    filtered,
    pick,
)
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.route import Continuation, next_distributions, spent
from coolfusion.decoding.mixture.rules import VETO, MixingRule, mixed, vetoes
from coolfusion.decoding.mixture.state import MixtureState, shares, voters
from coolfusion.decoding.mixture.vocabulary import Vocabulary
from coolfusion.decoding.request import sampling_of
from coolfusion.errors import SourceError
from coolfusion.tokenization.utf8 import whole_characters
from coolfusion.types import Floats, Usage

Ids = tuple[int, ...]


@final
class TokenRoute:
    """Asks every source about every token, and mixes by ``rule``. The sources share a vocabulary."""

    def __init__(self, sources: Sequence[Source], rule: MixingRule) -> None:
        self.sources = tuple(sources)
        self._rule = rule
        size = min(source.backend.vocab_size for source in sources)
        self.vocabulary = Vocabulary(sources[0].tokenizer, size)

    def begin(self, prompts: tuple[Ids, ...]) -> Ids:
        """No token yet."""
        return prompts[0][:0]

    async def walk(self, state: MixtureState) -> Continuation:
        """Decide one token, or the end."""
        answers = await self.ask(state, voters(state))
        if not answers.rows:
            return self.nothing(state, answers)
        chosen = tuple(answers.rows)
        rows, weights = np.array(list(answers.rows.values())), shares(state, chosen)
        combined, token = self._decided(state, rows, weights)
        favourites = [int(row.argmax()) for row in rows]
        names = [self.sources[k].name for k in chosen]
        continuation = self.continuation(
            state,
            answers,
            token,
            log_mixture=float(combined[token]),
            favoured=[k for k, own in zip(chosen, favourites, strict=True) if own == token],
        )
        excluding = vetoes(self._rule, rows, weights, favourites)
        return replace(continuation, zeros={names[i]: VETO for i in excluding})

    def _decided(self, state: MixtureState, rows: Floats, weights: Floats) -> tuple[Floats, int]:
        """The mixture (outcomes,) of the sources' ``rows`` (sources, outcomes), and the pick."""
        sampling = sampling_of(state.request, "mixture")
        if not sampling.is_greedy and self._rule.is_linear:
            rows = np.array([filtered(row, sampling) for row in rows])
            sampling = Sampling(1.0, seed=sampling.seed)
        combined = mixed(self._rule, rows, weights)
        return combined, pick(combined, sampling, len(state.position))

    async def ask(self, state: MixtureState, chosen: Sequence[int]) -> SourceAnswers:
        """What the ``chosen`` sources say of the next outcome."""
        views = [state.view(k, self.sources[k]) for k in chosen]
        answers = await next_distributions(views, [state.position] * len(views))
        return SourceAnswers(self.vocabulary, state, answers)

    def continuation(
        self,
        state: MixtureState,
        answers: SourceAnswers,
        token: int,
        *,
        favoured: Sequence[int],
        log_mixture: float = np.nan,
    ) -> Continuation:
        """One more token, or the end, which these answers decided."""
        ends = token == self.vocabulary.end
        ids: Ids = state.position if ends else (*state.position, token)
        data = b"" if ends else self.vocabulary.piece(token) or b""
        written = state.beginning + data
        is_open = whole_characters(written).encode() != written
        names = [source.name for source in self.sources]
        return replace(
            self.nothing(state, answers),
            data=data,
            ends=ends,
            position=ids,
            log_mixture=log_mixture,
            log_probs={names[k]: float(row[token]) for k, row in answers.rows.items()},
            num_tokens={names[k]: len(ids) for k in state.active if k not in answers.dropped},
            favoured=tuple(names[k] for k in favoured),
            is_full=len(ids) >= state.request.max_new_tokens and not is_open,
        )

    def nothing(self, state: MixtureState, answers: SourceAnswers) -> Continuation:
        """No decision, only what it cost and who was lost."""
        names = [source.name for source in self.sources]
        return Continuation(
            b"",
            False,
            state.position,
            usage={names[k]: usage for k, usage in answers.usage.items()},
            dropped={names[k]: error for k, error in answers.dropped.items()},
        )


@final
class SourceAnswers:
    """Answers to one question: ``rows`` of outcomes, what was ``dropped``, the ``usage``, by source."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        state: MixtureState,
        answers: dict[int, Distributions | SourceError],
    ) -> None:
        self.rows: dict[int, Floats] = {}
        self.dropped: dict[int, SourceError] = {}
        self.usage: dict[int, Usage] = {}
        for k, answer in answers.items():
            if isinstance(answer, SourceError):
                self.dropped[k] = answer
                continue
            self.usage[k] = spent(answer)
            try:
                self.rows[k] = vocabulary.outcomes(answer.log_probs[0], state.beginning)
            except SourceError as error:
                self.dropped[k] = error


@final
class DrawnTokenRoute:
    """Samples from a linear mixture by asking one source about each token, drawn by its weight.

    A source that was not drawn for a while catches up in one pass, as a query names its whole
    prefix. The distribution is that of ``TokenRoute``; the outcome for one seed is not. Greedy
    responses are left to ``route``.
    """

    def __init__(self, route: TokenRoute) -> None:
        self._route = route

    def begin(self, prompts: tuple[Ids, ...]) -> Ids:
        """No token yet."""
        return self._route.begin(prompts)

    async def walk(self, state: MixtureState) -> Continuation:
        """Draw a source, then one token or the end from it."""
        if state.request.sampling.is_greedy:
            return await self._route.walk(state)
        candidates = voters(state)
        seed = sampling_of(state.request, "source").seed
        k = candidates[draw(shares(state, candidates), seed, len(state.position))]
        answers = await self._route.ask(state, (k,))
        if not answers.rows:
            return self._route.nothing(state, answers)
        sampling = sampling_of(state.request, self._route.sources[k].name)
        position = len(state.prompts[k]) + len(state.position)
        return self._route.continuation(
            state, answers, pick(answers.rows[k], sampling, position), favoured=[k]
        )
