"""Names that do not exist, and what was meant by them: one place for all interfaces.

Close misspellings are found by ``difflib``. Names that other libraries use are looked up.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from coolfusion.errors import UnknownOptionError


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
        near = difflib.get_close_matches(_plain(name), [*spelled, *FOREIGN], 1)
        if not near or near[0] in spelled:
            return f"Did you mean {spelled[near[0]]}?" if near else ""
        meaning = FOREIGN[near[0]]
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


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
