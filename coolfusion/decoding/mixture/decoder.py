"""The decoder of mixtures: the sources' distributions together decide what comes next.

States are immutable and a step is a pure function of a state, as in the fusion loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from coolfusion.backends.source import Source, check_byte_faithful, encoded_prompts
from coolfusion.checks.arguments import checked
from coolfusion.decoding.commit import interrupted
from coolfusion.decoding.decoder import Decoder
from coolfusion.decoding.mixture.commit import MixtureStep, commit
from coolfusion.decoding.mixture.options import Mixture, check_weights, route_for
from coolfusion.decoding.mixture.state import MixtureState
from coolfusion.decoding.request import Request
from coolfusion.decoding.source_weights import log_normalized, weigh_by_prompt
from coolfusion.errors import SourceError, UsageError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Step, StopReason


@final
class MixtureDecoder(Decoder[MixtureState]):
    """Mixes the distributions of ``sources`` as ``mixture`` says.

    A step adds at least one whole character, or ends the response. Raises ``UsageError`` for
    sources that cannot be mixed, or not along the route asked for, and for weights that are not
    theirs.
    """

    @checked
    def __init__(self, sources: Sequence[Source], mixture: Mixture | None = None) -> None:
        super().__init__(sources)
        self.mixture = mixture or Mixture()
        self._names = tuple(source.name for source in self.sources)
        check_byte_faithful(self.sources, "mixed")
        check_weights(self._names, self.mixture.weights)
        self.route = route_for(self.sources, self.mixture)

    @checked
    def start(self, prompt: Prompt, request: Request | None = None) -> MixtureState:
        """A state with no text yet.

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
        return MixtureState(
            request=request,
            prompt=prompt,
            prompts=prompts,
            active=tuple(range(len(self.sources))),
            sequence_id=next(self._sequence_ids),
            log_weights=() if self.mixture.prior else self._fixed(),
            position=self.route.begin(prompts),
        )

    async def step_async(
        self, state: MixtureState, num_texts: int = 1
    ) -> tuple[MixtureState, Step]:
        """At least one more character, or the end."""
        del num_texts  # matters to guesses, and a mixture makes none
        step = MixtureStep(self._names, state, state)
        if not state.log_weights:
            await self._weigh(step)
        while not step.is_over:
            try:
                continuation = await self.route.walk(step.state)
            except SourceError as error:
                if state.request.on_source_error == "raise":
                    raise interrupted(step.before, self._names, error) from None
                step.stop, step.stuck = StopReason.NO_DRAFT, str(error)
            else:
                self._check(step, continuation.dropped)
                step.add(continuation)
        return commit(step)

    def _fixed(self) -> tuple[float, ...]:
        """Logarithms of the mixture's own weights."""
        if not self.mixture.weights:
            return log_normalized(np.zeros(len(self.sources)))
        given = [self.mixture.weights[name] for name in self._names]
        return log_normalized(np.array([math.log(w) if w else -math.inf for w in given]))

    async def _weigh(self, step: MixtureStep) -> None:
        """Weigh the sources by how well they predict the prompt."""
        prior, state = self.mixture.prior, step.state
        if prior is None or len(self.sources) == 1:
            step.state = replace(state, log_weights=self._fixed())
            return
        views = [state.view(k, self.sources[k]) for k in state.active]
        log_weights, readings = await weigh_by_prompt(prior, views, len(self.sources))
        combined = log_normalized(np.array(log_weights) + np.array(self._fixed()))
        step.state = replace(state, log_weights=combined)
        failed = {}
        for k, reading in readings.items():
            if isinstance(reading, SourceError):
                failed[self._names[k]] = reading
            else:
                step.spend(self._names[k], reading.usage)
        self._check(step, failed)
        step.drop(failed)

    def _check(self, step: MixtureStep, failed: Mapping[str, SourceError]) -> None:
        """Raise the first failure, where failures are to be raised."""
        if failed and step.before.request.on_source_error == "raise":
            name, error = next(iter(failed.items()))
            raise interrupted(step.before, self._names, error, name)
