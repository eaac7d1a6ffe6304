"""The logits of every token in a list, beside the engine's other work: for research."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.scheduler import Chunk, Plan
from rbee_worker.errors import OutOfMemory
from rbee_worker.types import SamplingParams


def prompt_logits(engine: Engine, ids: Sequence[int]) -> NDArray[np.float32]:
    """The model's logits after each of `ids`: [len(ids), vocabulary]. Call it between two steps.

    Takes at most as many tokens as a step. Raises OutOfMemory if live sequences leave no space.
    """
    engine.settle()
    pool = engine.pool
    seq = engine.sequence(Submit(seq="", prompt_ids=tuple(ids), params=SamplingParams()))
    pool.attach(seq.state, limit=0)  # no cached prefix, because its rows would have no logits
    parts: list[NDArray[np.float32]] = []
    try:
        while (start := seq.state.computed) < len(ids):
            count = min(len(ids) - start, engine.scheduler.token_budget)
            granted = pool.reserve(seq.state, count)
            if not granted:
                raise OutOfMemory(
                    f"the cache has no space for {len(ids)} tokens beside the live answers.",
                    fix="end them, or load the model with more kv_tokens",
                )
            chunk = Chunk(seq, seq.state, start, granted, 0)
            try:
                parts += engine.runner.logits(Plan(chunks=[chunk], copies=pool.copies()))
            finally:
                pool.commit(seq.state, granted)
    finally:
        pool.release(seq.state)
    return np.concatenate(parts)
