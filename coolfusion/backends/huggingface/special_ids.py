"""Special ids as the files of a checkpoint name them: one reading, or one clear error.

Files hold them in many shapes. An id is a whole number, and null names none. A list names several.
Ids without a row in the model are left out, since it can never draw them. So are -1 and ids of
another variant. Everything else is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coolfusion.errors import LoadError


def ids_named(value: Any, size: int, what: str) -> frozenset[int]:
    """The ids below ``size`` that a setting names; ``what`` says where it stands.

    An id may be the id of an ordinary piece of text: it then ends a response where it is drawn.
    Raises ``LoadError`` for a value that is neither a whole number, nor a flat list of them.
    """
    if value is None:
        return frozenset()
    values = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, int):
            raise LoadError(
                f"{what} is {value!r}. An id is a whole number, and several ids are a flat list of "
                f"them, but {each!r} is a {type(each).__name__}. Write the number of the token "
                "there, or null."
            )
    return frozenset(each for each in values if 0 <= each < size)


def id_named(value: Any, size: int, what: str) -> int | None:
    """The one id below ``size`` that a setting names, or None. Raises ``LoadError`` for several."""
    found = ids_named(value, size, what)
    if len(found) > 1:
        raise LoadError(f"{what} is {value!r}, but only one id can stand there. Choose one.")
    return next(iter(found), None)


def end_ids_of(model: Any, size: int, *others: tuple[str, Any]) -> frozenset[int]:
    """Every end id below ``size`` that any file of a model names, and those of ``others``.

    ``others`` are pairs of a place and a value. Raises ``LoadError`` as ``ids_named`` does.
    """
    files = [(where, getattr(each, "eos_token_id", None)) for where, each in _settings(model)]
    found = [ids_named(value, size, f"eos_token_id of {where}") for where, value in files]
    return frozenset().union(*found, *(ids_named(v, size, what) for what, v in others))


def first_named(model: Any, size: int, name: str) -> int | None:
    """The id of a name in the first file of a model that has one. Raises ``LoadError``."""
    for where, settings in _settings(model):
        found = id_named(getattr(settings, name, None), size, f"{name} of {where}")
        if found is not None:
            return found
    return None


def _settings(model: Any) -> Iterable[tuple[str, Any]]:
    """The settings of a model that may name ids, the most important first, by their files."""
    yield "generation_config.json", getattr(model, "generation_config", None)
    yield "config.json", model.config
    yield "text_config in config.json", model.config.get_text_config(decoder=True)
