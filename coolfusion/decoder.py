"""The fusion loop: draft, merge, score, rerank, commit (arXiv 2407.19807, section 3).

States are immutable and a step is a pure function of a state, so a response can be
branched, resumed or decoded beside others without changing what it says.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, final

from coolfusion.asking import Talk
from coolfusion.backends.source import Source, check_byte_faithful, check_names, encoded_prompts
from coolfusion.committing import commit
from coolfusion.contest import Turn
from coolfusion.errors import UsageError
from coolfusion.recall import Recall
from coolfusion.recipe import Recipe, Request
from coolfusion.rounds import Rounds, hold
from coolfusion.speculation import Speculation, Speculator
from coolfusion.state import State
from coolfusion.stepwise import Stepwise, on_several_devices
from coolfusion.tokenization.canonical import Canonical
from coolfusion.tokenization.prompts import Prompt
from coolfusion.turns import Turns
from coolfusion.types import Step

Result = TypeVar("Result")

DEFAULT_SPECULATION = Speculation()


@final
class Decoder(Stepwise[State]):
    """Fuses ``sources`` by ``recipe``.

    What it keeps of responses, here and in its sources, only saves time: ``speculation``
    (None: none) changes what they cost and nothing else.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        recipe: Recipe | None = None,
        *,
        speculation: Speculation | None = DEFAULT_SPECULATION,
    ) -> None:
        check_names([source.name for source in sources])
        self.sources = tuple(sources)
        self.recipe = recipe or Recipe()
        if self.recipe.scores == "bytes":
            check_byte_faithful(sources, "scored by bytes")
        self._lanes = itertools.count()
        self._recalls = [Recall(source.backend) for source in self.sources]
        self._concurrent = on_several_devices(self.sources)
        speculator = None
        if speculation is not None:
            speculator = Speculator(self.sources, self._recalls, self.recipe, speculation)
        self.turns = Turns(self.sources, self.recipe, speculator)

    def start(self, prompt: Prompt, request: Request | None = None) -> State:
        """A state with nothing said yet.

        Raises ``PromptError`` for a prompt that some source cannot take, and ``UsageError`` for
        a greedy request where sources are to draft several times.
        """
        request = request or Request()
        if self.recipe.num_samples > 1 and request.sampling.is_greedy:
            raise UsageError(
                f"{self.recipe.num_samples} drafts of one source at temperature 0 would all be the "
                "same. Set a temperature."
            )
        prompts = encoded_prompts(self.sources, prompt)
        nothing = tuple(Canonical() for _ in self.sources)
        everyone = tuple(range(len(self.sources)))
        return State(request, prompt, prompts, nothing, everyone, next(self._lanes))

    def rounds(self) -> Rounds[int, tuple[State, Step]]:
        """Rounds in which what is known of a text already is not asked again."""
        return Rounds(self._recalls, concurrent=self._concurrent)

    def hold(self, talk: Talk[Result]) -> Result:
        """Hold a conversation with the sources to its end."""
        return hold(talk, self._recalls)

    def stepping(self, state: State, num_texts: int = 1) -> Talk[tuple[State, Step]]:
        """One step as a conversation with the sources; ``num_texts`` share their passes."""
        state, turn = yield from self.turns.take(state, num_texts)
        return self.commit(state, turn)

    def commit(self, state: State, turn: Turn) -> tuple[State, Step]:
        """The state after the turn's winner, and the step that led to it."""
        return commit(self.sources, self.recipe, state, turn)

    def branch(self, state: State) -> State:
        """The same response, with a place of its own in whatever is remembered of responses."""
        return state if state.lane is None else replace(state, lane=next(self._lanes))
