"""Normalisation of a text piece by piece, where the pieces do not change one another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, final

import regex

from coolfusion.tokenization.settling.patterns import NotFollowed, atoms, belongs, literal, parse
from coolfusion.tokenization.settling.stages import component, flat

_CLUSTER = regex.compile(r"\X")
_BY_CHARACTER = ("Lowercase", "Nmt", "ByteLevel")
# Characters are composed, reordered and looked up inside of what a reader takes for one.
_BY_CLUSTER = ("NFC", "NFD", "NFKC", "NFKD", "StripAccents", "BertNormalizer", "Precompiled")
# At the ends of a text only; in the middle of one they change nothing.
_AT_EDGES = ("Prepend", "Strip")
_TRIMMED = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "\u2581"


@final
class Normalizing:
    """A normalizer in the middle of a text. Raises ``NotFollowed`` if it has unknown parts.

    ``prefix`` is what it puts before a text.
    """

    def __init__(self, normalizer: Any) -> None:
        parts: list[Any] = []
        joining: list[str] = []
        self.prefix = ""
        self._trims = False
        self._by_cluster = False
        for part in flat(spec_of(normalizer), "normalizers"):
            kind = part["type"]
            if kind == "Prepend":
                self.prefix = part["prepend"]
            self._trims |= _is_at_end(part)
            if kind in _AT_EDGES or (kind == "Replace" and _is_at_edges(part["pattern"])):
                continue
            if kind == "Replace":
                joining += _joined_by(part["pattern"])
            elif kind in _BY_CLUSTER:
                self._by_cluster = True
            elif kind not in _BY_CHARACTER:
                raise NotFollowed(f"the normalizer {kind}")
            parts.append(part)
        self._joining = tuple(joining)
        self._changes = bool(parts)
        inner = component("normalizer", {"type": "Sequence", "normalizers": parts})
        self._normal = lru_cache(maxsize=1 << 14)(inner.normalize_str)

    def pieces(self, text: str) -> Sequence[int]:
        """Where pieces begin. What stands after the last of these may still change."""
        # White space at the end is shown again once other text follows it.
        end = len(text.rstrip(_TRIMMED)) if self._trims else len(text)
        if not self._by_cluster and not self._joining:
            return range(end + 1)
        starts = [match.start() for match in _CLUSTER.finditer(text) if match.start() <= end]
        if self._joining:
            starts = [p for p in starts if not p or not self._is_joined(text[p - 1], text[p])]
        return starts or [0]

    def joined(self, text: str, starts: Sequence[int]) -> tuple[str, Sequence[int]]:
        """The text up to the last start, normalised, and where the pieces begin in it."""
        if not self._changes:
            return text[: starts[-1]], starts
        shown, normal = [], [0]
        for begin, end in pairwise(starts):
            shown.append(self._normal(text[begin:end]))
            normal.append(normal[-1] + len(shown[-1]))
        return "".join(shown), normal

    def _is_joined(self, left: str, right: str) -> bool:
        """Whether one match may hold both characters, as they are or normalised."""
        return all(
            any(
                belongs(each, atom)
                for each in (side, *self._normal(side))
                for atom in self._joining
            )
            for side in (left, right)
        )


def _joined_by(pattern: dict[str, str]) -> list[str]:
    """What the characters of a longer match belong to."""
    tree = parse(literal(pattern["String"]) if "String" in pattern else pattern["Regex"])
    return [] if tree[0] == "set" else list(atoms(tree))


def _is_at_edges(pattern: dict[str, str]) -> bool:
    r"""Whether all branches of a pattern hold only at the ends of a text, as in ``\A +| +\z``."""
    return "Regex" in pattern and all(
        branch.startswith(("^", r"\A")) or branch.endswith(("$", r"\z", r"\Z"))
        for branch in pattern["Regex"].split("|")
    )


def _is_at_end(part: Mapping[str, Any]) -> bool:
    """Whether a part of a normalizer may change the end of a text alone."""
    if part["type"] == "Replace":
        branches = part["pattern"].get("Regex", "").split("|")
        return any(branch.endswith(("$", r"\z", r"\Z")) for branch in branches)
    return part["type"] == "Strip" and bool(part["strip_right"])


def spec_of(part: Any) -> dict[str, Any] | None:
    """The JSON of a normalizer or pre-tokenizer."""
    return None if part is None else json.loads(part.__getstate__())
