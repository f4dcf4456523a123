"""The patterns of pre-tokenizers as trees, and which characters their parts match.

Only what can be followed without looking back is read. Whether a character belongs to a class is
left to the engine of tokenizers, whose Unicode tables may differ from Python's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import regex
import tokenizers
from tokenizers import normalizers

Node: TypeAlias = tuple[Any, ...]  # its kind and its parts

_ATOM = regex.compile(
    r"\\(?:[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[sSdDwWhHntrfvae]|[^\w])"
)
_GROUP = regex.compile(r"\((?:\?(:|=|!|i:|i\)|<\w+>))?")
_INTERVAL = regex.compile(r"\{(\d*)(,?)(\d*)\}")
_ANY: Node = ("set", r"[\s\S]")
WORD = r"\w"


class NotFollowed(Exception):
    """A pattern has a construct whose matches are not followed here; the message names it."""


def parse(pattern: str) -> Node:
    """The tree of a pattern. Raises ``NotFollowed``."""
    node, position = _alternatives(pattern, 0, False)
    if position < len(pattern):
        raise NotFollowed(pattern[position:])
    return node


def literal(text: str) -> str:
    """The pattern of a text itself."""
    return "".join(rf"\x{{{ord(character):x}}}" for character in text)


def atoms(node: Node) -> Iterator[str]:
    """The patterns of single characters in a tree."""
    if node[0] == "set":
        yield node[1]
    elif node[0] in ("alternatives", "sequence"):
        for each in node[1]:
            yield from atoms(each)
    elif node[0] in ("repeat", "look"):
        yield from atoms(node[1])


def is_nullable(node: Node) -> bool:
    """Whether a tree matches without characters."""
    if node[0] == "alternatives":
        return any(map(is_nullable, node[1]))
    if node[0] == "sequence":
        return all(map(is_nullable, node[1]))
    if node[0] == "repeat":
        return node[2] == 0 or is_nullable(node[1])
    return bool(node[0] != "set")


def _alternatives(pattern: str, position: int, fold: bool) -> tuple[Node, int]:
    branches: list[Node] = []
    while True:
        parts: list[Node] = []
        while position < len(pattern) and pattern[position] not in "|)":
            if pattern.startswith("(?i)", position) and not parts and not branches:
                position, fold = position + 4, True
                continue
            node, position = _one(pattern, position, fold)
            node, position = _quantified(pattern, node, position)
            parts.append(node)
        branches.append(parts[0] if len(parts) == 1 else ("sequence", tuple(parts)))
        if not pattern.startswith("|", position):
            return (
                branches[0] if len(branches) == 1 else ("alternatives", tuple(branches))
            ), position
        position += 1


def _one(pattern: str, position: int, fold: bool) -> tuple[Node, int]:
    character = pattern[position]
    if character == "(":
        return _group(pattern, position, fold)
    if character == "\\":
        return _escaped(pattern, position, fold)
    if character in "^$*+?{":
        raise NotFollowed(character)
    if character == "[":
        end = _class_end(pattern, position)
        return _set(pattern[position:end], fold), end
    return _set("." if character == "." else literal(character), fold), position + 1


def _escaped(pattern: str, position: int, fold: bool) -> tuple[Node, int]:
    if pattern.startswith(r"\b", position):
        return ("word edge",), position + 2
    if pattern.startswith(r"\z", position):
        return ("look", _ANY, True), position + 2
    atom = _ATOM.match(pattern, position)
    if atom is None:
        raise NotFollowed(pattern[position : position + 2])
    return _set(atom.group(), fold), atom.end()


def _group(pattern: str, position: int, fold: bool) -> tuple[Node, int]:
    opening = _GROUP.match(pattern, position)
    kind = opening.group(1) if opening else None
    if opening is None or kind == "i)" or pattern.startswith(("?", "*"), opening.end()):
        raise NotFollowed(pattern[position : position + 4])
    inner, end = _alternatives(pattern, opening.end(), fold or kind == "i:")
    if not pattern.startswith(")", end):
        raise NotFollowed("a group without an end")
    return (("look", inner, kind == "!") if kind in ("=", "!") else inner), end + 1


def _quantified(pattern: str, node: Node, position: int) -> tuple[Node, int]:
    """The node with all quantifiers after it."""
    while position < len(pattern) and pattern[position] in "*+?{":
        interval = _INTERVAL.match(pattern, position)
        if interval:
            low, comma, high = interval.groups()
            if not low and not high:
                raise NotFollowed(interval.group())
            bounds = (int(low or 0), (int(high) if high else None) if comma else int(low))
            position = interval.end()
            if pattern.startswith("?", position) and not comma:
                raise NotFollowed(interval.group() + "?")
        elif pattern[position] == "{":
            raise NotFollowed("{")
        else:
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[pattern[position]]
            position += 1
        how = "greedy"
        if pattern.startswith("?", position):
            how, position = "lazy", position + 1
        elif pattern.startswith("+", position) and not interval:
            # Subtle: after an interval, Ruby's syntax reads the plus as a repetition.
            how, position = "possessive", position + 1
        if is_nullable(node) or (how == "possessive" and node[0] != "set"):
            raise NotFollowed("a repetition")
        node = ("repeat", node, *bounds, how)
    return node, position


def _class_end(pattern: str, position: int) -> int:
    depth = 0
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 1
        elif pattern[position] == "[":
            depth += 1
            # A bracket that closes at once is a member: []a], [^]a].
            position += pattern.startswith("^", position + 1)
            position += pattern.startswith("]", position + 1)
        elif pattern[position] == "]":
            depth -= 1
            if not depth:
                return position + 1
        position += 1
    raise NotFollowed("[")


def _set(source: str, fold: bool) -> Node:
    return ("set", f"(?i:{source})" if fold else source)


@lru_cache(maxsize=1 << 16)
def belongs(character: str, source: str) -> bool:
    """Whether the engine of tokenizers matches a character with the pattern of one."""
    return bool(_replacing(source).normalize_str(character) == "")


@lru_cache(maxsize=1024)
def _replacing(source: str) -> Any:
    return normalizers.Replace(tokenizers.Regex(source), "")


def is_word(character: str) -> bool:
    """Whether a character is one of words."""
    return belongs(character, WORD)
