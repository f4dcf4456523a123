"""The byte-wise route: sources with different tokenizers mix their next-byte distributions.

A source's probability of the next byte is the sum over all covers of the text (see
``coolfusion.tokenization.covers``); an end is one more outcome. A source is asked only where its
known probabilities do not settle the decision. Covers that were not asked about have a known
total probability, which bounds what they could change. One pass then answers about all covers
of a source, and commits as many bytes as that settles.

Greedy and sampled choices both take the largest score, and scores grow with the probability. The
score is the logarithm itself, or its tempered value plus Gumbel noise. That noise is a function of
(seed, position in bytes), so no choice depends on how much was known when it was made. An outcome
is settled when its score at the lower bound exceeds every other's at the upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final

import numpy as np

from coolfusion.backends.base import Distributions
from coolfusion.backends.sampling import Sampling, draw, noise, pick
from coolfusion.backends.source import Source
from coolfusion.decoding.mixture.route import Continuation, spent
from coolfusion.decoding.mixture.rules import VETO, MixingRule, mixed, vetoes
from coolfusion.decoding.mixture.state import MixtureState, shares
from coolfusion.decoding.request import sampling_of
from coolfusion.decoding.scheduler import ask_distributions, gather
from coolfusion.decoding.source_view import SourceView
from coolfusion.errors import SourceError
from coolfusion.tokenization.covers import (
    Bounds,
    Cover,
    Covering,
    Ids,
)
from coolfusion.tokenization.utf8 import END
from coolfusion.types import Floats, Usage

Covers: TypeAlias = tuple[Cover, ...]

WORTH_ASKING = 0.25  # of the largest share of what is unknown; sources with less may wait


@dataclass(slots=True)
class _Walk:
    """One step under way: where every source stands, and what has been decided.

    ``data`` and ``covers`` are the latest, ``whole`` those at the end of the last whole character.
    """

    state: MixtureState
    covers: dict[int, Cover]
    data: bytes = b""
    whole: tuple[bytes, dict[int, Cover]] = (b"", {})
    is_full: bool = False
    usage: dict[int, Usage] = field(default_factory=dict)
    dropped: dict[int, SourceError] = field(default_factory=dict)
    favoured: set[int] = field(default_factory=set)
    excluding: set[int] = field(default_factory=set)

    @property
    def position(self) -> int:
        """How many bytes of the response come before the next."""
        return len(self.state.data) + len(self.data)


@final
class ByteRoute:
    """Walks byte by byte, through whole characters, by ``rule``."""

    def __init__(self, sources: Sequence[Source], rule: MixingRule) -> None:
        self._sources = sources
        self._rule = rule
        self._coverings = [
            Covering(source.tokenizer, source.backend.vocab_size) for source in sources
        ]

    def begin(self, prompts: tuple[tuple[int, ...], ...]) -> Covers:
        """Nothing said yet, by any source."""
        return tuple(covering.begin() for covering in self._coverings[: len(prompts)])

    async def walk(self, state: MixtureState) -> Continuation:
        """Ask what has to be asked, and commit all that is settled then."""
        covers = {k: state.position[k] for k in state.active}
        walk = _Walk(state, covers, whole=(b"", covers), favoured=set(covers))
        while walk.covers:
            bounds = self._bounds(walk)
            outcome = self._settled(walk, bounds)
            if outcome is None:
                if walk.data and walk.data == walk.whole[0]:
                    break
                await self._ask(walk, bounds)
                continue
            likeliest = {k: _likeliest(each) for k, each in bounds.items()}
            walk.favoured -= {k for k, own in likeliest.items() if own != outcome}
            walk.excluding.update(self._vetoes(walk, bounds, likeliest))
            if outcome == END:
                return self._continuation(walk, ends=True)
            self._append(walk, outcome)
            if walk.is_full:
                break
        return self._continuation(walk)

    def _bounds(self, walk: _Walk) -> dict[int, Bounds]:
        """What is known of every source's next byte, of those that have one.

        A source none of whose tokens goes on as the others did starts anew from the canonical
        encoding of the text. Inside a character, which has no encoding, it has no say.
        """
        found = {}
        for k, cover in walk.covers.items():
            bounds = self._coverings[k].bounds(cover)
            if not bounds.upper.any() and not cover.pending:
                walk.covers[k] = self._coverings[k].begin(cover.canonical)
                bounds = self._coverings[k].bounds(walk.covers[k])
            if bounds.upper.any():
                found[k] = bounds
        if not found:
            raise SourceError("No source has a token that goes on from the bytes so far.")
        return found

    def _settled(self, walk: _Walk, bounds: Mapping[int, Bounds]) -> int | None:
        """The next byte or the end, if what is known settles it."""
        deciders = self._deciders(walk, bounds)
        weights = shares(walk.state, deciders)
        with np.errstate(divide="ignore"):
            lower = np.log([bounds[k].lower for k in deciders])
            upper = np.log([bounds[k].upper for k in deciders])
        sampling = sampling_of(walk.state.request, "mixture")
        if not any(bounds[k].slack for k in deciders):
            return pick(mixed(self._rule, lower, weights), sampling, walk.position)
        lower, upper = self._rule.pool(lower, weights), self._rule.pool(upper, weights)
        return decide(lower, upper, sampling, walk.position)

    def _deciders(self, walk: _Walk, bounds: Mapping[int, Bounds]) -> list[int]:
        """Whose next bytes matter: those of all with a weight, or of one that is drawn by it."""
        sampling = sampling_of(walk.state.request, "source")
        weights = shares(walk.state, list(bounds))
        if sampling.is_greedy or not self._rule.is_linear:
            return [k for k, weight in zip(bounds, weights, strict=True) if weight]
        return [list(bounds)[draw(weights, sampling.seed, walk.position)]]

    def _vetoes(
        self, walk: _Walk, bounds: Mapping[int, Bounds], likeliest: Mapping[int, int | None]
    ) -> list[int]:
        """Which deciders exclude what another one finds likeliest, if that is known."""
        if self._rule.is_linear:
            return []
        deciders = self._deciders(walk, bounds)
        favourites = [own for own in (likeliest[k] for k in deciders) if own is not None]
        with np.errstate(divide="ignore"):
            upper = np.log([bounds[k].upper for k in deciders])
        found = vetoes(self._rule, upper, shares(walk.state, deciders), favourites)
        return [deciders[i] for i in found]

    async def _ask(self, walk: _Walk, bounds: Mapping[int, Bounds]) -> None:
        """Learn all that is unknown of the sources that matter most for the decision."""
        deciders = self._deciders(walk, bounds)
        weights = shares(walk.state, deciders)
        unknown = {k: w * bounds[k].slack for k, w in zip(deciders, weights, strict=True)}
        chosen = [k for k in deciders if unknown[k] >= WORTH_ASKING * max(unknown.values())]
        views = [walk.state.view(k, self._sources[k]) for k in chosen]
        answers = await gather([_all_unknown(view, walk.covers[view.index]) for view in views])
        for view, found in zip(views, answers, strict=True):
            self._learn(walk, view.index, found)

    def _learn(self, walk: _Walk, k: int, answers: list[Distributions] | SourceError) -> None:
        """Take in what a source says of all that is unknown of it; one that fails is dropped."""
        if isinstance(answers, SourceError):
            walk.dropped[k] = answers
            walk.favoured.discard(k)
            for covers in (walk.covers, walk.whole[1]):
                covers.pop(k, None)
            return
        rows: dict[Ids, Floats] = {}
        for ids, answer in zip(walk.covers[k].unknown, answers, strict=True):
            rows[ids] = answer.log_probs[0]
            walk.usage[k] = walk.usage.get(k, Usage()) + spent(answer)
        walk.covers[k] = self._coverings[k].learn(walk.covers[k], rows)

    def _append(self, walk: _Walk, byte: int) -> None:
        """Commit a byte, or find that there is no room for the character it completes.

        A character that leaps over the limit is kept, so that no source is left short of it.
        """
        walk.data += bytes([byte])
        walk.covers = {k: self._longer(k, cover, byte) for k, cover in walk.covers.items()}
        if any(cover.pending for cover in walk.covers.values()):
            return
        limit = walk.state.request.max_new_tokens
        if _fewest(walk.covers) > limit:
            walk.is_full = True
            if _fewest(walk.whole[1]) >= limit:
                walk.data, walk.covers = walk.whole
                return
        walk.whole = (walk.data, dict(walk.covers))

    def _longer(self, k: int, cover: Cover, byte: int) -> Cover:
        """A source's cover of one byte more, without what no longer matters for the next."""
        covering = self._coverings[k]
        return covering.conditional(covering.advance(cover, byte))

    def _continuation(self, walk: _Walk, *, ends: bool = False) -> Continuation:
        names = [source.name for source in self._sources]
        position = [walk.covers.get(k, cover) for k, cover in enumerate(walk.state.position)]
        return Continuation(
            walk.data,
            ends,
            tuple(position),
            num_tokens={names[k]: len(cover.canonical.ids) for k, cover in walk.covers.items()},
            usage={names[k]: spent for k, spent in walk.usage.items()},
            favoured=tuple(names[k] for k in sorted(walk.favoured)),
            dropped={names[k]: error for k, error in walk.dropped.items()},
            zeros={names[k]: VETO for k in sorted(walk.excluding)},
            is_full=walk.is_full,
        )


