"""``python -m coolfusion`` and the ``coolfusion`` command: signals are heard from the first moment on.

Modules take a second to be imported, and Ctrl-C meanwhile would show where. There is nothing to keep
yet, so the process ends at once.
"""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line and return its exit code."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from coolfusion.cli import main as run  # noqa: PLC0415  only now are signals heard

    return run()


def _end(number: int, _: FrameType | None) -> None:
    if number == signal.SIGINT and sys.stderr is not None:
        os.write(2, b"\ncoolfusion: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
