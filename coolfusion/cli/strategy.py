"""Options that say whether segments are fused or distributions are mixed, and how."""

from __future__ import annotations

import argparse


def add_strategy_options(parser: argparse.ArgumentParser) -> None:
    """Options that say whether segments are fused or distributions are mixed."""
    group = parser.add_argument_group("strategy")
    group.add_argument(
        "--strategy",
        metavar="NAME",
        help="segments (default), or mixture: the sources' distributions are mixed at every step",
    )
    group.add_argument(
        "--mixing",
        metavar="RULE",
        help="of a mixture: arithmetic (default), geometric, top_k_union or top_k_union(N)",
    )
    group.add_argument(
        "--route",
        metavar="NAME",
        help="of a mixture: auto (default), tokens for sources that share a vocabulary, or bytes",
    )


def strategy_options(arguments: argparse.Namespace) -> dict[str, str | None]:
    """What the options say of the strategy; nothing for a command that has none."""
    return {key: getattr(arguments, key, None) for key in ("strategy", "mixing", "route")}
