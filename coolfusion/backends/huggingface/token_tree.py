"""Which tokens of one text are cached, and in which slots: a trunk and a token tree after it.

Token ``i`` of the trunk lies in slot ``i``. Tokens of the tree (drafts, scored candidates,
guesses) lie in any slots after it. The trunk follows the text at a distance. Branches beside
the text stay cached until the text has passed them. This module plans and never touches a
tensor. Token trees are from SpecInfer (arXiv 2305.09781) and Medusa (arXiv 2401.10774).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from coolfusion.backends.base import Query

# Candidates branch off near the end of a text. A token that the trunk has taken in loses the
# branches beside it, so the last tokens stay in the tree.
REACH = 24  # tokens at the end of a text that are never folded
# A fold copies keys and values in every layer, so it waits until there is much to fold.
ROOM = 64  # slots of the tree from which on it is folded into the trunk


@dataclass(slots=True, eq=False)
class Node:
    """A token of the tree in its slot; ``parent`` is None if it follows the trunk.

    ``position`` counts tokens of the text, ``slot`` those of the cache. Siblings share a
    position, never a slot.
    """

    token: int
    position: int
    slot: int
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassPlan:
    """The tokens that one pass computes, and the logits that each query wants of it.

    Parents come before their children in ``nodes``. ``wanted`` has a list per query: indices of
    the nodes after which it wants logits.
    """

    nodes: list[Node]
    wanted: list[list[int]]


@dataclass(frozen=True, slots=True)
class Move:
    """Cached tokens that change their slots: ``slots``, in order, go to ``start`` onwards."""

    slots: list[int]
    start: int


@dataclass(slots=True)
class CachedText:
    """The cached tokens of one text. Slots from ``num_slots`` on hold none of them."""

    # Rollback costs nothing: a token that no path leads to is simply never attended to. Its
    # slot is dead until a fold reuses it.
    trunk: list[int] = field(default_factory=list)
    children: dict[int, Node] = field(default_factory=dict)
    num_slots: int = 0

    def shared(self, ids: Sequence[int]) -> int:
        """How many leading ids the trunk has in common with ``ids``."""
        end = min(len(ids), len(self.trunk))
        if list(ids[:end]) == self.trunk[:end]:
            return end
        # Bisection over slices: lists are compared in C, and the slices add up to len(ids) at
        # most. A loop would take as many slow steps. Invariant: both agree up to low and differ
        # somewhere before high.
        low, high = 0, end
        while high - low > 1:
            middle = (low + high) // 2
            # Up to low they are known to agree, so only the rest is compared.
            if list(ids[low:middle]) == self.trunk[low:middle]:
                low = middle
            else:
                high = middle
        return low

    def path(self, ids: Sequence[int]) -> list[Node]:
        """The cached tokens after the trunk that ``ids`` continues with."""
        path: list[Node] = []
        # The tree follows the last token of the trunk. After any other text its keys and values
        # would be wrong, even if the same tokens came next.
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

    def num_in_place(self, ids: Sequence[int]) -> int:
        """How many leading tokens of ``ids`` are cached in the slots of their positions.

        Another text can copy these in one piece.
        """
        in_place = takewhile(lambda node: node.slot == node.position, self.path(ids))
        return self.shared(ids) + sum(1 for _ in in_place)

    def fold(self, ids: Sequence[int]) -> Move | None:
        """Let the trunk follow the text ``ids`` once the tree has grown.

        Branches that the trunk has passed are dropped. Returns the copies to make in the cache;
        None while the tree is small.
        """
        if self.num_slots - len(self.trunk) < ROOM:
            return None
        path = self.path(ids)
        num_folded = max(0, len(path) - REACH)
        # A tree that is wide rather than long is cut back to the text itself. Otherwise many
        # candidates near the end of the text would keep it large, and every call would fold.
        rest = path if self.num_slots - len(self.trunk) - num_folded > 4 * ROOM else None
        return self._fold(path[:num_folded], rest)

    def begin(self, ids: Sequence[int]) -> None:
        """Start again with ``ids`` in the first slots; the caller has put them there."""
        self.trunk = list(ids)
        self.children = {}
        self.num_slots = len(ids)

    def nodes(self) -> Iterator[Node]:
        """All tokens of the tree, parents first."""
        return _descendants(self.children)

    def plan(self, queries: Sequence[Query]) -> PassPlan:
        """The plan of a pass that answers ``queries``. New tokens enter the tree.

        The caller must run the pass, or forget the text if the pass fails.
        """
        texts = [query.prefix + query.continuation for query in queries]
        # A query with L continuation tokens reads L + 1 rows of logits. They stand after the
        # last token of its prefix and after each continuation token. One pass thus verifies a
        # whole draft, as in speculative decoding (arXiv 2211.17192).
        starts = [len(query.prefix) - 1 for query in queries]
        # Subtle: logits are not cached, only keys and values. The last token of a prefix is
        # computed again for its logits even if it is cached, so it may not be in the trunk.
        self._unfold(
            min(min(start, self.shared(ids)) for start, ids in zip(starts, texts, strict=True))
        )
        # From here on every text begins with the whole trunk.
        nodes: dict[Node, None] = {}
        wanted: list[list[Node]] = []
        for ids, start in zip(texts, starts, strict=True):
            node, children = None, self.children
            found: list[Node] = []
            for position in range(len(self.trunk), len(ids)):
                child = children.get(ids[position])
                is_new = child is None
                if child is None:
                    # Texts that begin alike share nodes: each shared token is computed once.
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
        # A child's position is its parent's plus 1, so this order puts parents first.
        ordered = sorted(nodes, key=lambda node: node.position)
        index = {node: number for number, node in enumerate(ordered)}
        return PassPlan(ordered, [[index[node] for node in found] for found in wanted])

    def _unfold(self, length: int) -> None:
        """Shorten the trunk to ``length`` tokens; the others become a chain of the tree."""
        for position in range(len(self.trunk) - 1, length - 1, -1):
            # Token i of the trunk lies in slot i, so it keeps its slot and nothing is copied.
            node = Node(self.trunk.pop(), position, position, None, self.children)
            for child in node.children.values():
                child.parent = node
            self.children = {node.token: node}

    def _fold(self, path: list[Node], rest: list[Node] | None) -> Move:
        """Append ``path`` to the trunk. Of the tree after it keep all, or only the chain ``rest``."""
        start = len(self.trunk)
        self.trunk += [node.token for node in path]
        if path:
            self.children = path[-1].children
        if rest is not None:
            self._keep_chain(rest[len(path) :])
        kept = list(_descendants(self.children))
        for child in self.children.values():
            child.parent = None
        # Subtle: old slots are read before new ones are given. Path and kept nodes move to
        # consecutive slots, so that trunk token i is again in slot i and dead slots are reused.
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
