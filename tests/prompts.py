"""Ids to compute with."""

from __future__ import annotations

import random

from tests.archs import VOCAB


def random_prompt(n: int, seed: int = 0) -> list[int]:
    """n ids of the tiny vocabulary, none of them special; the same for the same seed."""
    return random.Random(seed).choices(range(3, VOCAB), k=n)
