"""Whether checkpoints can be merged, and the configuration and tensors of their merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coolfusion.errors import UsageError
from coolfusion.merging.architecture import architecture_of, full_settings, loaded_as, untied
from coolfusion.merging.checkpoint import Description, TensorInfo, setting, text_part

# All settings that differ are refused but these, which change no number that is computed from
# given tensors and token ids.
HARMLESS = frozenset(
    (
        # where a checkpoint comes from, and how it is stored and loaded
        *("_name_or_path", "name_or_path", "architectures", "auto_map", "transformers_version"),
        *("torch_dtype", "dtype", "tokenizer_class", "_commit_hash", "tie_word_embeddings"),
        *("attn_implementation", "_attn_implementation", "_experts_implementation"),
        *("cache_implementation", "quantization_config", "unsloth_fixed", "unsloth_version"),
        # what is returned, and how texts begin and end
        *("id2label", "label2id", "num_labels"),
        *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript"),
        *("output_router_logits", "output_logits", "bos_token_id", "eos_token_id", "pad_token_id"),
        *("sep_token_id", "cls_token_id", "unk_token_id", "decoder_start_token_id"),
        *("forced_bos_token_id", "forced_eos_token_id", "task_specific_params", "prefix"),
        # training
        *("initializer_range", "initializer_factor", "init_std", "problem_type"),
        *("aux_loss_coef", "router_aux_loss_coef", "router_z_loss_coef", "pretraining_tp"),
        *("gradient_checkpointing", "finetuning_task", "chunk_size_feed_forward"),
        # what tensors say by their shapes
        "vocab_size",
    )
)
HARMLESS_PARTS = ("dropout", "pdrop", "layerdrop", "drop_path")  # training, too
# The longest length that a model was made for. Where rotary positions are computed from it, it
# counts; where positions are learned, their matrix has that many rows.
LENGTHS = frozenset(
    (
        *("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"),
        *("max_sequence_length", "model_max_length"),
    )
)
LENGTH_FREE_ROPE = ("default", "linear", "llama3")


def agree(descriptions: Sequence[Description], label: str) -> Description:
    """The description of a merge, with the configuration and the types of the first checkpoint.

    Raises ``UsageError`` with the first setting, tensor, shape or token that differs between the
    first checkpoint and another.
    """
    first, *others = descriptions
    for other in others:
        _check_kind(first, other)
        _check_vocabulary(first, other)
        _check_settings(first, other)
    ties = {
        name: source
        for name, source in first.ties.items()
        if all(name in about.ties for about in others)
    }
    stored = dict.fromkeys(name for about in descriptions for name in about.infos)
    held = {loaded_as(first.config, name) for name in stored}
    untied_here = (name for about in descriptions for name in about.ties if name not in ties)
    names = dict.fromkeys((*stored, *(name for name in untied_here if name not in held)))
    return Description(
        label=label,
        config=untied(first.config, names) if not ties else first.config,
        infos={name: _info(name, descriptions) for name in names},
        ties=ties,
        vocabulary=max((about.vocabulary for about in descriptions), key=len),
        tokenizer_folder=max(descriptions, key=lambda a: len(a.vocabulary)).tokenizer_folder,
        files=tuple(dict.fromkeys(file for about in descriptions for file in about.files)),
    )


def with_own_tensors(about: Description) -> Description:
    """A checkpoint in which every tied tensor, such as the head, is one of its own."""
    infos = {name: about.infos[source] for name, source in about.ties.items()}
    infos = {**about.infos, **infos}
    return replace(about, config=untied(about.config, infos), infos=infos, ties={})


def resized(about: Description, new: Mapping[str, tuple[int, ...]]) -> Description:
    """A checkpoint for another number of tokens, if ``new`` has all tensors with a row per token.

    ``new`` has the shapes of tensors that are replaced. Otherwise the same description.
    """
    changed = {name: shape for name, shape in new.items() if name in about.infos and shape}
    sizes = {shape[0] for name, shape in changed.items() if shape != about.infos[name].shape}
    if len(sizes) != 1:
        return about
    size, part = {"vocab_size": sizes.pop()}, text_part(about.config)
    nested = {"text_config": {**part, **size}} if "vocab_size" in part else size
    config = {**about.config, **nested}
    before, after = architecture_of(about.config), architecture_of(config)
    if before is None or after is None:
        return about
    names = {name: before.loads_as(name) for name in about.infos}
    grown = {
        name: replace(about.infos[name], shape=after.shapes[loaded])
        for name, loaded in names.items()
        if before.shapes.get(loaded) == about.infos[name].shape != after.shapes.get(loaded)
    }
    if not grown or any(new.get(name) != info.shape for name, info in grown.items()):
        return about
    return replace(about, config=config, infos={**about.infos, **grown})


def name_in(about: Description, name: str) -> str | None:
    """The tensor used as ``name``: itself, or the one that it is tied to; None if missing."""
    if name in about.infos or not about.ties:
        return name if name in about.infos else None
    return about.ties.get(loaded_as(about.config, name))


def _info(name: str, descriptions: Sequence[Description]) -> TensorInfo:
    """Type and shape of a tensor in the first checkpoint that has it; all others must agree."""
    owners = [about for about in descriptions if name in about.infos]
    owner = (owners or [about for about in descriptions if name in about.ties])[0]
    wanted = owner.infos[name if owners else owner.ties[name]]
    for about in descriptions:
        found = name_in(about, name)
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


def _check_kind(first: Description, other: Description) -> None:
    ours, theirs = (about.config.get("model_type") for about in (first, other))
    if ours != theirs:
        raise UsageError(
            f'The config.json of "{first.label}" has model_type = {ours!r}, that of "{other.label}" {theirs!r}. '
            "The same tensors mean different things there; merge checkpoints of one architecture."
        )


def _check_settings(first: Description, other: Description) -> None:
    found = list(differences(first.config, other.config))
    if not found:
        return
    said = ", ".join(
        f"{key} = {_short(ours)} against {_short(theirs)}" for key, ours, theirs in found[:5]
    )
    more = f", and {len(found) - 5} more" if len(found) > 5 else ""
    raise UsageError(
        f'The config.json of "{first.label}" has other settings than that of "{other.label}": {said}{more}. '
        "The same tensors mean different things there; merge checkpoints of one architecture. If you know better, "
        "make the configurations agree."
    )


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Every setting that differs and may change what tensors mean, with both values.

    Defaults count: a setting may be missing on one side (None). Settings of nested
    configurations are named with dots.
    """
    if ours == theirs:
        return
    one, other = full_settings(ours), full_settings(theirs)
    if one is None or other is None:
        one, other = dict(ours), dict(theirs)
    spared = HARMLESS | LENGTHS if all(map(_positions_are_relative, (one, other))) else HARMLESS
    yield from _differences("", one, other, spared)


def _differences(
    place: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], spared: frozenset[str]
) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys((*ours, *theirs)):
        one, other = ours.get(key), theirs.get(key)
        if key in spared or any(part in key for part in HARMLESS_PARTS) or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(f"{place}{key}.", one, other, spared)
        else:
            yield place + key, one, other


def _positions_are_relative(settings: Mapping[str, Any]) -> bool:
    """Whether the longest length is no part of any formula for rotary positions."""
    kinds = (settings.get("rope_type"), settings.get("type"))
    return all(kind is None or kind in LENGTH_FREE_ROPE for kind in kinds) and all(
        _positions_are_relative(part) for part in settings.values() if isinstance(part, Mapping)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


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
