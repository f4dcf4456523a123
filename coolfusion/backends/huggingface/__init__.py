"""``transformers`` models as backends, and loading one with its tokenizer.

Nothing else in the package imports torch or transformers.
"""

from coolfusion.backends.huggingface.causal import TransformersBackend
from coolfusion.backends.huggingface.encoder_decoder.seq2seq import EncoderDecoderBackend
from coolfusion.backends.huggingface.encoder_decoder.seq2seq_tokenizer import (
    EncoderDecoderTokenizer,
)
from coolfusion.backends.huggingface.loading import UnloadedSource, load_source, open_source

__all__ = [
    "EncoderDecoderBackend",
    "EncoderDecoderTokenizer",
    "TransformersBackend",
    "UnloadedSource",
    "load_source",
    "open_source",
]
