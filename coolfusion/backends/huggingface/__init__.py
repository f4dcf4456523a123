"""``transformers`` models as backends, and loading one with its tokenizer.

Nothing else in the package imports torch or transformers.
"""

from coolfusion.backends.huggingface.backend import TransformersBackend
from coolfusion.backends.huggingface.encoder_decoder import EncoderDecoderBackend
from coolfusion.backends.huggingface.encoder_decoder_tokenizer import EncoderDecoderTokenizer
from coolfusion.backends.huggingface.loading import load_source

__all__ = [
    "EncoderDecoderBackend",
    "EncoderDecoderTokenizer",
    "TransformersBackend",
    "load_source",
]
