"""Positions in a text from which its encoding can go on without what stands before them.

A position is offered only if that is shown, whatever text may follow:

- Normalisation does not reach over it.
- Each stage that cuts the text goes on from it as it does from the beginning.
- The model has a token boundary there, or soon after, that stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import tokenizers

from coolfusion.tokenization.base import Settled
from coolfusion.tokenization.settling.parts import Part, model_of
from coolfusion.tokenization.settling.patterns import NotFollowed
from coolfusion.tokenization.settling.views import View, Viewing


@final
class Settling:
    """What is settled in texts of one tokenizer.

    ``unfollowed`` names what keeps it from being known (None: nothing does). ``in_context``: texts
    are encoded as in the middle of a text.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, in_context: bool) -> None:
        self.unfollowed: str | None = None
        try:
            self._viewing = Viewing(tokenizer)
            self._model = model_of(tokenizer, in_context=in_context)
        except NotFollowed as error:
            self.unfollowed = str(error)

    def positions(self, lead: str, text: str) -> Iterator[Settled]:
        """Places in ``text``, which stands after ``lead``, from the latest to earlier ones."""
        if self.unfollowed is not None:
            return
        whole = lead + text
        view = self._viewing.view(whole)
        part = self._model.part(view)
        begin = view.trace.start
        inside = [begin + n for n, edge in enumerate(part.edges) if n and edge in part.settled]
        yield from self._at(inside, lead, whole, view)
        if part.settled:
            yield from self._further_on(lead, whole, view, part)
        yield from self._at(view.trace.cuts, lead, whole, view)

    def _at(self, places: Sequence[int], lead: str, whole: str, view: View) -> Iterator[Settled]:
        """Those places, ascending in what is shown, from which all goes on alike."""
        starts = {place: self._start(view, place, lead, whole) for place in places}
        for place in _from_the_end([each for each in places if starts[each]]):
            start = starts[place] or 0
            rest = self._viewing.view(whole[start:])
            if not view.goes_on_like(rest, len(view.shown) - place):
                continue
            if place in view.trace.cuts or self._model.is_own_beginning(rest):
                yield Settled(start - len(lead))

    def _further_on(self, lead: str, whole: str, view: View, part: Part) -> Iterator[Settled]:
        """Places inside a part whose encoding agrees only after some tokens, or after a lead.

        Example: in Llama 3 line breaks after a full stop belong to its part. Alone they would take
        white space with them, so the full stop is put before them.
        """
        begin, settled = view.trace.start, set(part.settled)
        starts = {
            number: self._start(view, begin + number, lead, whole)
            for number, edge in enumerate(part.edges)
            if number and edge < part.settled[-1]
        }
        front = next(n for n, edge in enumerate(part.edges) if edge >= part.settled[0])
        fronts = ["", whole[view.raw_position(begin) : view.raw_position(begin + front)]]
        for number in _from_the_end([number for number, start in starts.items() if start]):
            start = starts[number] or 0
            for new in fronts:
                rest = self._viewing.view(new + whole[start:])
                if rest.trace.start or not view.goes_on_like(
                    rest, len(view.shown) - begin - number
                ):
                    continue
                other = self._model.part(rest, early=True)
                shift = part.size - other.size
                # Before a boundary that both share nothing changes any more. Tokens in a run that
                # is unknown as a whole may be miscounted; then the ids seen do not agree.
                for boundary in other.settled:
                    if boundary + shift >= part.edges[number] and boundary + shift in settled:
                        yield Settled(start - len(lead), new, other.num_tokens(boundary))
                        break

    def _start(self, view: View, place: int, lead: str, whole: str) -> int | None:
        """The position in the text of a place, if it is inside of the text after ``lead``."""
        start = view.raw_position(place)
        return start if start is not None and len(lead) < start < len(whole) else None


def _from_the_end(places: Sequence[int]) -> Iterator[int]:
    """The last of the places, then ones twice as far from the end each time, and the first."""
    distance = 1
    while distance < len(places):
        yield places[-distance]
        distance *= 2
    yield from places[:1]
