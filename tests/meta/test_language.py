"""Plain English: short sentences in docstrings, and comments that say why in the hard modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "coolfusion"
MAX_WORDS = 25  # in a sentence
CODE = re.compile(r"``[^`]*``")  # one word, whatever is in it
EXEMPT = re.compile(r"\s|[-*|] |\d+\. |>>> ")  # formulas, code, bullets and their second lines
SENTENCE_END = re.compile(r"(?<=[.!?])[\")]*\s+(?=[^a-z\s])")
MIN_COMMENTS = 6  # lines per 100
# Index tricks, invariants and bounds that a reader cannot check without being told why.
HARD = (
    "backends/huggingface/packed.py",
    "backends/huggingface/token_tree.py",
    "decoding/segments/guesses.py",
    "tokenization/byte_vocabulary.py",
    "tokenization/canonical.py",
    "tokenization/covers.py",
)


def test_hard_modules_say_why() -> None:
    silent = {}
    for name in HARD:
        lines = (PACKAGE / name).read_text(encoding="utf-8").splitlines()
        share = 100 * sum(line.lstrip().startswith("#") for line in lines) / len(lines)
        if share < MIN_COMMENTS:
            silent[name] = round(share, 1)
    assert silent == {}


def test_sentences_are_short() -> None:
    offenders = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for docstring in _docstrings(path):
            for sentence in _sentences(docstring):
                count = len(CODE.sub("X", sentence).split())
                if count > MAX_WORDS:
                    offenders.append(f"{name}: {count} words: {sentence}")
    assert offenders == []


def test_sentences_are_found() -> None:
    docstring = """One sentence, with ``some code. In it``. Another (arXiv 1234.5678, section 2)!

    a formula = of + many * words

- A bullet.
  Its second line.

The third sentence is 0.5 lines
long? (A fourth.) ``code`` begins the fifth.
"""
    assert list(_sentences(docstring)) == [
        "One sentence, with ``some code. In it``.",
        "Another (arXiv 1234.5678, section 2)!",
        "The third sentence is 0.5 lines long?",
        "(A fourth.",
        "``code`` begins the fifth.",
    ]


def _docstrings(path: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield docstring


def _sentences(docstring: str) -> Iterator[str]:
    """The sentences of every paragraph, without code, formulas, bullets and tables."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = [line for line in paragraph.split("\n") if not EXEMPT.match(line)]
        codes = iter(CODE.findall(" ".join(lines)))
        # Full stops inside code end no sentence.
        for sentence in SENTENCE_END.split(CODE.sub("\0", " ".join(lines)).strip()):
            whole = sentence
            while "\0" in whole:
                whole = whole.replace("\0", next(codes), 1)
            if whole:
                yield whole
