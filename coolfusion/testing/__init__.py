"""Public checks of backends, tokenizers, boundaries and rerankers, and toy sources.

Each check raises a ``ConformanceError`` with the broken law, the expected and the actual value. No
test framework is needed.
"""

from coolfusion.testing.backend_checks import check_backend
from coolfusion.testing.boundary_checks import check_boundary
from coolfusion.testing.conformance import HOSTILE_TEXTS, ConformanceError
from coolfusion.testing.reranker_checks import check_reranker
from coolfusion.testing.tokenizer_checks import check_tokenizer
from coolfusion.testing.toys import toy_source, toy_tokenizer

__all__ = [
    "HOSTILE_TEXTS",
    "ConformanceError",
    "check_backend",
    "check_boundary",
    "check_reranker",
    "check_tokenizer",
    "toy_source",
    "toy_tokenizer",
]
