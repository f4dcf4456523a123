"""Text and ids: tokenizers, tokens as bytes, and cuts that several tokenizers share."""
