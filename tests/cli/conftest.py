"""The built-in models copied aside once, and loaded once however often a command asks."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coolfusion.backends import huggingface
from coolfusion.builtin import builtin_paths
from coolfusion.cli import main

QUESTION = "Tom has 3 apples and buys 2 more. How many apples does Tom have?"


class Outcome:
    """What one call of the command line left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in out + err


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for path in builtin_paths():
        shutil.copytree(path, root / path.name)
    return {path.name: root / path.name for path in builtin_paths()}


@pytest.fixture(scope="session")
def loaded() -> dict[Any, Any]:
    return {}


@pytest.fixture(autouse=True)
def load_once(
    models: dict[str, Path], loaded: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_one = huggingface.open_source

    class Remembered:
        """A source that is opened and loaded once in all tests."""

        def __init__(self, path: Path, name: str, **options: Any) -> None:
            self.key = (str(path), name, repr(options))
            if self.key not in loaded:
                loaded[self.key] = open_one(path, name, **options)
            self.name, self.tokenizer = name, loaded[self.key].tokenizer

        def load(self, **options: Any) -> Any:
            key = (*self.key, repr(options))
            if key not in loaded:
                loaded[key] = loaded[self.key].load(**options)
            return loaded[key]

    def remembered(path: Any, name: str, **options: Any) -> Any:
        kind = Remembered if Path(path) in models.values() else open_one
        return kind(path, name, **options)

    monkeypatch.setattr(huggingface, "open_source", remembered)
    monkeypatch.setattr("coolfusion.fusion.builtin_paths", lambda: tuple(models.values()))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def copy_of(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(models[name], tmp_path / f"copied-{name}"))

    return copy
