"""The options of a fusion: what may be said, where it is checked, and the file that says it."""
