"""Chat templates of checkpoints: rendered as transformers does, with counted work."""
