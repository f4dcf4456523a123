"""One particle as an ordinary checkpoint in a scratch folder, during its evaluation."""

from __future__ import annotations

import gc
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from coolfusion.checks.arguments import checked_fields
from coolfusion.errors import CoolfusionError, LoadError, NonFiniteError, UsageError
from coolfusion.fusion import FusionModel
from coolfusion.merging.build import copy_beside, stored, write_config
from coolfusion.merging.checkpoint import Checkpoint
from coolfusion.merging.safetensors_file import write_file
from coolfusion.merging.stored import SINGLE


class BrokenParticleError(CoolfusionError):
    """A particle is no working model. Its utility is minus infinity, and the search continues."""


@dataclass(frozen=True, slots=True)
@checked_fields
class Loading:
    """How particles are loaded: options of ``FusionModel.from_pretrained``.

    ``dtype`` None means float32 on a CPU, and the checkpoint's own elsewhere.
    """

    dtype: str | None = None
    trust_remote_code: bool = False
    lossy_ok: bool = False


@final
class Particle:
    """A checkpoint in ``folder`` for a ``device``, loaded when the first measure needs it."""

    def __init__(self, folder: Path, device: str | None, loading: Loading) -> None:
        self.folder = folder
        self.device = device
        self._loading = loading
        self._model: FusionModel | None = None

    @property
    def model(self) -> FusionModel:
        """The particle as the only source of a fusion, loaded at most once.

        Raises ``BrokenParticleError`` for weights that are NaN or infinite.
        """
        if self._model is None:
            try:
                self._model = self._load()
            except LoadError as error:
                if not isinstance(error.__cause__, NonFiniteError):
                    raise
                raise BrokenParticleError(str(error)) from error
        return self._model

    def _load(self) -> FusionModel:
        return FusionModel.from_pretrained(
            [self.folder],
            names=["particle"],
            speculation=False,
            device=self.device,
            dtype=self._loading.dtype,
            trust_remote_code=self._loading.trust_remote_code,
            lossy_ok=self._loading.lossy_ok,
        )

    def release(self) -> None:
        """Free the model and its caches, which may be far larger than its weights."""
        if self._model is not None:
            self._model = None
            gc.collect()  # models have reference cycles


@contextmanager
def written(checkpoint: Checkpoint, scratch: Path) -> Iterator[Path]:
    """The checkpoint in a new folder inside ``scratch``, removed at the end.

    One tensor at a time is in memory. Raises ``LoadError`` for experts that cannot be read,
    ``BrokenParticleError`` for numbers too large for their type, and ``CoolfusionError`` if
    writing fails.
    """
    folder = scratch / secrets.token_hex(6)
    try:
        try:
            folder.mkdir()
            _write(checkpoint, folder)
        except OSError as error:
            raise CoolfusionError(
                f'A particle cannot be written to "{folder}": {error.strerror or error}. Finished evaluations are '
                "kept; make room, or name another folder for scratch, and run again."
            ) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    infos = checkpoint.about.infos

    def read(name: str) -> Any:
        tensor = checkpoint.read(name)
        try:
            return stored(name, tensor, infos[name])
        except UsageError as error:
            raise BrokenParticleError(str(error)) from error

    write_file(folder / SINGLE, infos, read)
    copy_beside(checkpoint.about.tokenizer_folder, folder)
    write_config(folder, checkpoint.about.config)
