"""The check that a type stands for: of its classes, and of what is in lists and mappings.

Lists become tuples where tuples are meant. The items of an iterator are checked as they are taken.
"""

from __future__ import annotations

import builtins
import os
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np

from coolfusion.checks.values import (
    Check,
    CheckedItems,
    Unfit,
    anything,
    array,
    count,
    flag,
    function,
    none,
    number,
    path_like,
    raw_bytes,
    text,
)
from coolfusion.documents import shown


def hints_of(what: Any) -> dict[str, Any]:
    """The types of a function's arguments or a class's fields; a name for type checkers alone is unknown."""
    module = sys.modules.get(what.__module__)
    names = _Names(vars(module) if module else {})
    return get_type_hints(what, globalns=getattr(what, "__globals__", None), localns=names)


class _Unknown:
    """A name that only type checkers know; nothing is asked of its values."""

    def __class_getitem__(cls, _: object) -> type[_Unknown]:
        return cls


class _Names(dict[str, Any]):
    """The names of a module, in which a missing one is ``_Unknown``."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, _Unknown)


def check_for(hint: Any) -> Check:
    """The check of a type. It gives the value as a function takes it, or raises ``Unfit``."""
    hint = hint.__bound__ or Any if isinstance(hint, TypeVar) else hint
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _either(inner)
    if origin is Literal:
        return _one_of(inner)
    if hint in _PLAIN:
        return _PLAIN[hint]
    kind = origin if isinstance(origin, type) else hint
    if kind is np.ndarray:
        return array
    if is_typeddict(kind):
        return _mapping(Any, Any)
    if not isinstance(kind, type):
        return anything
    if kind is get_origin(Check):
        return function
    if issubclass(kind, os.PathLike):
        return path_like
    if issubclass(kind, Mapping):
        return _mapping(*(inner or (Any, Any)))
    if issubclass(kind, Set):
        return _iterable(kind, inner)
    if issubclass(kind, Sequence):
        return _sequence(kind, inner)
    if kind is Iterable:
        return _iterable(kind, inner)
    return anything if kind in (object, _Unknown) else _instance(kind)


def _instance(kind: type) -> Check:
    if not getattr(kind, "_is_protocol", False):

        def of_class(value: object) -> object:
            if not isinstance(value, kind):
                raise Unfit(value, _called(kind))
            return value

        return of_class
    names = sorted(_members(kind))

    def of_protocol(value: object) -> object:
        # Looked for in the class first, as a property may cost something.
        missing = [n for n in names if not (hasattr(type(value), n) or hasattr(value, n))]
        if missing or isinstance(value, type):
            lacks = f", and has no {missing[0]}" if missing else ""
            raise Unfit(value, f"{_called(kind)}{lacks}")
        return value

    return of_protocol


def _members(protocol: type) -> set[str]:
    """What an object must have to be of a protocol."""
    found: set[str] = set()
    for each in protocol.__mro__[:-1]:
        if getattr(each, "_is_protocol", False) and each.__name__ not in ("Protocol", "Generic"):
            found |= {*vars(each), *getattr(each, "__annotations__", {})}
    return {name for name in found if not name.startswith("_")}


def _either(kinds: Sequence[Any]) -> Check:
    checks = [check_for(kind) for kind in kinds]
    if any(check is anything for check in checks):
        return anything
    if path_like in checks:  # a text beside a path is one, too
        checks = [check for check in checks if check is not text]

    def either(value: object) -> object:
        unfit: list[Unfit] = []
        for check in checks:
            try:
                return check(value)
            except Unfit as error:
                unfit.append(error)
        deepest = max(unfit, key=lambda each: len(each.at))
        if deepest.at:
            raise deepest
        raise Unfit(value, " or ".join(dict.fromkeys(each.wanted for each in unfit)))

    return either


def _one_of(allowed: Sequence[object]) -> Check:
    def one_of(value: object) -> object:
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise Unfit(value, " or ".join(map(repr, allowed)))
        return value

    return one_of


def _mapping(keys: Any, values: Any) -> Check:
    key_fits, value_fits = check_for(keys), check_for(values)

    def mapping(value: object) -> object:
        if not isinstance(value, Mapping):
            raise Unfit(value, "a mapping")
        fit = {
            _at(": a key", key, key_fits): _at(f"[{shown(key)}]", each, value_fits)
            for key, each in value.items()
        }
        return fit if any(fit[key] is not value[key] for key in fit) else value

    return mapping


def _sequence(kind: type, inner: Sequence[Any]) -> Check:
    wants_tuple = issubclass(kind, tuple)
    if wants_tuple and not (len(inner) == 2 and inner[1] is ...):
        return _instance(tuple)  # a tuple of fixed places, or one with names
    fits = check_for(inner[0] if inner else Any)
    wanted = "a list or tuple"

    def sequence(value: object) -> object:
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Sequence):
            raise Unfit(value, wanted)
        fit = [_at(f"[{index}]", each, fits) for index, each in enumerate(value)]
        if wants_tuple:
            return value if type(value) is tuple and _same(fit, value) else tuple(fit)
        return value if _same(fit, value) else fit

    return sequence


def _iterable(kind: type, inner: Sequence[Any]) -> Check:
    fits = check_for(inner[0] if inner else Any)
    wanted = "a set" if issubclass(kind, Set) else "a list or tuple, or what gives items in turn"

    def iterable(value: object) -> object:
        if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, kind):
            raise Unfit(value, wanted)
        if isinstance(value, np.ndarray):
            value = list(value) if value.ndim else [value]
        if isinstance(value, Iterator):
            return CheckedItems(value, fits)
        try:
            items = iter(value)  # type: ignore[call-overload]
        except TypeError:  # a tensor without dimensions can be asked for items, and has none
            raise Unfit(value, wanted) from None
        for index, each in enumerate(items):
            _at(f"[{index}]", each, fits)
        return value

    return iterable


def _at(place: str, value: object, check: Check) -> object:
    """The value as ``check`` gives it; one that is unfit is said to be at ``place``."""
    try:
        return check(value)
    except Unfit as error:
        raise Unfit(error.value, error.wanted, place + error.at) from None


def _same(fit: Sequence[object], value: Sequence[object]) -> bool:
    return all(one is other for one, other in zip(fit, value, strict=True))


def _called(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


_PLAIN: Mapping[Any, Check] = {
    Any: anything,
    object: anything,
    None: none,
    type(None): none,
    bool: flag,
    int: count,
    float: number,
    str: text,
    bytes: raw_bytes,
    ...: anything,
}
