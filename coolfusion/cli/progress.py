"""How far a command has come: a bar with rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

from coolfusion.cli.process import harmless, raw

if TYPE_CHECKING:
    from tqdm import tqdm


class ProgressBar:
    """A bar on stderr that is taken away when the ``with`` around it ends, however it ends.

    ``unit`` is what is counted; bytes ("B") are shown in kB, MB and so on.
    """

    def __init__(self, verb: str, unit: str, stream: IO[str] | None = None) -> None:
        self._verb, self._unit = verb, unit
        self._stream = sys.stderr if stream is None else stream
        self._bar: tqdm | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, done: int, total: int, what: str = "") -> None:
        """Show that ``done`` of ``total`` are finished and ``what`` is under way.

        The rate is that since the first call, so what an earlier run did is left out. Fewer
        done than before begin another count.
        """
        if not (total and self._stream.isatty()):
            return
        if self._bar is not None and done < self._bar.n:
            self._bar.close()
            self._bar = None
        if self._bar is None:
            self._bar = self._begun(done, total)
        self._bar.n = done
        self._bar.set_postfix_str(harmless(what), refresh=False)
        self._bar.refresh()

    def hide(self) -> None:
        """Make room for a line of text; the next ``show`` brings the bar back below it."""
        if self._bar is not None:
            self._bar.clear()

    def _begun(self, done: int, total: int) -> tqdm:
        from tqdm import tqdm  # only where there is a terminal: the command line starts faster

        return tqdm(
            desc=self._verb,
            initial=done,
            total=total,
            unit="B" if self._unit == "B" else f" {self._unit}",
            unit_scale=self._unit == "B",
            file=raw(self._stream),
            leave=False,
            dynamic_ncols=True,
            smoothing=0,  # the mean rate since the first call
        )
