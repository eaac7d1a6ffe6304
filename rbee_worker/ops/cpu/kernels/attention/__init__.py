"""Attention over paged keys, and writing keys and values."""
