"""What can be said of a fusion by names and numbers alone, checked key by key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from coolfusion.backends.source import check_names
from coolfusion.config.strategies import (
    MIXTURE,
    check_mixture_options,
    check_segments_options,
    strategy_named,
)
from coolfusion.decoding.mixture.options import route_named
from coolfusion.decoding.mixture.rules import mixing_named
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.errors import UsageError

# Keys that are no keywords of a recipe.
_BESIDE_THE_RECIPE: Final = ("models", "names", "strategy", "mixing", "route")


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """What a fusion file says. None and empty: not said, so the default holds.

    The fields are keywords of ``FusionModel.from_pretrained``, with parts by their names.
    ``weights`` are by source name, positive, in any unit.
    """

    models: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    preset: str | None = None
    reranker: str | None = None
    lead: str | None = None
    boundary: str | None = None
    end_rule: str | None = None
    gate: str | float | None = None
    budget: str | int | None = None
    prior: str | None = None
    hedge: float | None = None
    num_samples: int | None = None
    scores: str | None = None
    strategy: str | None = None
    mixing: str | None = None
    route: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def said(self) -> dict[str, Any]:
        """The keys that have a value, in the order of the file; sequences are lists."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None and value not in ((), {})
        }

    def recipe_options(self) -> dict[str, Any]:
        """What is said of the recipe, by keywords of ``check_recipe_options``."""
        return {k: v for k, v in self.said().items() if k not in _BESIDE_THE_RECIPE}


def config_from(data: Mapping[str, Any]) -> FusionConfig:
    """The configuration that keys and values describe, lists and tables as a file has them.

    Raises ``UsageError`` naming the key that is wrong and what is allowed.
    """
    for key, value in data.items():
        _check(key, value)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
    }
    config = FusionConfig(**values)
    _check_together(config)
    return config


@dataclass(frozen=True, slots=True)
class _Key:
    """What a key may hold: its type in words and as a test, and a check of the value."""

    wanted: str
    fits: Callable[[Any], bool]
    check: Callable[[Any], object] = lambda _: None


def _check(key: str, value: Any) -> None:
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f'there is no key "{key}".{meant} The keys are {", ".join(_KEYS)}.')
    rule = _KEYS[key]
    if not rule.fits(value):
        raise UsageError(f"{key} is {value!r}; it must be {rule.wanted}.")
    try:
        rule.check(value)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None


def _check_together(config: FusionConfig) -> None:
    """Raise ``UsageError`` where keys that are right alone do not go together."""
    if config.strategy == MIXTURE:
        check_mixture_options(config.said())
    else:
        check_segments_options(config.said())
    if config.lead is not None:
        against = next((k for k in ("reranker", "weights") if getattr(config, k)), None)
        if against is not None:
            raise UsageError(f"lead and {against} exclude each other. A lead judges alone.")
    if config.models and config.names and len(config.models) != len(config.names):
        raise UsageError(
            f"names has {len(config.names)} entries for {len(config.models)} models. Give one each."
        )
    labels = config.names or tuple(Path(model).name for model in config.models)
    if not labels:
        return
    for key, named in (("weights", list(config.weights)), ("lead", [config.lead])):
        for name in named:
            if name is not None and name not in labels:
                raise UsageError(
                    f'{key} names "{name}", which is no source. They are {", ".join(labels)}.'
                )
    missing = [label for label in labels if config.weights and label not in config.weights]
    if missing:
        raise UsageError(f'weights has none for source "{missing[0]}". Give one to each.')


def _part(option: str) -> Callable[[Any], object]:
    return lambda value: make_recipe(**{option: value})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_number_or_text(value: object) -> bool:
    return _is_number(value) or _is_text(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count_or_text(value: object) -> bool:
    return _is_count(value) or _is_text(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_text, value))


def _are_weights(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(_is_number(weight) and weight > 0 for weight in value.values())


_KEYS: Final[Mapping[str, _Key]] = {
    "models": _Key("a list of folders or hub ids", _are_texts),
    "names": _Key("a list of distinct texts, one for each model", _are_texts, check_names),
    "preset": _Key("the name of a preset", _is_text, _part("preset")),
    "reranker": _Key("the name of a reranker", _is_text, _part("reranker")),
    "lead": _Key("the name of a source", _is_text),
    "boundary": _Key("the name of a boundary", _is_text, _part("boundary")),
    "end_rule": _Key("the name of an end rule", _is_text, _part("end_rule")),
    "gate": _Key("a number or the name of a gate", _is_number_or_text, _part("gate")),
    "budget": _Key("a whole number of contests or tokens(N)", _is_count_or_text, _part("budget")),
    "prior": _Key("prompt or prompt(TEMPERATURE)", _is_text, _part("prior")),
    "hedge": _Key("a number, 0 or above", _is_number, _part("hedge")),
    "num_samples": _Key("a whole number, at least 1", _is_count, _part("num_samples")),
    "scores": _Key("tokens or bytes", _is_text, _part("scores")),
    "strategy": _Key("segments or mixture", _is_text, strategy_named),
    "mixing": _Key("the name of a mixing rule", _is_text, mixing_named),
    "route": _Key("auto, tokens or bytes", _is_text, route_named),
    "weights": _Key("a table of source names with numbers above 0", _are_weights),
}
