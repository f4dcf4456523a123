"""What transformers' own code says of a configuration: settings in full, ties, layouts.

Names and shapes of tensors do not tell these apart. So the model class is built on torch's meta
device, where it holds no numbers. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
import transformers
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from coolfusion.merging.checkpoint import text_part

TIE = "tie_word_embeddings"
# More layers or experts than any model has would take forever to build, and their types to list.
MOST_PARTS = 1000
PARTS = re.compile(r"layers|experts|^n_layer$")
# Modules of transformers that read settings on behalf of all models.
SHARED_CODE = ("masking_utils", "cache_utils", "modeling_rope_utils")
# The usual names, for configurations that transformers has no class for.
EMBEDDINGS = frozenset(("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in"))
HEADS = frozenset(("lm_head", "embed_out", "output"))


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model class with a configuration, without numbers.

    ``shapes`` are those of its tensors. ``loads_as`` names the one that a stored tensor becomes.
    ``ties`` maps a tensor to the one that is used in its place. ``transposed`` matrices are stored
    as (inputs, outputs). ``reads_tie``: what the class computes depends on the setting itself.
    """

    shapes: Mapping[str, tuple[int, ...]]
    loads_as: Callable[[str], str]
    ties: Mapping[str, str]
    transposed: frozenset[str]
    reads_tie: bool


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """What the class of a configuration declares, or None if transformers has none for it."""
    return _architecture(json.dumps(config, sort_keys=True, default=str))


def loaded_as(config: Mapping[str, Any], name: str) -> str:
    """The name of a stored tensor in the class; where there is no class, the same name."""
    known = architecture_of(config)
    return name if known is None else known.loads_as(name)


def full_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A configuration with defaults filled in and old spellings replaced, as the class reads it.

    Settings that the class neither declares nor names in its code are left out. None if
    transformers has no class for it.
    """
    text = json.dumps(config, sort_keys=True, default=str)
    loaded = _config(text)
    found = None if loaded is None else _settings(loaded, _code(_class_of(loaded)))
    return None if found is None else json.loads(json.dumps(found, default=str))


def untied(config: Mapping[str, Any], stored: Collection[str]) -> Mapping[str, Any]:
    """The configuration of a checkpoint that stores tied tensors as tensors of their own.

    It says so if its class computes the same with that setting. Else it stays: transformers ties
    no tensors that are stored and differ.
    """
    changed = {**config, TIE: False}
    if TIE in text_part(config):
        changed["text_config"] = {**text_part(config), TIE: False}
    before, after = architecture_of(config), architecture_of(changed)
    if before is None or after is None:
        return config if usual_tie(config, stored) == {} else changed
    if not set(before.ties) & set(map(before.loads_as, stored)):
        return config
    same = _without_tie(full_settings(config)) == _without_tie(full_settings(changed))
    return changed if same and not after.ties and not before.reads_tie else config


def usual_tie(config: Mapping[str, Any], stored: Collection[str]) -> dict[str, str]:
    """The tie of a configuration without a class, from the usual names of heads and embeddings."""
    if config.get(TIE) is False or text_part(config).get(TIE) is False:
        return {}
    heads = [name for name in stored if _module(name) in HEADS]
    embeddings = [name for name in stored if _module(name) in EMBEDDINGS]
    if len(embeddings) != 1 or len(heads) > 1:
        return {}
    return {heads[0] if heads else "lm_head.weight": embeddings[0]}


def _without_tie(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {key: _without_tie(value) for key, value in settings.items() if key != TIE}


def _module(name: str) -> str | None:
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 and parts[-1] == "weight" else None


@lru_cache(maxsize=64)
def _architecture(text: str) -> Architecture | None:
    loaded = _config(text)
    kind = None if loaded is None else _class_of(loaded)
    if kind is None or _most_parts(loaded.to_dict()) > MOST_PARTS:
        return None
    with _quiet():
        try:
            with torch.device("meta"):
                model = kind(copy.deepcopy(loaded))  # classes change what they are given
            modules = [name for name, each in model.named_modules() if isinstance(each, Conv1D)]
            return Architecture(
                shapes={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
                loads_as=_renaming(model),
                ties=dict(model.all_tied_weights_keys),
                transposed=frozenset(f"{name}.weight" for name in modules),
                reads_tie=TIE in inspect.getsource(kind.forward),
            )
        except Exception:  # a configuration that its own class cannot be built from
            return None


def _renaming(model: Any) -> Callable[[str], str]:
    """What transformers makes of the names in a checkpoint, old ones and shortened ones included."""
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    names = model.state_dict()

    def loads_as(name: str) -> str:
        start = (model.base_model_prefix, names)
        found, converted = rename_source_key(name, renamings, converters, *start)
        if found not in names and name in names:
            found, converted = rename_source_key(name, [], [], *start)
        return name if converted is not None else found  # a part of a tensor is none

    return loads_as


def _most_parts(settings: Mapping[str, Any]) -> int:
    """The largest number of layers or experts that settings name, nested ones included."""
    inside = (_most_parts(value) for value in settings.values() if isinstance(value, dict))
    numbers = (value for key, value in settings.items() if PARTS.search(str(key)))
    return max((*inside, *(n for n in numbers if isinstance(n, int))), default=0)


@lru_cache(maxsize=64)
def _config(text: str) -> Any:
    """The configuration as an object of its class, or None."""
    config = json.loads(text)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        return None
    if _most_parts(config) > MOST_PARTS:
        return None
    if not config.get("quantization_config"):
        config.pop("quantization_config", None)  # the classes do not accept an empty one
    with _quiet():
        try:
            return transformers.CONFIG_MAPPING[kind].from_dict(config)
        except Exception:  # values that the class does not accept
            return None


def _class_of(config: Any) -> Any:
    """The model class that a configuration names, or the one that makes text, or None."""
    named = getattr(config, "architectures", None)
    for name in named if isinstance(named, (list, tuple)) else ():
        kind = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            return kind
    sides = transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    for mapping in (
        sides if getattr(config, "is_encoder_decoder", False) else causal,
        transformers.MODEL_MAPPING,
    ):
        if type(config) in mapping:
            kind = mapping[type(config)]
            return kind[0] if isinstance(kind, tuple) else kind
    return None


def _settings(config: Any, code: str) -> dict[str, Any]:
    values = config.to_dict()
    declared = (
        {field.name for field in dataclasses.fields(config)}
        if dataclasses.is_dataclass(config)
        else set(values)
    )
    found = {}
    for key, value in values.items():
        part = vars(config).get(key)
        if hasattr(part, "to_dict") and isinstance(value, dict):
            found[key] = _settings(part, code)
        elif key in declared or key == "model_type" or re.search(rf"\b{re.escape(key)}\b", code):
            found[key] = _without_old_names(value)
    if found.get("layer_types") is not None:
        found.pop("max_window_layers", None)  # it only says what the types of layers are
    return found


def _without_old_names(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_old_names(part) for key, part in value.items()}
    if "rope_type" in kept:
        kept.pop("type", None)  # older configurations say it twice
    return kept


@cache
def _code(kind: Any) -> str:
    """The source of a model class and of what all models share; empty without a class."""
    if kind is None:
        return ""
    modules = [sys.modules[kind.__module__]]
    modules += [getattr(transformers, name) for name in SHARED_CODE]
    return "\n".join(inspect.getsource(module) for module in modules)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' remarks about configurations: they are not what is asked for."""
    logging = transformers.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)
