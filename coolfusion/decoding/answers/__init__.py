"""Whole answers: each source answers alone, and one answer is chosen."""
