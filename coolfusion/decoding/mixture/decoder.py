"""The decoder of mixtures: what comes next is decided by the sources' distributions together.

It has the face of ``coolfusion.decoding.segments.decoder.SegmentDecoder``, and its states are as immutable: a response can
be branched, resumed or decoded beside others without changing what it says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, final

import numpy as np

from coolfusion.backends.source import (
    Source,
    check_byte_faithful,
    check_names,
    encoded_prompts,
)
from coolfusion.decoding.answer_cache import AnswerCache
from coolfusion.decoding.decoder import Decoder, on_several_devices
from coolfusion.decoding.mixture.commit import MixtureStep, commit
from coolfusion.decoding.mixture.options import Mixture, check_weights, route_for
from coolfusion.decoding.mixture.route import weigh
from coolfusion.decoding.mixture.state import MixtureState
from coolfusion.decoding.request import Request
from coolfusion.decoding.scheduler import Scheduler, Talk, hold
from coolfusion.decoding.source_weights import normalized, uniform
from coolfusion.errors import SourceError, UsageError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step, StopReason

Result = TypeVar("Result")


@final
class MixtureDecoder(Decoder[MixtureState]):
    """Mixes the distributions of ``sources`` as ``mixture`` says.

    A step adds at least one whole character, or ends the response. Raises ``UsageError`` for
    sources that cannot be mixed, or not along the route asked for, and for weights that are not
    theirs.
    """

    def __init__(self, sources: Sequence[Source], mixture: Mixture | None = None) -> None:
        names = tuple(source.name for source in sources)
        check_names(names)
        self.sources = tuple(sources)
        self.mixture = mixture or Mixture()
        check_byte_faithful(self.sources, "mixed")
        check_weights(names, self.mixture.weights)
        self.route = route_for(self.sources, self.mixture)
        self._names = names
        self._sequence_ids = itertools.count()
        self._caches = [AnswerCache(source.backend) for source in sources]
        self._concurrent = on_several_devices(self.sources)

    def start(self, prompt: Prompt, request: Request | None = None) -> MixtureState:
        """A state with nothing said yet.

        Raises ``PromptError`` for a prompt that some source cannot take, and ``UsageError`` for
        a cap on segments, of which a mixture has none.
        """
        request = request or Request()
        if request.max_segment_tokens is not None:
            raise UsageError(
                f"max_segment_tokens is {request.max_segment_tokens}, but a mixture decides every "
                "token or byte and has no segments to cut. Leave it out."
            )
        prompts = encoded_prompts(self.sources, prompt)
        everyone = tuple(range(len(self.sources)))
        position = self.route.begin(prompts)
        state = MixtureState(request, prompt, prompts, everyone, position, next(self._sequence_ids))
        return state if self.mixture.prior else replace(state, log_weights=self._fixed())

    def scheduler(self) -> Scheduler[int, tuple[MixtureState, Step]]:
        """Scheduler in which sources give whole distributions."""
        return Scheduler(self._caches, concurrent=self._concurrent)

    def hold(self, talk: Talk[Result]) -> Result:
        """Hold a conversation with the sources to its end."""
        return hold(talk, self._caches)

    def stepping(self, state: MixtureState, num_texts: int = 1) -> Talk[tuple[MixtureState, Step]]:
        """One step as a conversation with the sources; ``num_texts`` share their passes."""
        del num_texts  # matters to guesses, and a mixture makes none
        turn = MixtureStep(self._names, state, state)
        if not state.log_weights:
            yield from self._weigh(turn)
        while not turn.is_over:
            try:
                continuation = yield from self.route.walk(turn.state)
            except SourceError as error:
                if state.request.on_source_error == "raise":
                    raise self._failure(turn, error) from None
                turn.stop, turn.stuck = StopReason.NO_DRAFT, str(error)
            else:
                self._check(turn, continuation.dropped)
                turn.add(continuation)
        return commit(turn)

    def branch(self, state: MixtureState) -> MixtureState:
        """The same response, with a place of its own in whatever is remembered of responses."""
        return (
            state
            if state.sequence_id is None
            else replace(state, sequence_id=next(self._sequence_ids))
        )

    def _fixed(self) -> tuple[float, ...]:
        """Logarithms of the mixture's own weights."""
        if not self.mixture.weights:
            return normalized(np.log(uniform(len(self.sources))))
        given = [self.mixture.weights[name] for name in self._names]
        return normalized(np.array([math.log(w) if w else -math.inf for w in given]))

    def _weigh(self, turn: MixtureStep) -> Talk[None]:
        """Weigh the sources by how well they predict the prompt."""
        prior = self.mixture.prior
        if prior is None or len(self.sources) == 1:
            turn.state = replace(turn.state, log_weights=self._fixed())
            return
        log_weights, readings = yield from weigh(turn.state, self.sources, prior)
        combined = normalized(np.array(log_weights) + np.array(self._fixed()))
        turn.state = replace(turn.state, log_weights=combined)
        failed = {}
        for k, reading in readings.items():
            if isinstance(reading, SourceError):
                failed[self._names[k]] = reading
            else:
                turn.spend(self._names[k], reading.usage)
        self._check(turn, failed)
        turn.drop(failed)

    def _check(self, turn: MixtureStep, failed: Mapping[str, SourceError]) -> None:
        """Raise the first failure, where failures are to be raised."""
        if failed and turn.before.request.on_source_error == "raise":
            name, error = next(iter(failed.items()))
            raise self._failure(turn, type(error)(f'Source "{name}": {error}')) from error

    def _failure(self, turn: MixtureStep, error: SourceError) -> SourceError:
        """The error with the text that was committed before it."""
        text = turn.before.text
        error.generation = Generation(text, StopReason.INTERRUPTED, None, self._names, ())
        return error
