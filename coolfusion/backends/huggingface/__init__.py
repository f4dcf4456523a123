"""Any ``transformers`` causal language model as a backend, and loading one with its tokenizer.

Nothing else in the package imports torch or transformers.
"""

from coolfusion.backends.huggingface.backend import TransformersBackend
from coolfusion.backends.huggingface.loading import load_source

__all__ = ["TransformersBackend", "load_source"]
