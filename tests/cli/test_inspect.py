"""``coolfusion inspect``: pieces that join to the text, and the fate of every cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coolfusion.backends.huggingface import loading
from coolfusion.builtin import builtin_paths
from coolfusion.tokenization.alignment import ratified_cuts
from coolfusion.tokenization.boundaries import words
from tests.cli.conftest import Run

TEXT = "Tom has 12 apples.\n\n\tHow  many?"


class Joining:
    """Letters, except that a full stop and a following line break are one token."""

    end_ids: frozenset[int] = frozenset()
    losses: tuple[str, ...] = ()

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text.replace(".\n", "\u2028")))

    def piece(self, token_id: int) -> bytes:
        return chr(token_id).replace("\u2028", ".\n").encode()


class Letters(Joining):
    """One token per character."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))


def test_the_table_shows_pieces_and_cuts(run: Run) -> None:
    got = run("inspect", "--text", TEXT)
    assert got.code == 0
    lines = got.out.splitlines()
    for line, name in zip(lines, ("sums", "groups", "money"), strict=False):
        assert line.startswith(name)
        shown = line.split("tokens  ")[1].replace("\u2502", "")
        assert shown == TEXT.replace(" ", "\u00b7").replace("\n", "\u21b5").replace("\t", "\u21e5")
    assert "cuts are ratified by all" in lines[-1]
    assert run("inspect", "--text", "-", stdin=TEXT.encode()).out == got.out


@pytest.mark.parametrize("boundary", [(), ("--boundary", "lines")])
def test_json_agrees_with_the_library(
    run: Run, models: dict[str, Path], boundary: tuple[str, ...]
) -> None:
    report = json.loads(run("inspect", "--json", *boundary, "--text", TEXT).out)
    assert list(report["tokens"]) == list(models)
    for pieces in report["tokens"].values():
        assert "".join(pieces) == TEXT
    if not boundary:
        tokenizers = [loading.load_tokenizer(path) for path in models.values()]
        ratified = [cut["position"] for cut in report["cuts"] if not cut["refused_by"]]
        assert ratified == list(ratified_cuts(TEXT, words, tokenizers))


def test_a_refused_cut_names_who_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        loading,
        "load_tokenizer",
        lambda path, **_: Joining() if path == "joining" else Letters(),
    )
    arguments = ["inspect", "-m", "joining", "-m", "letters", "--text", "One.\nTwo three"]
    cuts = json.loads(run(*arguments, "--json").out)["cuts"]
    assert [(cut["position"], cut["refused_by"]) for cut in cuts] == [(4, ["joining"]), (8, [])]
    assert "refused by joining" in run(*arguments).out
    assert "1 of 2 proposed cuts" in run(*arguments).out


def test_the_way_each_model_is_run_is_shown(run: Run) -> None:
    assert run("inspect", "--text", TEXT).out.count(" runs packed\n") == 3


def test_a_slow_way_comes_with_its_reason(run: Run, tmp_path: Path) -> None:
    """The first GPT has no cache in transformers."""
    folder = tmp_path / "first"
    shutil.copytree(builtin_paths()[0], folder)
    (folder / "config.json").write_text('{"model_type": "openai-gpt"}')
    because = "it cannot be cached right, so its texts are computed anew at every step"
    assert f"first runs recomputed: {because}\n" in run("inspect", "-m", folder, "--text", TEXT).out
