"""What of a text survives a tokenizer: losses are tried, named, or avoided."""
