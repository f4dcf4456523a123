"""What a backend remembers of one text: a trunk of cached tokens, and branches beside it.

The trunk is the text itself; branches are candidates that were scored after some part of
it. Each cached token knows the slot that holds its keys and values, so a branch that turns
out to be the text becomes trunk by moving a few slots, and rolling back costs nothing.
This module plans; it never touches a tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coolfusion.backend import Query, Scores


@dataclass(frozen=True, slots=True)
class Pick:
    """What a model says after a token: its choice, its log-probability, the watched ids' total."""

    token: int
    log_prob: float
    watched: float


@dataclass(slots=True)
class Entry:
    """A cached token. ``log_prob`` (nats) is its own, where known; ``pick`` follows it."""

    token: int
    log_prob: float | None = None
    pick: Pick | None = None


@dataclass(slots=True)
class Node:
    """A token to be computed.

    ``parent`` is the index of the node before it, or -1 where it follows ``attach`` tokens of
    the trunk directly. ``wanted`` says whether what follows it is asked for.
    """

    entry: Entry
    position: int
    slot: int
    parent: int
    attach: int
    wanted: bool


@dataclass(slots=True)
class Row:
    """The cached trunk, its branches, and the plan of the next pass over them."""

    trunk: list[Entry] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    branches: list[Node] = field(default_factory=list)

    def shared(self, ids: Sequence[int]) -> int:
        """How many leading ids the trunk has in common with ``ids``."""
        end = min(len(ids), len(self.ids))
        if list(ids[:end]) == self.ids[:end]:
            return end
        low, high = 0, end  # the first difference is in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            if list(ids[low:middle]) == self.ids[low:middle]:
                low = middle
            else:
                high = middle
        return low

    def answer(self, query: Query) -> Scores | None:
        """The answer to a query about which everything is remembered, else None."""
        ids = query.prefix + query.continuation
        path = self._path(ids)
        if len(path) < len(ids):
            return None
        first = len(query.prefix) - 1
        asked = path[first:]
        picks = [entry.pick for entry in asked if entry.pick is not None]
        if len(picks) < len(asked):
            return None
        log_probs = []
        for entry, before in zip(asked[1:], picks, strict=False):
            known = before.log_prob if before.token == entry.token else entry.log_prob
            if known is None:
                return None
            log_probs.append(known)
        return as_scores(log_probs, picks)

    def settle(self, prefix: Sequence[int]) -> list[int]:
        """Make the branch that continues ``prefix`` best the trunk.

        Returns the slots that must be moved, in order, to the places right after what
        trunk is left; an empty list where the trunk serves best as it is.
        """
        shared = self.shared(prefix)
        path = self._branch(prefix)
        if not path or path[-1].position < shared:
            return []
        attach = path[0].attach
        self._truncate(attach)
        self.trunk += [node.entry for node in path]
        self.ids += [node.entry.token for node in path]
        return [node.slot for node in path]

    def plan(self, queries: Sequence[Query]) -> list[Node]:
        """The tokens one pass must compute to answer ``queries``, with slots for each.

        Every prefix must be a prefix of the longest one. Where that is cached whole and
        candidates are to be scored, the trunk's own tail is kept: it may yet win.
        """
        longest = max((query.prefix for query in queries), key=len)
        keep = self.shared(longest) == len(longest) and any(query.continuation for query in queries)
        starts = [min(self.shared(query.prefix), len(query.prefix) - 1) for query in queries]
        if not keep:
            self._truncate(min(starts))
            starts = [len(self.trunk)] * len(starts)
        self.branches = []
        nodes: list[Node] = []
        children: dict[tuple[int, int, int], int] = {}
        base = len(self.trunk)
        for query, start in zip(queries, starts, strict=True):
            ids = query.prefix + query.continuation
            parent = -1
            for position in range(start, len(ids)):
                key = (parent, start if parent < 0 else -1, ids[position])
                wanted = position >= len(query.prefix) - 1
                if key not in children:
                    children[key] = len(nodes)
                    nodes.append(
                        Node(
                            Entry(ids[position]), position, base + len(nodes), parent, start, wanted
                        )
                    )
                parent = children[key]
                nodes[parent].wanted |= wanted
        return nodes

    def store(self, nodes: list[Node]) -> None:
        """Remember computed tokens: those that simply lengthen the trunk join it."""
        num_children = Counter(node.parent for node in nodes)
        num_joined = 0
        for index, node in enumerate(nodes):
            straight = node.parent == index - 1 and num_children[node.parent] == 1
            if not straight or node.attach + index != len(self.trunk):
                break
            self.trunk.append(node.entry)
            self.ids.append(node.entry.token)
            num_joined += 1
        self.branches = nodes if num_joined == 0 else self._regrown(nodes, num_joined)

    def _regrown(self, nodes: list[Node], num_joined: int) -> list[Node]:
        """The nodes that did not join the trunk, attached to what did."""
        rest: list[Node] = []
        for node in nodes[num_joined:]:
            parent = node.parent - num_joined
            attach = len(self.trunk) if node.parent >= 0 else node.attach
            if 0 <= node.parent < num_joined:
                attach, parent = nodes[node.parent].position + 1, -1
            elif node.parent < 0:
                parent = -1
            else:
                attach = rest[parent].attach
            rest.append(Node(node.entry, node.position, node.slot, parent, attach, node.wanted))
        return rest

    def _truncate(self, length: int) -> None:
        del self.trunk[length:]
        del self.ids[length:]
        self.branches = []

    def _path(self, ids: Sequence[int]) -> list[Entry]:
        """The longest run of cached tokens that spells a beginning of ``ids``."""
        shared = self.shared(ids)
        branch = self._branch(ids)
        if branch and branch[-1].position >= shared:
            return self.trunk[: branch[0].attach] + [node.entry for node in branch]
        return self.trunk[:shared]

    def _branch(self, ids: Sequence[int]) -> list[Node]:
        """The branch that goes furthest along ``ids``."""
        shared = self.shared(ids)
        reached: dict[int, list[Node]] = {}
        best: list[Node] = []
        for index, node in enumerate(self.branches):
            fits = node.position < len(ids) and ids[node.position] == node.entry.token
            if fits and node.parent < 0 and node.attach <= shared:
                reached[index] = [node]
            elif fits and node.parent in reached:
                reached[index] = [*reached[node.parent], node]
            if index in reached and len(reached[index]) + reached[index][0].attach > (
                len(best) + best[0].attach if best else 0
            ):
                best = reached[index]
        return best


def as_scores(log_probs: Sequence[float], picks: Sequence[Pick]) -> Scores:
    """Scores that cost nothing."""
    return Scores(
        tuple(log_probs),
        tuple(pick.token for pick in picks),
        tuple(pick.log_prob for pick in picks),
        tuple(pick.watched for pick in picks),
    )


def ancestors(nodes: Sequence[Node], index: int) -> Iterator[int]:
    """Indices of a node and of all nodes before it on its path."""
    while index >= 0:
        yield index
        index = nodes[index].parent
