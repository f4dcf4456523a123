"""Votes: several samples, and the answer that most of them give.

Self-consistency (arXiv 2203.11171) samples one model several times; with several sources, all
of them vote. What is counted is what is read out of an answer, not its wording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coolfusion.backends.source import Source, check_names
from coolfusion.checks.arguments import checked
from coolfusion.decoding.answers.rerank import own_answers, sample_requests
from coolfusion.decoding.request import Request
from coolfusion.errors import UsageError
from coolfusion.tokenization.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Vote:
    """Several answers to one prompt, and which of them the most agree with.

    ``extracted`` has what was read out of each of ``texts``; None never wins against a
    reading. ``winner`` indexes both.
    """

    texts: tuple[str, ...]
    extracted: tuple[str | None, ...]
    winner: int

    @property
    def text(self) -> str:
        """The first of the answers that give the winning reading."""
        return self.texts[self.winner]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many answers gave each reading, the most frequent first."""
        return dict(Counter(entry for entry in self.extracted if entry is not None).most_common())


@checked
def self_consistency(
    sources: Sequence[Source],
    prompts: Sequence[Prompt],
    request: Request,
    extract: Callable[[str], str | None],
    num_samples: int,
) -> list[Vote]:
    """Vote on ``num_samples`` answers of each source; with one source, plain self-consistency."""
    check_names([source.name for source in sources])
    samples = [
        own_answers(source, prompts, sample)
        for source in sources
        for sample in sample_requests(request, num_samples)
    ]
    return [
        majority_vote([each[row].text for each in samples], extract) for row in range(len(prompts))
    ]


@checked
def majority_vote(texts: Sequence[str], extract: Callable[[str], str | None]) -> Vote:
    """The reading that most of ``texts`` give; a tie goes to the one that was given first.

    Raises ``UsageError`` where there is nothing to vote on.
    """
    if not texts:
        raise UsageError("texts is empty: there are no answers to vote on. Give at least one.")
    extracted = tuple(extract(text) for text in texts)
    counts = Counter(entry for entry in extracted if entry is not None)
    votes = [0 if entry is None else counts[entry] for entry in extracted]
    winner = votes.index(max(votes))
    return Vote(tuple(texts), extracted, winner)
