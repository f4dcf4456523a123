"""A fusion as a small file, ``fusion.toml``: which models, and how they are fused.

    models = ["path/to/a", "path/to/b"]
    names = ["a", "b"]
    reranker = "mean_nll"
    boundary = "words"

    [weights]
    a = 0.7
    b = 0.3

All keys are optional and mean what the keywords of ``FusionModel.from_pretrained`` mean; with
no ``models``, the built-in ones take part. Paths are relative to the file's folder where there
is such a folder. The bounds of a file are those of ``coolfusion.documents``.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from coolfusion.backends.naming import is_local, label_of
from coolfusion.checks.arguments import checked
from coolfusion.config.kinds import MIXTURE, SEGMENTS
from coolfusion.config.options import BY_NAME, OPTIONS, FusionConfig
from coolfusion.config.plan import check_named_sources, check_strategy_options
from coolfusion.config.spelling import did_you_mean
from coolfusion.documents import MAX_TEXT_BYTES, json_text, parsed_toml, read_file, shown
from coolfusion.errors import CoolfusionError, UnknownOptionError, UsageError

FILE_NAME: Final = "fusion.toml"
HEADING: Final = "# Which models are fused, and how. FusionModel.from_pretrained reads this.\n"
KEYS: Final = tuple(each.name for each in fields(FusionConfig))


@checked
def read_fusion_file(path: str | os.PathLike[str]) -> FusionConfig:
    """Read a fusion file, or the one in a folder. Models are looked for in its folder first.

    Raises ``UsageError`` for a file that cannot be read. It names the key that does not exist,
    has the wrong type or a value that is not allowed.
    """
    file = Path(path)
    if os.path.isdir(file):
        file = file / FILE_NAME
    try:
        text = read_file(file, max_bytes=MAX_TEXT_BYTES, streams=True).decode("utf-8")
        data = parsed_toml(text)
    except OSError as error:
        raise UsageError(
            f'Cannot read the fusion file "{file}": {error.strerror}. Give a TOML file.'
        ) from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise UsageError(f'The fusion file "{file}" is not TOML: {error}.') from None
    try:
        config = config_from(data)
    except UsageError as error:
        raise UsageError(f'In the fusion file "{file}": {error}') from error
    return replace(config, models=tuple(_located(model, file.parent) for model in config.models))


@checked
def config_from(data: Mapping[str, Any]) -> FusionConfig:
    """The configuration that keys and values describe, lists and tables as a file has them.

    Raises ``UsageError`` naming the key that is wrong and what is allowed.
    """
    for key, value in data.items():
        _check(key, value)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
    }
    config = FusionConfig(**values)
    _check_together(config)
    return config


@checked
def write_fusion_file(path: str | os.PathLike[str], config: FusionConfig) -> None:
    """Write ``config`` so that ``read_fusion_file`` gives it back; a file there is replaced whole.

    Models that are folders or GGUF files are written as absolute paths, so that the file may be moved. Raises
    ``UsageError`` for a value that the file cannot hold.
    """
    said = config.said()
    if "models" in said:
        said["models"] = [
            str(Path(model).absolute()) if is_local(model) else model for model in said["models"]
        ]
    weights = said.pop("weights", {})
    lines = [f"{key} = {_toml(value)}" for key, value in said.items()]
    if weights:
        lines += ["", "[weights]", *(f"{_key(n)} = {_toml(w)}" for n, w in weights.items())]
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(HEADING + "\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise CoolfusionError(
            f'Writing "{target}" failed: {error.strerror or error}. What was there before is kept.'
        ) from error


def fusion_file_among(models: object) -> Path | None:
    """The fusion file that stands where models are named, alone; None: these are models.

    It is a path that ends in ``.toml``, or a folder that holds a fusion file and no checkpoint.
    """
    if isinstance(models, Sequence) and not isinstance(models, str) and len(models) == 1:
        models = models[0]
    if not isinstance(models, (str, os.PathLike)):
        return None
    path = Path(models)
    if path.suffix == ".toml":
        return path
    here = path / FILE_NAME
    return here if os.path.isfile(here) and not (path / "config.json").exists() else None


def settled_options(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    config: str | os.PathLike[str] | FusionConfig | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Options by name, from a fusion file and what is ``given`` beside it (None: nothing).

    ``models`` may be that file, a single model or several. Raises ``UsageError`` for two files.
    """
    among = fusion_file_among(models)
    if among is not None:
        if config is not None:
            raise UsageError(
                f'"{among}" is a fusion file, and config is another. Give one of them.'
            )
        models, config = None, among
    if isinstance(models, (str, os.PathLike)):
        models = [models]
    if config is not None and not isinstance(config, FusionConfig):
        config = read_fusion_file(config)
    return overridden({} if config is None else config.said(), {"models": models, **given})


def overridden(said: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a file said, replaced key by key by what was ``given`` beside it (None: nothing).

    Other models come with their own names. A lead judges alone, so that a given lead replaces
    the file's reranker and weights, and either of those the file's lead. A given strategy replaces
    all that the file says of the other.
    """
    replaced = {key for key, value in given.items() if value is not None}
    if "models" in replaced:
        replaced.add("names")
    if "lead" in replaced:
        replaced |= {"reranker", "weights"}
    if replaced & {"reranker", "weights"}:
        replaced.add("lead")
    if "strategy" in replaced:
        other = SEGMENTS if given["strategy"] == MIXTURE else MIXTURE
        replaced |= {each.name for each in OPTIONS if each.strategy == other}
    kept = {key: value for key, value in said.items() if key not in replaced}
    return {**kept, **{key: value for key, value in given.items() if value is not None}}


def _check(key: str, value: Any) -> None:
    """Raise ``UsageError`` unless the key is one of a file and may have this value."""
    if key in KEYS:
        BY_NAME[key].check_value(value)
    elif key in BY_NAME:
        raise UsageError(f"{key} is no key of a fusion file: {BY_NAME[key].not_in_file}.")
    else:
        said = [
            f'there is no key "{key}".',
            did_you_mean(key, KEYS),
            f"The keys are {', '.join(KEYS)}.",
        ]
        raise UnknownOptionError(" ".join(filter(None, said)))


def _check_together(config: FusionConfig) -> None:
    """Raise ``UsageError`` where keys that are right alone do not go together."""
    check_strategy_options(config.strategy or SEGMENTS, config.said())
    if config.lead is not None:
        against = next((k for k in ("reranker", "weights") if getattr(config, k)), None)
        if against is not None:
            raise UsageError(f"lead and {against} exclude each other. A lead judges alone.")
    if config.models and config.names and len(config.models) != len(config.names):
        raise UsageError(
            f"names has {len(config.names)} entries for {len(config.models)} models. Give one each."
        )
    labels = config.names or tuple(map(label_of, config.models))
    if labels:
        check_named_sources(labels, config.weights, config.lead)


def _located(model: str, folder: Path) -> str:
    here = folder / model
    return str(here) if is_local(here) else model


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise UsageError(
                f"{shown(value)} holds half a character, which no fusion file can. Choose another name."
            )
        return json_text(value).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
