"""A machine that steps, branches and interleaves responses, and never finds one changed by it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from coolfusion import Request, SegmentDecoder, Step, StopReason
from coolfusion.backends.sampling import Sampling
from coolfusion.decoding.segments.state import State
from coolfusion.testing import toy_source
from coolfusion.trace import step_from_dict, step_to_dict
from tests.strategies import STORIES, said

SOURCES = [
    toy_source("bytes", STORIES, family="byte_bpe"),
    toy_source("marks", STORIES[1:], family="sentencepiece_bpe"),
    toy_source("letters", STORIES[:2], family="characters", context_length=60),
]
REQUESTS = [
    Request(max_new_tokens=60),
    Request(max_new_tokens=25, stop=("apple", "has 7")),
    Request(max_new_tokens=40, sampling=Sampling(0.9, seed=5)),
]
Branch = tuple[State, tuple[Step, ...]]


class DecoderMachine(RuleBasedStateMachine):
    branches = Bundle("branches")

    def __init__(self) -> None:
        super().__init__()
        self.decoder = SegmentDecoder(SOURCES)
        self.seen: list[Branch] = []

    @initialize(target=branches, prompt=st.sampled_from(["Tom has", "Ann", "The cat"]))
    def begin(self, prompt: str) -> Branch:
        return self._remember((self.decoder.start(prompt, REQUESTS[0]), ()))

    @rule(
        target=branches,
        prompt=st.sampled_from(["Tom", "The cat sat"]),
        request=st.sampled_from(REQUESTS),
    )
    def begin_another(self, prompt: str, request: Request) -> Branch:
        return self._remember((self.decoder.start(prompt, request), ()))

    @rule(target=branches, branch=branches)
    def step(self, branch: Branch) -> Branch:
        state, steps = branch
        if state.stop_reason is not None:
            return branch
        after, step = self.decoder.step(state)
        assert step.segment or after.stop_reason is not None, "a step adds text or stops"
        assert after.text.startswith(state.text) or after.stop_reason is StopReason.STOP_STRING
        return self._remember((after, (*steps, step)))

    @rule(one=branches, other=branches)
    def step_two_side_by_side(self, one: Branch, other: Branch) -> None:
        states = [state for state, _ in (one, other) if state.stop_reason is None]
        if states:
            together = self.decoder.step_batch(states)
            alone = [self.decoder.step(state) for state in states]
            assert said(step for _, step in together) == said(step for _, step in alone)
            assert [state for state, _ in together] == [state for state, _ in alone]

    @invariant()
    def ids_are_canonical_and_texts_join(self) -> None:
        for state, steps in self.seen[-3:]:
            shown = "".join(step.text for step in steps)
            assert state.text.startswith(shown)
            assert shown == state.text or state.stop_reason is None
            if state.stop_reason is not StopReason.STOP_STRING:
                for k in state.active:
                    assert state.encoded[k].ids == SOURCES[k].tokenizer.encode(state.text)

    @invariant()
    def traces_replay(self) -> None:
        for _, steps in self.seen[-1:]:
            assert all(step_from_dict(step_to_dict(step)) == step for step in steps)

    def _remember(self, branch: Branch) -> Branch:
        self.seen.append(branch)
        return branch


TestDecoderMachine = DecoderMachine.TestCase
TestDecoderMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
