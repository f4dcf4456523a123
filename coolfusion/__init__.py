"""Fuse language models with different tokenizers at decode time (arXiv 2407.19807).

    from coolfusion import FusionModel
    fusion = FusionModel.from_pretrained()          # the built-in sources
    print(fusion.generate("Question: ...").text)

Names are imported when they are first used, so ``import coolfusion`` is quick and loads
neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from coolfusion.backends.base import (
        Backend,
        DistributionBackend,
        Distributions,
        Query,
        Scores,
    )
    from coolfusion.backends.sampling import Sampling
    from coolfusion.backends.source import Source
    from coolfusion.decoding.decoder import Decoder
    from coolfusion.decoding.mixture.decoder import MixtureDecoder
    from coolfusion.decoding.request import Request
    from coolfusion.decoding.segments.decoder import SegmentDecoder
    from coolfusion.decoding.segments.recipe import Recipe
    from coolfusion.decoding.segments.rerankers import Reranker, ScoreTable
    from coolfusion.decoding.segments.speculation import Speculation
    from coolfusion.decoding.segments.state import State
    from coolfusion.errors import (
        CoolfusionError,
        LoadError,
        LossyTokenizerError,
        PromptError,
        SourceError,
        UsageError,
    )
    from coolfusion.fusion import FusionModel
    from coolfusion.tokenization.base import Tokenizer
    from coolfusion.tokenization.boundaries import Boundary
    from coolfusion.tokenization.huggingface import HuggingFaceTokenizer
    from coolfusion.trace import read_trace, write_trace
    from coolfusion.types import Candidate, Generation, Step, StopReason

_HOME = {
    "Backend": "backends.base",
    "Boundary": "tokenization.boundaries",
    "Candidate": "types",
    "CoolfusionError": "errors",
    "Decoder": "decoding.decoder",
    "DistributionBackend": "backends.base",
    "Distributions": "backends.base",
    "FusionModel": "fusion",
    "Generation": "types",
    "HuggingFaceTokenizer": "tokenization.huggingface",
    "LoadError": "errors",
    "LossyTokenizerError": "errors",
    "MixtureDecoder": "decoding.mixture.decoder",
    "PromptError": "errors",
    "Query": "backends.base",
    "Recipe": "decoding.segments.recipe",
    "Request": "decoding.request",
    "Reranker": "decoding.segments.rerankers",
    "Sampling": "backends.sampling",
    "ScoreTable": "decoding.segments.rerankers",
    "Scores": "backends.base",
    "SegmentDecoder": "decoding.segments.decoder",
    "Source": "backends.source",
    "SourceError": "errors",
    "Speculation": "decoding.segments.speculation",
    "State": "decoding.segments.state",
    "Step": "types",
    "StopReason": "types",
    "Tokenizer": "tokenization.base",
    "UsageError": "errors",
    "read_trace": "trace",
    "write_trace": "trace",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'coolfusion' has no attribute {name!r}")
    value = getattr(import_module(f"coolfusion.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
