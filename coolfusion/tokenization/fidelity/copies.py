"""Copies of a tokenizer that share its model, which is nearly all of it.

A model of 262,144 tokens is 33 MB of JSON. To write and read that takes long, and each copy
holds all of it again. So a copy is put together of the parts of the original, and only differs where it must.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from coolfusion.tokenization.token_bytes import decoded_by


def copy_of(
    tokenizer: tokenizers.Tokenizer,
    added: Iterable[AddedToken] | None = None,
    model: Any = None,
) -> tokenizers.Tokenizer:
    """A copy without truncation and padding, with other ``added`` tokens or another ``model``.

    None: those of ``tokenizer``, with which it shares its model.
    """
    made = tokenizers.Tokenizer(tokenizer.model if model is None else model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(tokenizer, part)) is not None:
            setattr(made, part, value)
    # Subtle: tokens that the model lacks are numbered as they are added, so in the order of ids.
    made.add_tokens(added_tokens(tokenizer) if added is None else list(added))
    made.encode_special_tokens = tokenizer.encode_special_tokens
    return made


def added_tokens(tokenizer: tokenizers.Tokenizer) -> list[AddedToken]:
    """The added tokens of a tokenizer in the order of their ids."""
    return [token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]


def faithful_copy(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that gives each text its own ids.

    It keeps the names of special tokens as text. Other added tokens take no white space with
    them, and are found in the text as it stands. Merges are never dropped at random.

    Some added tokens are tokens of the model, too, which makes them of other text. In Gemma 2 and
    3 the runs of word marks stand for runs of spaces. Their names in a text are no tokens.
    """
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    decoded = decoded_by(tokenizer.decoder)([token.content for _, token in added])
    of_model = tokenizer.model.token_to_id
    own = [
        token if token.special else _alone(token, tokenizer.normalizer)
        for (token_id, token), piece in zip(added, decoded, strict=True)
        if token.special
        or of_model(token.content) != token_id
        or piece == token.content.encode("utf-8")
    ]
    made = copy_of(tokenizer, own, _repeatable(tokenizer.model))
    made.encode_special_tokens = True
    return made


def without_names(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that finds no added tokens in a text."""
    # Names of special tokens are kept as text.
    made = copy_of(tokenizer, [_changed(token, special=True) for token in added_tokens(tokenizer)])
    made.encode_special_tokens = True
    return made


def _alone(token: AddedToken, normalizer: Any) -> AddedToken:
    """An added token that stands for its own text alone."""
    # A normaliser that puts a word mark before each text does so to the token, too. It then
    # stands for the space before it as well, and nothing spells that.
    moved = token.normalized and normalizer is not None
    moved = moved and normalizer.normalize_str(token.content) != token.content
    return _changed(token, lstrip=False, rstrip=False, normalized=token.normalized and not moved)


def _changed(token: AddedToken, **flags: bool) -> AddedToken:
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(token.content, **{name: getattr(token, name) for name in names} | flags)


def _repeatable(model: Any) -> Any:
    """The model, or one that encodes equal texts in one way, wherever they stand."""
    if isinstance(model, models.Unigram):
        return _with_exact_sums(model)
    if getattr(model, "dropout", None):
        model = copy.deepcopy(model)
        model.dropout = None
    return model


def _with_exact_sums(model: models.Unigram) -> models.Unigram:
    """A Unigram model in which sums of scores are exact.

    Such a model adds scores from the beginning of a text. Where two ways to cut it are equally
    good, as in a run of one character, the rounding of all before would decide between them.
    """
    # Multiples of 2**-24 are as fine as the scores' own type (float32). Their sums have 29 of
    # a double's 53 bits left for the whole part, enough for 10 million tokens. JSON would
    # round them again.
    written = json.loads(model.__getstate__())
    vocabulary = [(name, round(score * 2**24) / 2**24) for name, score in written["vocab"]]
    return models.Unigram(vocabulary, written["unk_id"], written.get("byte_fallback", False))
