"""Text and ids: tokenizers, their tokens as bytes, and where several of them share a boundary."""
