"""Deciding a response: how sources are asked, and the ways to join what they say."""
