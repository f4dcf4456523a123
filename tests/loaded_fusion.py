"""A fusion that is there already, where commands would load one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coolfusion import FusionModel


def loading(fusion: FusionModel) -> Callable[..., FusionModel]:
    """What ``coolfusion.cli.options.load_fusion`` does, with sources that are open from the start."""

    def load_fusion(
        _: Any, when_opened: Callable[[Sequence[Any]], Any] | None = None
    ) -> FusionModel:
        if when_opened is not None:
            when_opened(fusion.sources)
        return fusion

    return load_fusion