def _fewest(covers: Mapping[int, Cover]) -> int:
    """Tokens of the text in the encoding of the source that needs fewest."""
    return min(len(cover.canonical.ids) for cover in covers.values())


async def _all_unknown(view: SourceView, cover: Cover) -> list[Distributions]:
    """Distributions after all ids of a cover that the source was not asked about yet."""
    return await ask_distributions(
        [view.distribution_request(view.prompt_ids + ids) for ids in cover.unknown]
    )


def _likeliest(bounds: Bounds) -> int | None:
    """The likeliest outcome, if what is known tells."""
    if bounds.slack:
        return decide(bounds.lower, bounds.upper, Sampling(), 0)
    return int(bounds.lower.argmax())


def decide(lower: Floats, upper: Floats, sampling: Sampling, position: int) -> int | None:
    """The outcome that ``pick`` would choose from any distribution between the bounds.

    ``lower`` and ``upper`` (outcomes,) are logarithms (nats) up to one constant. None: it depends
    on what is not known, or there is a tie.
    """
    if not sampling.is_greedy and (sampling.top_k or sampling.top_p < 1.0):
        return None  # which outcomes a filter keeps depends on all of them
    if not sampling.is_greedy:
        gumbel = noise(sampling, position, len(lower))
        lower = lower / sampling.temperature + gumbel
        upper = upper / sampling.temperature + gumbel
    best = int(lower.argmax())
    rivals = upper.copy()
    rivals[best] = -np.inf
    return best if lower[best] > rivals.max() else None
