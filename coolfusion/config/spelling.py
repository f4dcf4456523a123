"""Names that do not exist, and what was meant by them: one place for all interfaces.

Close misspellings are found by ``difflib``. Names that other libraries use are looked up.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Final, NamedTuple, ParamSpec, TypeVar

from coolfusion.errors import UnknownOptionError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Meaning(NamedTuple):
    """What a name of another library is called here, by likelihood, and what there is to know."""

    names: tuple[str, ...] = ()
    advice: str = ""


_BEAM = Meaning(
    ("n_best", "width"),
    "Several responses come from FusionModel.n_best, or from generate --n-best.",
)
_PENALTY = Meaning(
    (),
    "Penalties on tokens are not offered: sources with different tokens would not be judged alike.",
)
_LENGTH = Meaning(("max_new_tokens",), "It counts the tokens of the response, without the prompt.")
FOREIGN: Final[Mapping[str, Meaning]] = {
    "max_tokens": _LENGTH,
    "max_length": _LENGTH,
    "max_completion_tokens": _LENGTH,
    "stop_strings": Meaning(("stop",)),
    "stop_sequences": Meaning(("stop",)),
    "torch_dtype": Meaning(("dtype",)),
    "device_map": Meaning(("device",), "A source is on one device as a whole."),
    "num_return_sequences": _BEAM,
    "num_beams": _BEAM,
    "do_sample": Meaning(("temperature",), "Above 0 tokens are drawn; 0 is greedy."),
    "repetition_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "model_name_or_path": Meaning(("models",)),
}


def did_you_mean(name: str, allowed: Iterable[str] | Mapping[str, str]) -> str:
    """A sentence or two on what ``name`` may have meant, or "" where nothing comes to mind.

    ``allowed`` are the names that exist, or a mapping from names to how they are spelled.
    ``top_k`` and ``--top-k`` are one name.
    """
    known = allowed if isinstance(allowed, Mapping) else {each: each for each in allowed}
    spelled = {_plain(each): spelling for each, spelling in known.items()}
    meaning = FOREIGN.get(_plain(name))
    if meaning is None:
        near = difflib.get_close_matches(_plain(name), spelled, 1)
        return f"Did you mean {spelled[near[0]]}?" if near else ""
    here = next((each for each in meaning.names if each in spelled), None)
    if here is not None:
        return f"Did you mean {spelled[here]}? {meaning.advice}".rstrip()
    if meaning.names:
        return f"It is called {meaning.names[0]}, and is no option here. {meaning.advice}".rstrip()
    return meaning.advice


def unknown_option(what: str, name: str, allowed: Iterable[str]) -> UnknownOptionError:
    """The error for a name that does not exist; ``what`` says where, as in ``there is no key``."""
    names = list(allowed)
    hint = did_you_mean(name, names) or f"Choose from {', '.join(names)}."
    return UnknownOptionError(f'{what} "{name}". {hint}')


def checks_keywords(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """``function``, whose unknown keywords are an ``UnknownOptionError`` with a hint.

    The signature stays what it is for readers, ``inspect`` and type checkers.
    """
    keywords = [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        and each.name not in ("self", "cls")
    ]

    @wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for name in kwargs:
            if name not in keywords:
                raise unknown_option(f"{function.__name__} has no option", name, keywords)
        return function(*args, **kwargs)

    return checked


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
