"""Attention over a paged cache, and what happens to queries, keys and values before it."""
