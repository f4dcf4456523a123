"""How a model is named: a folder, a GGUF file, or either of them on the hub.

| name | what it stands for |
| --- | --- |
| ``path/to/folder`` | a folder as transformers saves it, or one with a single GGUF file in it |
| ``path/to/model.gguf`` | the model in a GGUF file, with its tokenizer and chat template |
| ``path/to/models--org--name`` | a model in the hub's cache: what its ``main`` refers to |
| ``org/name`` | a model of the hub |
| ``org/name:model.gguf`` | a GGUF file of a model of the hub |

Nothing but this module reads such a name. A local path is taken for one if it exists.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coolfusion.documents import check_quick_to_read, check_regular, read_file
from coolfusion.errors import LoadError

SUFFIX: Final = ".gguf"
MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
SHOWN_FILES: Final = 8
HEADER: Final = struct.Struct("<4sIQQ")  # magic, version, number of tensors, of metadata
_ON_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[^:]+)")
_PART = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a model is: a folder or hub id, and the GGUF file in it that holds it, if one does."""

    root: str
    gguf_file: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """What transformers is given beside the root."""
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}


def place_of(name: str | Path) -> ModelPlace:
    """Where the model of this name is. Raises ``LoadError`` for a name that leads to none."""
    text, path = str(name), Path(name)
    try:
        is_there = path.exists()
    except (OSError, ValueError):  # a name too long for a path, or with a zero byte
        is_there = False
    if is_there and path.is_dir():
        return _in_folder(text, path)
    if is_there:
        return _in_file(text, path)
    on_hub = _ON_HUB.fullmatch(text)
    if on_hub is not None:
        return _on_hub(on_hub["repo"], on_hub["file"])
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1
    if path.suffix.lower() == SUFFIX:
        raise LoadError(
            f'There is no file "{text}". Give a GGUF file that exists, or one of the hub as '
            f'"org/name:{path.name}".'
        )
    if looks_local:
        raise LoadError(
            f'There is no folder "{text}". Give a folder with a model in it, or a hub id like "org/name".'
        )
    return ModelPlace(text)


def is_local(name: str | Path) -> bool:
    """Whether a name leads to a folder or GGUF file of this machine."""
    return os.path.isdir(name) or (Path(name).suffix.lower() == SUFFIX and os.path.isfile(name))


def is_gguf(name: str | Path) -> bool:
    """Whether a name says a GGUF file: on this machine or on the hub."""
    return Path(name).suffix.lower() == SUFFIX


def label_of(name: str | Path) -> str:
    """What a source is called if it is given no name: the last part, without ``.gguf``.

    A folder of the hub's cache is called as the model is, and not by its digest.
    """
    path = Path(str(name))
    for folder in (path, path.parent.parent):
        if folder.name.startswith("models--") and folder.name.count("--") >= 2:
            return folder.name.rpartition("--")[2]
    last = path.name.rpartition(":")[2] if _ON_HUB.fullmatch(str(name)) else path.name
    return last[: -len(SUFFIX)] if last.lower().endswith(SUFFIX) else last


def _in_folder(text: str, folder: Path) -> ModelPlace:
    has_config = (folder / "config.json").exists()
    if folder.name.startswith("models--") and not has_config and (folder / "snapshots").is_dir():
        return _in_folder(text, _snapshot(folder))
    files = sorted(each for each in folder.iterdir() if each.suffix.lower() == SUFFIX)
    if files and not has_config:
        if len(files) > 1:
            parts = ", ".join(each.name for each in files[:SHOWN_FILES])
            more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
            raise LoadError(
                f'The folder "{text}" holds {len(files)} GGUF files: {parts}{more}. Each is a model '
                "of its own. Give the path of one."
            )
        return _in_file(str(files[0]), files[0])
    if not has_config and not any(folder.glob("tokenizer*")):
        raise LoadError(f'The folder "{text}" holds no model: there is no config.json in it.')
    check_quick_to_read(folder)
    return ModelPlace(str(folder))


def _snapshot(cache: Path) -> Path:
    """The snapshot that a model's folder in the hub's cache stands for."""
    found = sorted(each for each in (cache / "snapshots").iterdir() if each.is_dir())
    try:
        main = read_file(cache / "refs" / "main", max_bytes=1000).decode("ascii").strip()
    except (OSError, ValueError):
        main = ""
    named = [each for each in found if each.name == main]
    if len(named or found) != 1:
        what = ", ".join(each.name for each in found) or "none"
        raise LoadError(
            f'"{cache}" is a folder of the hub\'s cache, whose main refers to no snapshot that it '
            f"has ({what}). Give the folder of one snapshot, or fetch the model again."
        )
    return (named or found)[0]


def _in_file(text: str, file: Path) -> ModelPlace:
    try:
        check_regular(file)
        with open(file, "rb") as opened:
            header = opened.read(HEADER.size)
    except OSError as error:
        raise LoadError(f'Cannot read "{text}": {error.strerror}. Give another file.') from error
    if not header.startswith(MAGIC):
        if file.suffix.lower() != SUFFIX:
            raise LoadError(f'"{text}" is a file. Give the folder that holds the model.')
        raise LoadError(
            f'"{text}" is no GGUF file: it begins with {header[:4]!r}, where one has {MAGIC!r}. '
            "Fetch it again; a small one may be the page of an error or a link of git-lfs."
        )
    _check_whole_model(text, header)
    return ModelPlace(str(file.parent), file.name)


def _check_whole_model(text: str, header: bytes) -> None:
    """Raise ``LoadError`` for a part of a model, and for a header that cannot be."""
    _check_not_split(text)
    if len(header) < HEADER.size:
        raise LoadError(f'"{text}" breaks off in the first {HEADER.size} bytes. Fetch it again.')
    _, version, num_tensors, _ = HEADER.unpack(header)
    if version not in VERSIONS:
        raise LoadError(
            f'"{text}" has version {version} of the GGUF format, and only {VERSIONS[0]} and {VERSIONS[1]} '
            "are read. Convert the model anew with llama.cpp, for a little-endian machine."
        )
    if not num_tensors:
        raise LoadError(
            f'"{text}" holds a vocabulary and no weights, so that nothing can be decoded with it. '
            "Give the file of the model itself."
        )


def _check_not_split(text: str) -> None:
    if _PART.search(Path(text).stem):
        raise LoadError(
            f'"{text}" is one part of a split model, and transformers reads whole files only. Join the '
            "parts with llama-gguf-split --merge, and give the file that it writes."
        )


def _on_hub(repo: str, file: str) -> ModelPlace:
    if not file.lower().endswith(SUFFIX):
        raise LoadError(
            f'"{repo}:{file}" names no file. After the colon comes the name of a GGUF file as the model\'s page '
            f'on the hub has it, such as "{repo}:model-{file}.gguf".'
        )
    _check_not_split(file)
    return ModelPlace(repo, file)
