"""Files and data from outside: regular files, JSON and TOML within bounds, and strict JSON.

Reading never waits for a pipe, follows a link out of a checkpoint, or fails without a reason.

* A file is a regular one of at most ``max_bytes``. What a shell hands over (``/dev/stdin``,
  ``/dev/fd/63``) may be a stream where the caller allows it.
* JSON and TOML are nested at most ``MAX_DEPTH`` deep, so that recursive code can go through them.
* A file of a checkpoint stands in its folder. A link may lead to the blobs of the hub's cache
  whose snapshot the folder is, and nowhere else.

What is written is JSON that every reader can read: no NaN, no infinity, no half character.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any

from coolfusion.errors import LoadError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_DEPTH = 200
MAX_BYTES = 200_000_000  # the largest tokenizer.json known has some 40 MB
MAX_TEXT_BYTES = 2_000_000  # of what people write: recipes, fusion files
MAX_KEY_PARTS = 100  # tomllib takes time that grows with the square of a key's parts
SHOWN = 200  # characters of a value that its error shows

MODEL_FILES = frozenset(".json .jinja .txt .model .tiktoken .safetensors .py .bin .vocab".split())
_STREAMS = ("/dev/", "/proc/")
_PLAIN = (str, int, bool, type(None))
_KEY_PART = r"""\.[ \t]*(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*"""
_LONG_KEY = re.compile(f"(?:{_KEY_PART}){{{MAX_KEY_PARTS}}}", re.ASCII)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def json_ready(value: Any) -> Any:
    """``value`` as strict JSON can hold it: infinities as text, NaN as null, tuples as lists.

    ``float`` reads the texts back. Mappings and sequences are gone through, and numbers of other
    libraries become Python's; all else stays.
    """
    kind = type(value)  # which is quick to ask for, unlike the abstract classes below
    if kind in _PLAIN or (kind is float and math.isfinite(value)):
        return value
    if kind is dict or isinstance(value, Mapping):
        return {_key(key): json_ready(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(entry) for entry in value]
    if isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if math.isfinite(number):
            return number
        return None if math.isnan(number) else str(number)
    return value


def number_from(value: Any) -> float:
    """The number that ``json_ready`` made ``value`` of. Raises as ``float`` does."""
    return math.nan if value is None else float(value)


def json_text(
    value: Any, *, indent: int | None = None, sort_keys: bool = False, ascii_only: bool = False
) -> str:
    """``value`` as strict JSON text, which UTF-8 can hold. The only place where JSON is written.

    Raises ``UsageError`` for what JSON cannot hold: data inside itself, whole numbers of
    thousands of digits, objects of other kinds.
    """
    try:
        text = json.dumps(
            json_ready(value),
            indent=indent,
            sort_keys=sort_keys,
            ensure_ascii=ascii_only,
            allow_nan=False,
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"JSON cannot hold {shown(type(value).__name__)} data: {error}. Leave out what it cannot hold."
        ) from error
    # Half a character, which UTF-8 cannot hold, becomes the escape that JSON has for it.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def parsed_json(text: str | bytes) -> Any:
    """The data of JSON text. Raises ``ValueError`` for anything else, and beyond ``MAX_DEPTH``."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    check_depth(value)
    return value


def parsed_toml(text: str) -> dict[str, Any]:
    """The data of TOML text. Raises ``ValueError`` for anything else, and beyond ``MAX_DEPTH``."""
    if _LONG_KEY.search(text):
        raise ValueError(f"a key has more than {MAX_KEY_PARTS} parts")
    try:
        value: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise _too_deep() from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ``ValueError`` for lists and mappings inside each other beyond ``MAX_DEPTH``."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            entry
            for each in level
            for entry in (each.values() if isinstance(each, dict) else each)
            if isinstance(entry, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def read_file(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, streams: bool = False
) -> bytes:
    """What a file holds. Raises ``OSError``, with the reason in words as its ``strerror``.

    Refused are files that are not regular and those of more than ``max_bytes``. With ``streams``,
    what a shell hands over is read too, up to the same size.
    """
    with _opened(path, streams) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > max_bytes else file.read(max_bytes + 1)
    if max(size, len(data)) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", os.fspath(path))
    return data


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise ``OSError`` with the reason in words unless ``path`` leads to a regular file."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a zero byte, or half a character
        raise OSError(errno.EINVAL, f"there is no such path: {error}", os.fspath(path)) from None
    if not stat.S_ISREG(mode):
        kind = next((words for test, words in _KINDS if test(mode)), "no file")
        raise OSError(errno.EINVAL, f"it is {kind} and not a regular file", os.fspath(path))


def check_own_file(folder: Path, file: Path) -> None:
    """Raise ``LoadError`` if a ``file`` of the checkpoint in ``folder`` is not one of its own.

    It must be a regular file. Links must end in the folder, or in the blobs of the hub's cache.
    """
    try:
        check_regular(file)
        if not os.access(file, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    except OSError as error:
        is_lost = isinstance(error, FileNotFoundError) and file.is_symlink()
        reason = "it is a link that leads nowhere" if is_lost else error.strerror
        raise LoadError(
            f'Cannot read "{file}": {reason}. Put the file itself there, or fetch it again.'
        ) from error
    home, real = (Path(os.path.realpath(path)) for path in (folder, file))
    caches = [
        above.parent / "blobs" for above in (home, *home.parents) if above.name == "snapshots"
    ]
    if not any(root in real.parents for root in (home, *caches)):
        raise LoadError(
            f'"{file}" is a link that leads out of its checkpoint, to "{real}". Only what stands in the folder '
            "belongs to it. Copy the file there if you mean it."
        )


def check_own_files(folder: Path, files: Iterable[Path]) -> None:
    """``check_own_file`` for each of ``files`` that is there, links that lead nowhere included."""
    for file in files:
        if os.path.lexists(file):
            check_own_file(folder, file)


def check_quick_to_read(folder: Path) -> None:
    """Raise ``LoadError`` for files of a model's folder that a library would read for ever.

    These are pipes, devices and sockets, and JSON of more than ``MAX_BYTES``.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix not in MODEL_FILES or file.is_dir() or not file.exists():
            continue
        try:
            check_regular(file)
        except OSError as error:
            raise LoadError(f'Cannot read "{file}": {error.strerror}. Remove it.') from error
        if file.suffix == ".json" and file.stat().st_size > MAX_BYTES:
            raise LoadError(
                f'Cannot read "{file}": it has more than {MAX_BYTES:,} bytes. Fetch it again.'
            )


def shown(value: object) -> str:
    """``repr`` of a value for an error, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # an object of somebody else's, or a number of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def quoted(value: object) -> str:
    """A name for an error, in double quotes; another value than text as ``shown`` has it."""
    return f'"{value}"' if isinstance(value, str) and len(value) <= SHOWN else shown(value)


def visible(text: str) -> str:
    """``text`` in one line, in which nothing is invisible.

    Control and format characters, line ends, half characters and what is no character become
    escapes such as ``\\x1b``. Joiners stay, since scripts and emoji need them.
    """
    return "".join(_escape(char) if _is_hidden(char) else char for char in text)


def _key(key: Any) -> Any:
    return key if isinstance(key, str) else json_ready(key)


def _opened(path: str | os.PathLike[str], streams: bool) -> IO[bytes]:
    """The open file; one that is swapped for a pipe meanwhile is not waited for either."""
    if streams and os.fspath(path).startswith(_STREAMS) and not os.path.isdir(path):
        return open(path, "rb")
    check_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    return file


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _is_hidden(char: str) -> bool:
    if " " <= char <= "~" or char in "\u200c\u200d":
        return False
    number = ord(char)
    is_nothing = number & 0xFFFE == 0xFFFE or 0xFDD0 <= number <= 0xFDEF
    return is_nothing or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
