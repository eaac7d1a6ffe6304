"""How many rows the sequences of a step have, from the numbers on the host."""

from __future__ import annotations

from itertools import pairwise

from rbee_worker.ops.batch import Batch


def row_counts(batch: Batch) -> list[int]:
    """The rows of each sequence."""
    return [b - a for a, b in pairwise(batch.seq_starts_host)]


def longest_rows(batch: Batch) -> int:
    """The rows of the sequence that has most."""
    starts = batch.seq_starts_host
    if len(starts) - 1 == starts[-1]:
        return 1  # as in decoding
    return max(row_counts(batch), default=0)


def whole_prompts(batch: Batch) -> list[int]:
    """The rows of each sequence, if every one begins in this step; else empty."""
    counts = row_counts(batch)
    return counts if counts == list(batch.kv_lens_host) else []
