"""Backends: implementations of the seam in ``coolfusion.backend``."""
