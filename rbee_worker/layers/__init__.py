"""Leaf blocks. They take values (scale, window, rope, norms), never an architecture's name."""
