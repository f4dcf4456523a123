"""Laws of reports: names from outside are shown as the text they are."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coolfusion.documents import visible
from coolfusion.evaluation.tables import (
    markdown_report,
    markdown_table,
    markdown_text,
    text_report,
)
from coolfusion.swarm.plot import plot
from coolfusion.swarm.result import Iteration

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- gone -->",
    "<https://evil.example>",
    "</table>",
    "a < b > c & d &lt; &#60; &nbsp;",
    "a|b||c\\|d",
    "`code` ``more``",
    "a\nb\r\nc\rd",
    "\n\n# heading",
    "# heading",
    "heading #",
    "## a ##",
    "- item",
    "+ item",
    "* item",
    "1. item",
    "12) item",
    "---",
    "===",
    "- - -",
    "> quote",
    "    indented",
    "trailing  ",
    " ",
    "",
    "[text](http://evil.example)",
    "![image](http://evil.example/x.png)",
    "[ref]: http://evil.example",
    "http://evil.example",
    "www.evil.example",
    "*bold* **x** _em_ __init__ a_b_c snake_case_ _",
    "~~gone~~ ~x~",
    "$x$ $$y$$",
    "\x1b[31mred\x1b[0m",
    "\x00\x07\x08\x0b\x0c\x1f\x7f\x80\x85\x9b31m",
    "abc\u202edcba\u202c \u2066x\u2069 \u200f\u061c",
    "\u2028\u2029\ufeff\u200b\u00ad",
    "\ud800 \udfff \ud83d\ude00",
    "\ufffe\uffff\ufdd0\U0001fffe",
    "\U000e0041\U000e007f",
    "]]>",
    "<![CDATA[x]]>",
    "\"quotes\" 'single'",
    "\\",
    "\\\\ \\* \\n \\",
    "tab\there",
    "\xa0 no break \u3000",
    "日本語 العربية नमस्ते 👩‍💻",
    "a" * 5_000,
]
NAMES = (
    st.sampled_from(HOSTILE)
    | st.text(st.characters(exclude_categories=()), max_size=12)
    | st.text("<>&|`*_[]()#!~-+=.1\\ $:/wa\n\t", max_size=12)
)


def rendered(markdown: str) -> Any:
    """The tokens of a reader of Markdown with tables and links."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    return reader.enable(["table", "strikethrough"]).parse(markdown)


def texts(tokens: Any, kind: str) -> list[str]:
    """The texts of every heading, cell or paragraph; nothing but text may be in them."""
    found = []
    for before, token in pairwise(tokens):
        if before.type == kind:
            allowed = {"text", "text_special"}
            assert {child.type for child in token.children} <= allowed, token.children
            found.append("".join(child.content for child in token.children))
    return found


@given(NAMES, NAMES, NAMES)
def test_markdown_shows_names_as_they_are(title: str, cell: str, note: str) -> None:
    tokens = rendered(
        markdown_report(f"Task {title}", ["system", cell], [[cell, "1"]], [note, "b"])
    )
    blocks = [token.type for token in tokens if token.nesting == 1]
    assert blocks == [
        *("heading_open", "table_open", "thead_open", "tr_open", "th_open", "th_open"),
        *("tbody_open", "tr_open", "td_open", "td_open", "bullet_list_open"),
        *("list_item_open", *(["paragraph_open"] if note else [])),
        *("list_item_open", "paragraph_open"),
    ]
    assert not {"html_block", "code_block", "fence", "hr"} & {token.type for token in tokens}
    assert texts(tokens, "heading_open") == [visible(f"Task {title}")]
    assert texts(tokens, "th_open") == ["system", visible(cell)]
    assert texts(tokens, "td_open") == [visible(cell), "1"]
    shown = [visible(note), "b"] if note else ["b"]
    assert texts(tokens, "paragraph_open") == shown


@given(NAMES)
def test_a_name_begins_nothing_in_a_sentence(name: str) -> None:
    tokens = rendered(f"# {markdown_text(name)}\n\nBest: {markdown_text(name)}.\n")
    assert [token.type for token in tokens if token.nesting == 1] == [
        "heading_open",
        "paragraph_open",
    ]
    assert texts(tokens, "paragraph_open") == [f"Best: {visible(name)}."]


@given(NAMES)
def test_nothing_in_a_report_is_invisible(name: str) -> None:
    for report in (
        markdown_report(name, ["a", name], [[name, "1"]], [name]),
        text_report(name, ["a", name], [[name, "1"]], [name]),
        *markdown_table([name], [[name]]),
    ):
        report.encode("utf-8")
        for char in report.replace("\n", "").replace("\u200c", "").replace("\u200d", ""):
            assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    assert len(text_report(name, ["a", name], [[name, "1"]], [name]).split("\n")) == 6


def test_ordinary_names_read_as_before() -> None:
    for name in (
        "mean_nll",
        "org/model-7b",
        "C++",
        "a (best source)",
        "< 0.001",
        "+0.4",
        "-1.5",
        "95 %",
    ):
        assert markdown_text(name) == name
    assert markdown_table(["`a`"], [["x|y\nz"]], is_markdown=True)[2] == "| x\\|y z |"


def test_addresses_are_no_links() -> None:
    for name in ("http://evil.example", "https://a.b", "www.evil.example", "ftp://x"):
        assert not re.search(r"(https?|ftp)://|www\.", markdown_text(name))


@given(NAMES, st.lists(st.floats(allow_nan=False), min_size=1, max_size=4), st.floats())
def test_a_plot_is_xml_with_any_name_and_any_numbers(
    title: str, utilities: list[float], best: float
) -> None:
    working = [utility for utility in utilities if utility > float("-inf")] or [0.0]
    iterations = [Iteration(tuple(utilities), max(working), 0)] * 2
    text = plot(iterations, best, title)
    tree = ElementTree.fromstring(text.encode("utf-8"))
    shown = [each.text or "" for each in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert shown[0] == visible(title)
    assert not {"nan", "inf"} & {value for each in tree.iter() for value in each.attrib.values()}
    assert len(text) < 60_000
