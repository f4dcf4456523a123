"""The settings of a LoRA adapter in peft's layout: which are applied, and what else is refused.

The scale s of s B A is alpha / r (arXiv 2106.09685, section 4.1), or alpha / sqrt(r) for
rank-stabilised adapters (arXiv 2312.03732).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coolfusion.documents import shown
from coolfusion.errors import LoadError

# Settings that are applied here, or that the adapter's tensors already show. Whatever else is set
# is refused by its name, since nobody can know what a setting means that peft may add one day.
APPLIED = frozenset(
    (
        *("peft_type", "lora_alpha", "alpha_pattern", "use_rslora", "r", "rank_pattern"),
        *("fan_in_fan_out", "lora_bias", "bias", "init_lora_weights", "ensure_weight_tying"),
        *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"),
        "layers_pattern",
    )
)
# Settings of training, of where things are, or of variants that other settings switch on.
IDLE = frozenset(
    (
        *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version"),
        *("inference_mode", "lora_dropout", "runtime_config", "megatron_core", "loftq_config"),
        *("qalora_group_size", "eva_config", "corda_config", "lora_ga_config"),
    )
)
# Ways to begin that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take
# the first B A out of the base, so that what was trained does not belong to the stored base.
PLAIN_STARTS = (None, True, False, "true", "false", "gaussian", "eva", "orthogonal", "mica")

# What makes a pattern slow: repeats of what repeats, and many repeats in a row.
REPEATED_GROUP = re.compile(r"\)[*+{]")
REPEAT = re.compile(r"[*+{]")
MOST_REPEATS = 4
# The types of settings that are applied. Text such as "false" would count as true.
SWITCHES = ("use_rslora", "fan_in_fan_out", "lora_bias", "ensure_weight_tying")


def check_settings(path: str | Path, config: Mapping[str, Any]) -> None:
    """Raise ``LoadError`` for a setting whose result is not W + s B A, or is not known."""
    if config.get("peft_type") != "LORA":
        raise LoadError(
            f'The adapter "{path}" is of peft_type {config.get("peft_type")!r}; only LORA is a sum of '
            "low-rank matrices. Bake it into its checkpoint with peft first."
        )
    for key in SWITCHES:
        if not isinstance(config.get(key), (bool, type(None))):
            raise _wrong(path, key, config[key], "true or false")
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise _wrong(path, "modules_to_save", saved, "a list of names")
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        raise LoadError(
            f'The adapter "{path}" has init_lora_weights = {start!r}, which may change the checkpoint that B A is '
            "added to. Convert it with peft (save_pretrained with path_initial_model_for_weight_conversion), or bake "
            "it into its checkpoint with peft first."
        )
    known = APPLIED | IDLE
    used = next((key for key, value in config.items() if value and key not in known), None)
    if used is not None:
        raise LoadError(
            f'The adapter "{path}" uses {used} = {str(config[used])[:80]}, which is more than a low-rank sum or is '
            "not known here. Bake it into its checkpoint with peft first."
        )


def check_targeted(path: str | Path, module: str, config: Mapping[str, Any]) -> None:
    """Raise ``LoadError`` if lists of modules in the settings leave out a module that has matrices.

    peft would not load them. Regular expressions and "all-linear" are not looked at.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    for key, value, is_wrong in (
        ("target_modules", targets, isinstance(targets, list) and not _ends(module, targets)),
        ("exclude_modules", excluded, isinstance(excluded, list) and _ends(module, excluded)),
    ):
        if is_wrong:
            raise LoadError(
                f'The adapter "{path}" has matrices for "{module}", which its {key} = {shown(value)} leave out; peft '
                "would not load them. Fetch the adapter again."
            )


def scale_of(path: str | Path, module: str, rank: int, config: Mapping[str, Any]) -> float:
    """The scale of a module's low-rank sum, as peft computes it from the settings.

    Raises ``LoadError`` for settings that give none, or another rank than the matrices have.
    """
    alpha = _by_module(path, "alpha_pattern", module, config, config.get("lora_alpha"))
    if not _is_finite(alpha) or rank == 0:
        raise LoadError(
            f'The adapter "{path}" has lora_alpha = {shown(alpha)} and rank {rank} for "{module}", which is no scale. '
            "Fetch the adapter again."
        )
    said = _by_module(path, "rank_pattern", module, config, config.get("r", rank))
    if isinstance(said, bool) or said != rank:
        raise LoadError(
            f'The adapter "{path}" has r = {shown(said)} for "{module}" in its settings, and its matrices have rank {rank}; '
            "the scale depends on it. Fetch the adapter again."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _ends(module: str, names: list[Any]) -> bool:
    """Whether a name in a list stands for a module: its own, or the end of it."""
    return any(f".{module}".endswith(f".{name}") for name in names)


def _wrong(path: str | Path, key: str, value: Any, wanted: str) -> LoadError:
    return LoadError(
        f'The adapter "{path}" has {key} = {shown(value)}, which must be {wanted}. Fetch the adapter again.'
    )


def _is_finite(value: Any) -> bool:
    """Whether it is a number from which a scale can be computed."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # neither NaN nor infinite, nor a longer whole number


def _may_take_forever(pattern: str) -> bool:
    """Whether the time to match may grow beyond a small power of the length of a name."""
    return REPEATED_GROUP.search(pattern) is not None or len(REPEAT.findall(pattern)) > MOST_REPEATS


def _by_module(
    path: str | Path, key: str, module: str, config: Mapping[str, Any], otherwise: Any
) -> Any:
    """A setting that a table of patterns may give modules of their own; the first match counts."""
    patterns = config.get(key) or {}
    try:
        slow = next(filter(_may_take_forever, patterns), None)
        if slow is not None:
            raise ValueError(f"{shown(slow)} may take forever to match")
        found = next((each for each in patterns if re.match(rf"(.*\.)?({each})$", module)), None)
        return otherwise if found is None else patterns[found]
    except (re.error, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LoadError(
            f'The adapter "{path}" has as {key} no table of patterns ({error}). Fetch the adapter again.'
        ) from error
