"""A tokenizer whose added tokens have names that nobody types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers

from coolfusion.tokenization.token_bytes import unknown_id


class Renamed:
    """A copy of ``tokenizer`` in which each added token is a private code point, from ``first`` on.

    A name that is typed is ordinary text to it. Only names differ from the original. So white space
    that a token takes in, the normalizer and the beginning of each part work as there.
    ``control`` are ids that the model itself must not make of text. ``names`` are the new names by
    id, and ``unknown`` is the id of what the model does not know.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, first: int, control: Iterable[int]) -> None:
        spec = json.loads(tokenizer.to_str())
        spec["truncation"] = spec["padding"] = None
        self.names = {added["id"]: chr(first + k) for k, added in enumerate(spec["added_tokens"])}
        hidden = {
            added["content"]: self.names[added["id"]]
            for added in spec["added_tokens"]
            if added["id"] in control
        }
        for added in spec["added_tokens"]:
            added["content"] = self.names[added["id"]]
        spec["post_processor"] = None  # it adds special tokens only, which a chat has already
        self.unknown = unknown_id(tokenizer)
        spec["model"] = _without(spec["model"], hidden)
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
        self._ids = {
            self._tokenizer.token_to_id(name): token_id for token_id, name in self.names.items()
        }

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` in the original's numbers."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return tuple(self._ids.get(token_id, token_id) for token_id in ids)


def _without(model: dict[str, Any], hidden: Mapping[str, str]) -> dict[str, Any]:
    """The model with the entries of ``hidden`` under their other names, so no text matches them."""
    hidden = {name: other for name, other in hidden.items() if len(name) > 1}
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return {**model, "vocab": [[hidden.get(name, name), score] for name, score in vocab]}
    changed = {**model, "vocab": {hidden.get(name, name): token for name, token in vocab.items()}}
    if model.get("unk_token") in hidden:
        changed["unk_token"] = hidden[model["unk_token"]]
    if model.get("merges"):
        changed["merges"] = [merge for merge in model["merges"] if not _makes(merge, hidden)]
    return changed


def _makes(merge: str | list[str], hidden: Mapping[str, str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in hidden or right in hidden or left + right in hidden
