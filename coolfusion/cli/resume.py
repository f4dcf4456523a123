"""What a run must have in common with the one it goes on from."""

from __future__ import annotations

import argparse
from typing import Any

# Options that change no answer: where things are, how fast they go, what is shown and how it is
# judged. Rows are compared one by one, by their digests.
_FREE = frozenset(
    "command run config task metric systems search trials vary held_out show limit include_path "
    "prompt prompt_for input output json explain trace n_best quiet no_color "
    "batch_size max_batch_tokens device trust_remote_code".split()
)


def resume_settings(arguments: argparse.Namespace, *free: str) -> dict[str, Any]:
    """The options that change an answer, without those that were not given.

    ``free`` names further ones: those that the command keeps apart in another way, and those of
    guessing ahead where what it costs is not measured.
    """
    return {
        name: value
        for name, value in vars(arguments).items()
        if name not in _FREE and name not in free and value is not None and value != []
    }
