"""The canonical encoding of a response, extended by encoding only text that is not settled.

A source's ids for a response are ``tokenizer.encode(response)``. They do not depend on which
source drafted which segment, on caches or on speculation. To encode the whole response after
every segment would be quadratic. So ids before a settled position are kept: one that the
tokenizer knows to be a boundary, whatever follows (``coolfusion.tokenization.settling``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from coolfusion.tokenization.base import Tokenizer

# Characters that are sooner encoded again than settled. Only speed depends on this.
SHORT = 64


@dataclass(frozen=True, slots=True)
class Canonical:
    """``ids`` of a text; more text cannot change the first ``num_settled``.

    The others are those of ``lead`` and ``tail``, without the first ``num_skipped``. The text ends
    with ``tail``.
    """

    ids: tuple[int, ...] = ()
    num_settled: int = 0
    tail: str = ""
    lead: str = ""
    num_skipped: int = 0

    def followed_by(self, text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The ids after the settled ones, if ``text`` follows."""
        # Subtle: the lead is text from before the tail, but not what stands next to it. It makes a
        # pre-tokenizer go on as it did there. Its ids are among those skipped.
        return tokenizer.encode(self.lead + self.tail + text)[self.num_skipped :]


def extend(canonical: Canonical, text: str, tokenizer: Tokenizer) -> Canonical:
    """Append ``text``; the result's ids equal those of encoding the whole text at once.

    Only the tail is encoded again. It stays short if the tokenizer knows what is settled
    (``coolfusion.tokenization.base.SettlingTokenizer``). Otherwise it is the whole text.
    """
    longer = lengthened(canonical, text, tokenizer)
    settled = getattr(tokenizer, "settled", None)
    if not text or settled is None or len(longer.tail) <= SHORT:
        return longer
    fresh = longer.ids[longer.num_settled :]
    # The first position that holds is the best one, so the others are not even looked for.
    for each in settled(longer.lead, longer.tail):
        tail = longer.tail[each.position :]
        shorter = Canonical((), 0, tail, each.lead, each.num_skipped)
        rest = shorter.followed_by("", tokenizer)
        # What is settled was shown from the tokenizer's parts. Here it is seen in the ids.
        if fresh[max(0, len(fresh) - len(rest)) :] == rest:
            return replace(shorter, ids=longer.ids, num_settled=len(longer.ids) - len(rest))
    return longer


def lengthened(canonical: Canonical, text: str, tokenizer: Tokenizer) -> Canonical:
    """The same as ``extend``, but nothing more is settled: for a text that does not go on."""
    if not text:
        return canonical
    ids = canonical.ids[: canonical.num_settled] + canonical.followed_by(text, tokenizer)
    return replace(canonical, ids=ids, tail=canonical.tail + text)


def splits(left: str, right: str, tokenizer: Tokenizer) -> bool:
    """Whether encoding the two sides apart gives the same ids as encoding them together."""
    return tokenizer.encode(left) + tokenizer.encode(right) == tokenizer.encode(left + right)


def common_length(left: Canonical, right: Canonical) -> int:
    """Length of the longest common prefix of the ids of a text and of its extension."""
    # Settled ids are equal, since the right text continues the left one. To compare only the
    # others makes this independent of the length of the text.
    start = min(left.num_settled, right.num_settled)
    end = min(len(left.ids), len(right.ids))
    for position in range(start, end):
        if left.ids[position] != right.ids[position]:
            return position
    return end
