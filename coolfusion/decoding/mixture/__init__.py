"""Mixtures of distributions: what comes next is decided together, for every token or byte."""
