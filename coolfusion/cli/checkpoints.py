"""The checkpoints that ``-m`` names for commands about weights: models, adapters, a fusion file's."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coolfusion.errors import UsageError

if TYPE_CHECKING:
    from coolfusion.merging import Adapter


def checkpoints_of(arguments: argparse.Namespace) -> list[str | Adapter]:
    """What ``-m`` names, in order, with adapters on the checkpoint of ``--on``.

    A single one that is a fusion file stands for the models it names; what else it says is about
    decoding. Raises ``UsageError`` for a file without models, and for ``--on`` without adapters.
    """
    from coolfusion.config.file import fusion_file_among, read_fusion_file
    from coolfusion.merging import Adapter
    from coolfusion.merging.adapters import is_adapter

    named = list(arguments.model or ())
    file = fusion_file_among(named)
    if file is not None:
        named = list(read_fusion_file(file).models)
        if not named:
            raise UsageError(f'The fusion file "{file}" names no models. Name them with -m.')
    models = [
        Adapter(model, arguments.on) if arguments.on is not None and is_adapter(model) else model
        for model in named
    ]
    if arguments.on is not None and all(isinstance(model, str) for model in models):
        raise UsageError("--on names the checkpoint of adapters, and none of the models is one.")
    return models
