"""The laws of ``coolfusion.backends.base.Backend``, tried on any implementation in seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coolfusion.backends.base import (
    Backend,
    DistributionBackend,
    Query,
    Scores,
)
from coolfusion.backends.sampling import Sampling
from coolfusion.errors import CoolfusionError, SourceError
from coolfusion.testing.conformance import ConformanceError, require, require_close

_DRAFTED = {
    "log-probabilities": "log_probs",
    "watched totals": "watched",
    "own log-probabilities": "pick_log_probs",
}
LONGEST_TRIED = 4096  # context windows longer than this are not filled to their limit


@dataclass(frozen=True, slots=True)
class _Trial:
    """A factory of fresh backends, texts of ids, and the tolerance (nats) of comparisons."""

    factory: Callable[[], Backend]
    tolerance: float
    texts: tuple[tuple[int, ...], ...]
    vocab_size: int

    def queries(self) -> list[Query]:
        """Different prefixes, shared prefixes, empty continuations and watched ids."""
        first, second, third = self.texts
        watch = (first[0], second[-1])
        return [
            Query(first[:6], first[6:], watch),
            Query(first[:6], second[6:9], watch),
            Query(second[:5], second[5:8]),
            Query(third[:3]),
            Query(first[:4], third[4:6], watch),
            Query(first[:6], first[6:], watch),
        ]


def check_backend(
    factory: Callable[[], Backend], *, tolerance: float = 1e-4, seed: int = 0
) -> None:
    """Raise ``ConformanceError`` if backends made by ``factory`` break a law of the seam.

    Every call of ``factory`` must give an equal backend without history. ``tolerance`` is in nats.
    Context windows must hold at least 12 tokens.
    """
    backend = factory()
    noise = random.Random(seed)
    texts = tuple(tuple(noise.randrange(backend.vocab_size) for _ in range(10)) for _ in range(3))
    trial = _Trial(factory, tolerance, texts, backend.vocab_size)
    for law in _LAWS:
        law(trial)


def _answers_are_proper(trial: _Trial) -> None:
    queries = trial.queries()
    answers = trial.factory().score(queries)
    require(len(answers) == len(queries), "one answer per query", len(queries), len(answers), "")
    for query, scores in zip(queries, answers, strict=True):
        length = len(query.continuation)
        shape = tuple(
            map(len, (scores.log_probs, scores.picks, scores.pick_log_probs, scores.watched))
        )
        wanted = (length, length + 1, length + 1, length + 1)
        require(shape == wanted, "shape of an answer", wanted, shape, query)
        numbers = scores.log_probs + scores.pick_log_probs + scores.watched
        proper = all(number <= 0 for number in numbers)
        require(proper, "values at most 0", "log-probabilities", numbers, query)
        possible = all(math.isfinite(number) for number in scores.pick_log_probs)
        require(possible, "picks are possible", "finite", scores.pick_log_probs, query)
        is_total = bool(query.watch) or all(number == -math.inf for number in scores.watched)
        require(is_total, "nothing watched has no probability", -math.inf, scores.watched, query)
        inside = all(0 <= token < trial.vocab_size for token in scores.picks)
        require(inside, "picks inside the vocabulary", trial.vocab_size, scores.picks, query)


def _chain_rule(trial: _Trial) -> None:
    backend = trial.factory()
    for query in trial.queries():
        whole = trial.factory().score([query])[0]
        for cut in range(1, len(query.continuation)):
            left, right = query.continuation[:cut], query.continuation[cut:]
            first = backend.score([replace(query, continuation=left)])[0]
            second = backend.score(
                [replace(query, prefix=query.prefix + left, continuation=right)]
            )[0]
            joined = Scores(
                first.log_probs + second.log_probs,
                first.picks[:-1] + second.picks,
                first.pick_log_probs[:-1] + second.pick_log_probs,
                first.watched[:-1] + second.watched,
            )
            _require_same("chain rule", whole, joined, trial, query)


def _earlier_calls(trial: _Trial) -> None:
    used = trial.factory()
    for query in [*trial.queries(), *trial.queries()[::-1]]:
        used.score([replace(query, prefix=query.prefix[:2])])
        _same_as_fresh("independence of earlier calls", used, query, trial)


def _batch_order(trial: _Trial) -> None:
    queries = trial.queries()
    forwards = trial.factory().score(queries)
    backwards = trial.factory().score(queries[::-1])[::-1]
    for query, one, other in zip(queries, forwards, backwards, strict=True):
        _require_same("independence of batch order", one, other, trial, query)


def _batch_mates(trial: _Trial) -> None:
    queries = trial.queries()
    for query, together in zip(queries, trial.factory().score(queries), strict=True):
        alone = trial.factory().score([query])[0]
        _require_same("independence of batch mates", alone, together, trial, query)


def _draft_is_scored_alike(trial: _Trial) -> None:
    for sampling in (Sampling(), Sampling(1.0, 0, 1.0, 7)):
        queries = [replace(query, sampling=sampling) for query in trial.queries()[:3]]
        drafts = trial.factory().draft(queries, 2)
        for query, drafted in zip(queries, drafts, strict=True):
            num = len(drafted.log_probs)  # what comes beyond those asked for obeys the same laws
            require(num >= 2, "length of a draft", "2 or more", num, query)
            picks = drafted.picks[:num]
            after = replace(query, prefix=query.prefix + query.continuation, continuation=picks)
            scored = trial.factory().score([after])[0]
            for name, wanted in (
                ("log-probabilities", scored.log_probs),
                ("watched totals", scored.watched[:num]),
                ("own log-probabilities", scored.pick_log_probs[:num]),
            ):
                got = getattr(drafted, _DRAFTED[name])[:num]
                law = f"{name} of a draft are those of score"
                require_close(law, wanted, got, trial.tolerance, query)
            law = "picks of a draft are those of score"
            require(scored.picks[:num] == picks, law, scored.picks[:num], picks, query)


def _drafts_have_one_length(trial: _Trial) -> None:
    for query in trial.queries():
        (drafted,) = trial.factory().draft([query], 2)
        lengths = [len(getattr(drafted, name)) for name in ("picks", *_DRAFTED.values())]
        require(len({*lengths}) == 1, "the tuples of a draft have one length", 2, lengths, query)


def _abandoned_drafts(trial: _Trial) -> None:
    used = trial.factory()
    for query in trial.queries():
        used.draft([query], 2)
        used.draft([replace(query, sampling=Sampling(1.0, 0, 1.0, 1))], 1)
        _same_as_fresh("abandoning a draft is harmless", used, query, trial)


def _watched_totals(trial: _Trial) -> None:
    for query in trial.queries():
        if not query.watch:
            continue
        scores = trial.factory().score([query])[0]
        for position, total in enumerate(scores.watched):
            prefix = query.prefix + query.continuation[:position]
            each = trial.factory().score([Query(prefix, (token,)) for token in set(query.watch)])
            summed = float(np.logaddexp.reduce([answer.log_probs[0] for answer in each]))
            law = "a watched total is the sum of its ids' probabilities"
            require_close(law, [summed], [total], trial.tolerance, query)


def _picks_are_best(trial: _Trial) -> None:
    """A greedy pick has the log-probability it claims, and no other id has a higher one."""
    prefix = trial.texts[0][:5]
    scores = trial.factory().score([Query(prefix)])[0]
    rivals = {*scores.picks, *trial.texts[1], *trial.texts[2], 0, trial.vocab_size - 1}
    queries = [Query(prefix, (token,)) for token in sorted(rivals)]
    answers = trial.factory().score(queries)
    values = {
        query.continuation[0]: answer.log_probs[0]
        for query, answer in zip(queries, answers, strict=True)
    }
    claimed, law = scores.pick_log_probs, "a pick's log-probability is its score"
    require_close(law, [values[scores.picks[0]]], claimed, trial.tolerance, prefix)
    best = max(values.values())
    holds = best <= claimed[0] + trial.tolerance
    require(holds, "a greedy pick is the likeliest id", best, claimed[0], prefix)


def _distributions(trial: _Trial) -> None:
    """Whole distributions, if the backend has them, sum to 1 and agree with ``score``."""
    backend = trial.factory()
    if not isinstance(backend, DistributionBackend):
        return
    queries = trial.queries()
    for query, found in zip(queries, backend.distributions(queries), strict=True):
        shape = (len(query.continuation) + 1, trial.vocab_size)
        law = "shape of the distributions"
        require(found.log_probs.shape == shape, law, shape, found.log_probs.shape, query)
        totals = np.logaddexp.reduce(found.log_probs, axis=1)
        law = "distributions sum to 1"
        require_close(law, [0.0] * len(totals), totals.tolist(), trial.tolerance, query)
        scores = trial.factory().score([query])[0]
        got = [found.log_probs[i, token] for i, token in enumerate(query.continuation)]
        law = "what score says of a token is its entry in the distribution"
        require_close(law, scores.log_probs, got, trial.tolerance, query)
        law = "the pick of score is the likeliest id of the distribution"
        best = tuple(int(i) for i in found.log_probs.argmax(axis=1))
        if query.sampling.is_greedy:
            require(best == scores.picks, law, scores.picks, best, query)


def _sampled_picks(trial: _Trial) -> None:
    """A sampled pick depends on the ids before it and the sampling alone, in every call."""
    law = "sampled picks depend on prefix and sampling alone"
    for sampling in (Sampling(1.0, 0, 1.0, 3), Sampling(0.7, 5, 0.9, 11)):
        used = trial.factory()
        text = trial.texts[1]
        whole = trial.factory().score([Query(text[:3], text[3:], sampling=sampling)])[0].picks
        for position in range(3, len(text) + 1):
            query = Query(text[:position], sampling=sampling)
            mate = Query(trial.texts[2][:4], text[:2], sampling=replace(sampling, seed=99))
            for found in (used.score([mate, query])[1], used.draft([query], 1)[0]):
                want = whole[position - 3]
                require(found.picks[0] == want, law, want, found.picks[0], query)


def _foreign_ids(trial: _Trial) -> None:
    for token in (trial.vocab_size, -1):
        for query in (Query((0, token), (0,)), Query((0,), (token,))):
            law = "ids outside the vocabulary are a SourceError"
            _must_raise(law, SourceError, trial.factory(), query)


def _context_limit(trial: _Trial) -> None:
    limit = trial.factory().context_length
    if limit is None or limit > LONGEST_TRIED:
        return
    full = tuple(trial.texts[0][i % 10] for i in range(limit + 1))
    law = "the context limit is what context_length says"
    try:
        trial.factory().score([Query(full[: limit - 2], full[limit - 2 : limit])])
    except CoolfusionError as error:
        raise ConformanceError(law, f"Expected {limit} tokens to fit, got {error!r}.") from error
    _must_raise(law, SourceError, trial.factory(), Query(full[: limit - 1], full[limit - 1 :]))


_LAWS: Sequence[Callable[[_Trial], None]] = (
    _answers_are_proper,
    _chain_rule,
    _earlier_calls,
    _batch_order,
    _batch_mates,
    _draft_is_scored_alike,
    _abandoned_drafts,
    _watched_totals,
    _picks_are_best,
    _drafts_have_one_length,
    _distributions,
    _sampled_picks,
    _foreign_ids,
    _context_limit,
)


def _same_as_fresh(law: str, used: Backend, query: Query, trial: _Trial) -> None:
    expected = trial.factory().score([query])[0]
    _require_same(law, expected, used.score([query])[0], trial, query)


def _require_same(law: str, expected: Scores, actual: Scores, trial: _Trial, query: Query) -> None:
    for want, got in (
        (expected.log_probs, actual.log_probs),
        (expected.pick_log_probs, actual.pick_log_probs),
        (expected.watched, actual.watched),
    ):
        require_close(law, want, got, trial.tolerance, query)


def _must_raise(law: str, kind: type[Exception], backend: Backend, query: Query) -> None:
    try:
        answer = backend.score([query])
    except kind:
        return
    except Exception as error:
        raise ConformanceError(law, f"Expected a {kind.__name__}, got {error!r}.") from error
    raise ConformanceError(law, f"Expected a {kind.__name__}, got {answer!r} for {query!r}.")
