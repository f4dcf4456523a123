"""Whether checkpoints can be merged, and the configuration and tensors of their merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coolfusion.errors import UsageError
from coolfusion.merging.checkpoint import Description, TensorInfo, setting

# Settings that change what a tensor means without changing its shape.
MEANING = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "n_head",
    "num_heads",
    "head_dim",
    "hidden_act",
    "activation_function",
    "rope_theta",
)


def agree(descriptions: Sequence[Description], label: str) -> Description:
    """The description of a merge, with the configuration and the types of the first checkpoint.

    Raises ``UsageError`` with the first setting, tensor, shape or token that differs between the
    first checkpoint and another.
    """
    first, *others = descriptions
    for other in others:
        _check_config(first, other)
        _check_vocabulary(first, other)
    names = dict.fromkeys(name for about in descriptions for name in about.infos)
    infos = {name: _info(name, descriptions) for name in names}
    tied = first.tied if all(about.tied for about in descriptions) else None
    was_tied = any(about.tied for about in descriptions)
    return Description(
        label=label,
        config=_untied(first.config) if was_tied and not tied else first.config,
        infos=infos,
        tied=tied,
        vocabulary=max((about.vocabulary for about in descriptions), key=len),
        tokenizer_folder=max(descriptions, key=lambda a: len(a.vocabulary)).tokenizer_folder,
        files=tuple(dict.fromkeys(file for about in descriptions for file in about.files)),
    )


def name_in(about: Description, name: str, infos: Mapping[str, TensorInfo]) -> str | None:
    """The tensor used as ``name``: itself, or the embedding for a tied head; None if missing."""
    if name in about.infos:
        return name
    if about.tied is not None and about.infos[about.tied].shape == infos[name].shape:
        return about.tied
    return None


def _info(name: str, descriptions: Sequence[Description]) -> TensorInfo:
    """Type and shape of a tensor in the first checkpoint that has it; all others must agree."""
    owner = next(about for about in descriptions if name in about.infos)
    wanted = owner.infos[name]
    for about in descriptions:
        found = name_in(about, name, owner.infos)
        if found is None:
            raise UsageError(
                f'Tensor "{name}" of "{owner.label}" is missing from "{about.label}", so there is nothing to merge '
                "it with. If the model does not need it (a buffer), ignore it; else these are different architectures."
            )
        info = about.infos[found]
        if info.shape != wanted.shape:
            raise UsageError(
                f'Tensor "{name}" is {list(wanted.shape)} in "{owner.label}" and {list(info.shape)} in '
                f'"{about.label}". Merging goes number by number; use checkpoints of one architecture and vocabulary.'
            )
        if info.dtype.is_floating_point != wanted.dtype.is_floating_point:
            raise UsageError(
                f'Tensor "{name}" is {wanted.dtype} in "{owner.label}" and {info.dtype} in "{about.label}". '
                "Whole numbers and fractions cannot be merged; use checkpoints of one kind."
            )
    return wanted


def _check_config(first: Description, other: Description) -> None:
    for key in MEANING:
        ours, theirs = _setting(first.config, key), _setting(other.config, key)
        if ours is not None and theirs is not None and ours != theirs:
            raise UsageError(
                f'The config.json of "{first.label}" has {key} = {ours!r}, that of "{other.label}" {theirs!r}. '
                "The same tensors mean different things there; merge checkpoints of one architecture."
            )


def _check_vocabulary(first: Description, other: Description) -> None:
    conflict = next(
        (
            number
            for number, token in first.vocabulary.items()
            if other.vocabulary.get(number, token) != token
        ),
        None,
    )
    if conflict is None:
        return
    size = setting(first.config, "vocab_size")
    matrix = next((name for name, info in first.infos.items() if info.shape[:1] == (size,)), "?")
    raise UsageError(
        f'Row {conflict} of tensor "{matrix}" belongs to the token {first.vocabulary[conflict]!r} in '
        f'"{first.label}" and to {other.vocabulary[conflict]!r} in "{other.label}". Weights of different '
        "vocabularies cannot be merged; fuse the models as they decode instead."
    )


def _setting(config: Mapping[str, Any], key: str) -> Any:
    """A setting, under the place that any version of transformers stores it in."""
    rope = setting(config, "rope_parameters")
    found = setting(config, key)
    return rope.get(key) if found is None and isinstance(rope, Mapping) else found


def _untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose output head is a tensor of its own."""
    changed = {**config, "tie_word_embeddings": False}
    if "tie_word_embeddings" in (config.get("text_config") or {}):
        changed["text_config"] = {**config["text_config"], "tie_word_embeddings": False}
    return changed
