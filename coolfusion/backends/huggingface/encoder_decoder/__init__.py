"""Encoder-decoder models (T5, BART, Marian, ...) as backends, and their pair of tokenizers."""
