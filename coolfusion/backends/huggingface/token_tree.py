"""Which tokens of one text are cached, and where: a trunk, and a tree of what may follow it.

Token ``i`` of the trunk lies in slot ``i``; tokens of the tree (drafts, scored candidates,
guesses) lie in any slots after it. The trunk follows the text at a distance, so that what
was computed beside the text stays until the text has passed it by. This module plans; it
never touches a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coolfusion.backends.base import Query

REACH = 24  # tokens at the end of a text that stay in the tree, where branches leave them
ROOM = 64  # slots of the tree, from which on it is folded into the trunk


@dataclass(slots=True, eq=False)
class Node:
    """A token of the tree in its slot; ``parent`` is None where it follows the trunk."""

    token: int
    position: int
    slot: int
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassPlan:
    """The tokens one pass computes, and, per query, those after which it wants the logits.

    Parents come before their children in ``nodes``; ``wanted`` indexes them.
    """

    nodes: list[Node]
    wanted: list[list[int]]


@dataclass(frozen=True, slots=True)
class Move:
    """Cached tokens that change their slots: ``slots``, in order, go to ``start`` and after."""

    slots: list[int]
    start: int


@dataclass(slots=True)
class CachedText:
    """What is cached of one text. Slots from ``num_slots`` on were never written."""

    trunk: list[int] = field(default_factory=list)
    children: dict[int, Node] = field(default_factory=dict)
    num_slots: int = 0

    def shared(self, ids: Sequence[int]) -> int:
        """How many leading ids the trunk has in common with ``ids``."""
        end = min(len(ids), len(self.trunk))
        if list(ids[:end]) == self.trunk[:end]:
            return end
        low, high = 0, end  # the first difference is in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            if list(ids[low:middle]) == self.trunk[low:middle]:
                low = middle
            else:
                high = middle
        return low

    def path(self, ids: Sequence[int]) -> list[Node]:
        """The cached tokens after the trunk that spell what follows it in ``ids``."""
        path: list[Node] = []
        if self.shared(ids) == len(self.trunk):
            children = self.children
            for token in ids[len(self.trunk) :]:
                if token not in children:
                    break
                path.append(children[token])
                children = path[-1].children
        return path

    def num_cached(self, ids: Sequence[int]) -> int:
        """How many leading tokens of ``ids`` are cached."""
        return self.shared(ids) + len(self.path(ids))

    def fold(self, ids: Sequence[int]) -> Move | None:
        """Let the trunk follow the text ``ids`` once the tree has grown, dropping what it passed."""
        if self.num_slots - len(self.trunk) < ROOM:
            return None
        path = self.path(ids)
        num_folded = max(0, len(path) - REACH)
        # A tree that is wide rather than long is cut back to the text itself.
        rest = path if self.num_slots - len(self.trunk) - num_folded > 4 * ROOM else None
        return self._fold(path[:num_folded], rest)

    def begin(self, ids: Sequence[int]) -> None:
        """Start anew with ``ids`` in the first slots."""
        self.trunk = list(ids)
        self.children = {}
        self.num_slots = len(ids)

    def nodes(self) -> Iterator[Node]:
        """All tokens of the tree, parents first."""
        return _descendants(self.children)

    def plan(self, queries: Sequence[Query]) -> PassPlan:
        """What one pass must compute to answer ``queries``; the tree takes new tokens in."""
        texts = [query.prefix + query.continuation for query in queries]
        starts = [len(query.prefix) - 1 for query in queries]
        self._unfold(
            min(min(start, self.shared(ids)) for start, ids in zip(starts, texts, strict=True))
        )
        nodes: dict[Node, None] = {}
        wanted: list[list[Node]] = []
        for ids, start in zip(texts, starts, strict=True):
            node, children = None, self.children
            found: list[Node] = []
            for position in range(len(self.trunk), len(ids)):
                child = children.get(ids[position])
                is_new = child is None
                if child is None:
                    child = children[ids[position]] = Node(
                        ids[position], position, self.num_slots, node
                    )
                    self.num_slots += 1
                if is_new or position >= start:
                    nodes[child] = None
                if position >= start:
                    found.append(child)
                node, children = child, child.children
            wanted.append(found)
        ordered = sorted(nodes, key=lambda node: node.position)
        index = {node: number for number, node in enumerate(ordered)}
        return PassPlan(ordered, [[index[node] for node in found] for found in wanted])

    def _unfold(self, length: int) -> None:
        """Shorten the trunk to ``length`` tokens; the others become the tree's."""
        for position in range(len(self.trunk) - 1, length - 1, -1):
            node = Node(self.trunk.pop(), position, position, None, self.children)
            for child in node.children.values():
                child.parent = node
            self.children = {node.token: node}

    def _fold(self, path: list[Node], rest: list[Node] | None) -> Move:
        """Append ``path`` to the trunk; of the tree after it, keep all or the chain ``rest``."""
        start = len(self.trunk)
        self.trunk += [node.token for node in path]
        if path:
            self.children = path[-1].children
        if rest is not None:
            self._keep_chain(rest[len(path) :])
        kept = list(_descendants(self.children))
        for child in self.children.values():
            child.parent = None
        slots = [node.slot for node in path] + [node.slot for node in kept]
        for slot, node in enumerate(kept, len(self.trunk)):
            node.slot = slot
        self.num_slots = start + len(slots)
        return Move(slots, start)

    def _keep_chain(self, chain: list[Node]) -> None:
        self.children = {chain[0].token: chain[0]} if chain else {}
        for node, after in zip(chain, [*chain[1:], None], strict=True):
            node.children = {after.token: after} if after else {}


def _descendants(children: dict[int, Node]) -> Iterator[Node]:
    """All nodes of a tree, parents first."""
    waiting = list(children.values())
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())
