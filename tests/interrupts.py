"""Processes that Ctrl-C reaches, also where the tests themselves run in the background."""

from __future__ import annotations

import signal


def hear_ctrl_c() -> None:
    """For ``preexec_fn``: a shell lets its background jobs, and all they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
