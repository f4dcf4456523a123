"""Backends: implementations of the seam in ``coolfusion.backends.base``."""
