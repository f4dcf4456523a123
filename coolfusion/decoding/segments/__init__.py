"""Segment fusion: sources draft, score one another's segments, and the best one is committed."""
