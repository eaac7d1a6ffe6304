"""Configs of well-known checkpoints, written from their published files: at least one a family.

Some have every key that is published, those that only look as if they mattered among them; in
others keys that change neither a shape nor a number of a forward pass are left out.
"""

from __future__ import annotations

from tests.published import dense, gemma, gpt, hybrid, llama, mixture, recurrent, rwkv
from tests.published.row import Published

__all__ = ["PUBLISHED", "Published"]

PUBLISHED: tuple[Published, ...] = (
    *llama.PUBLISHED,
    *gemma.PUBLISHED,
    *dense.PUBLISHED,
    *gpt.PUBLISHED,
    *mixture.PUBLISHED,
    *recurrent.PUBLISHED,
    *hybrid.PUBLISHED,
    *rwkv.PUBLISHED,
)
