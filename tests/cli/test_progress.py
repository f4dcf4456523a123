"""Bars on a terminal: what they show, that they go away, and that nothing is shown elsewhere."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from coolfusion.cli.progress import ProgressBar
from tests.cli.conftest import Run


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """The lines a terminal would show: a carriage return goes back to the line's beginning."""
    shown = []
    for line in text.split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        shown.append("".join(cells).rstrip())
    return shown


def test_a_bar_says_how_far_how_fast_and_how_long() -> None:
    terminal = Terminal()
    with ProgressBar("rows", "row", terminal) as bar:
        bar.show(0, 4, "a")
        bar.show(1, 4, "b")
        (line,) = screen(terminal.getvalue())
        assert line.startswith("rows:  25%|")
        assert "| 1/4 [" in line
        assert "row/s" in line or "s/ row" in line
        assert line.endswith(", b]")
    assert screen(terminal.getvalue()) == [""]


def test_bytes_are_scaled() -> None:
    terminal = Terminal()
    with ProgressBar("merging", "B", terminal) as bar:
        bar.show(2_000_000, 4_000_000_000, "layer")
        (line,) = screen(terminal.getvalue())
        assert "| 2.00M/4.00G [" in line


def test_the_rate_leaves_out_what_an_earlier_run_did() -> None:
    terminal = Terminal()
    with ProgressBar("rows", "row", terminal) as bar:
        bar.show(900, 1000)
        (line,) = screen(terminal.getvalue())
        assert "900/1000" in line
        assert "?" in line.split("<")[1]  # nothing is done yet, so there is no rate


def test_a_count_that_begins_again_has_a_bar_of_its_own() -> None:
    terminal = Terminal()
    with ProgressBar("rows", "row", terminal) as bar:
        bar.show(3, 3, "a")
        bar.show(0, 5, "b")
        (line,) = screen(terminal.getvalue())
        assert "| 0/5 [" in line
    assert screen(terminal.getvalue()) == [""]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_a_bar_goes_away_whatever_happens(failure: type[BaseException]) -> None:
    terminal = Terminal()

    def fail() -> None:
        with ProgressBar("rows", "row", terminal) as bar:
            bar.show(1, 2)
            raise failure

    with pytest.raises(failure):
        fail()
    assert screen(terminal.getvalue()) == [""]


def test_lines_of_text_stand_above_a_hidden_bar() -> None:
    terminal = Terminal()
    with ProgressBar("rows", "row", terminal) as bar:
        for number in range(2):
            bar.hide()
            terminal.write(f"row {number}\n")
            bar.show(number + 1, 2)
        assert screen(terminal.getvalue())[:2] == ["row 0", "row 1"]
    assert screen(terminal.getvalue()) == ["row 0", "row 1", ""]


def test_elsewhere_nothing_is_shown() -> None:
    stream = io.StringIO()
    with ProgressBar("rows", "row", stream) as bar:
        bar.hide()
        bar.show(1, 2)
        bar.hide()
    assert stream.getvalue() == ""


def test_rows_and_a_bar_on_one_terminal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_text('"What is 1 + 1?"\n"What is 2 + 2?"\n')
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("generate", "--input", tmp_path / "in", "--max-new-tokens", 2).code == 0
    first, second, *rest = screen(terminal.getvalue())
    assert first.startswith('{"id": ')
    assert second.startswith('{"id": ')
    assert first.endswith("}")
    assert second.endswith("}")
    assert rest == [""]


def test_the_library_is_imported_when_a_bar_is_made() -> None:
    code = "import sys, coolfusion.cli; raise SystemExit('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
