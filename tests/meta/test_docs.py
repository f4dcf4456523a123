"""Every Python snippet in the documentation runs; those of one page share their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import coolfusion

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")

MAX_WORDS = 25  # of a sentence
MAX_MEAN_WORDS = 16  # of the sentences of a page
UNMEASURED = ("options.md", "changelog.md")  # a table of the code's own words, and a list of notes
# Code, formulas, comments, tables, headings and lists of links are not made of sentences.
NOT_PROSE = re.compile(
    r"^[ ]*```.*?^[ ]*```[ ]*$|^\$\$.*?\$\$$|<!--.*?-->|^(?:[ ]{4}|[|#]|[ ]*[-*] \[).*?$",
    re.DOTALL | re.MULTILINE,
)
PARAGRAPH = re.compile(r"\n\s*\n|\n(?=[ ]*(?:[-*]|\d+\.) )")
SENTENCE_END = re.compile(r"""(?<=[.!?])["')*_]*\s+(?=[^a-z\s])""")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path) -> None:
    snippets = SNIPPET.findall(page.read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"{page.name}[{number}]", "exec"), names)
    assert names or not snippets


def test_there_are_snippets() -> None:
    assert sum(len(SNIPPET.findall(page.read_text(encoding="utf-8"))) for page in PAGES) >= 8


def test_every_public_name_is_listed() -> None:
    listed = (ROOT / "docs" / "inside" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in coolfusion.__all__ if f"`{name}`" not in listed]
    assert missing == ["__version__"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def sentences_of(text: str) -> list[str]:
    """The sentences of a page's prose; what stands in backticks counts as one word."""
    prose = NOT_PROSE.sub("\n\n", text)
    prose = re.sub(r"`[^`]+`", "`code`", prose)
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    paragraphs = [" ".join(part.split()) for part in PARAGRAPH.split(prose)]
    return [sentence for part in paragraphs for sentence in SENTENCE_END.split(part) if sentence]


def num_words(sentence: str) -> int:
    return sum(any(char.isalnum() for char in word) for word in sentence.split())


def test_what_counts_as_a_sentence() -> None:
    page = """# A heading of any length

One sentence of `any --code at all` and [a link](to/a/page.md). Is this
the second one?

- [a link](page.md): is no sentence
- An item (with a point.) And another

| a | table |
| --- | --- |

    code here

```
more code
```
"""
    assert sentences_of(page) == [
        "One sentence of `code` and a link.",
        "Is this the second one?",
        "- An item (with a point.",
        "And another",
    ]
    assert num_words("- One sentence of `code` and a link - or 2.") == 9


def test_sentences_are_short() -> None:
    """At most 25 words in a sentence, and 16 on average over a page."""
    offending = []
    for page in PAGES:
        if page.name in UNMEASURED:
            continue
        sentences = sentences_of(page.read_text(encoding="utf-8"))
        counts = [num_words(sentence) for sentence in sentences]
        offending += [
            f"{page.name}: {count} words: {sentence}"
            for count, sentence in zip(counts, sentences, strict=True)
            if count > MAX_WORDS
        ]
        mean = sum(counts) / max(len(counts), 1)
        if mean > MAX_MEAN_WORDS:
            offending.append(f"{page.name}: {mean:.1f} words a sentence on average")
    assert not offending, "\n" + "\n".join(offending)
