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


def new_sequences(batch: Batch) -> int:
    """The number of the first sequence of those at the end that all begin in this step."""
    counts, lens = row_counts(batch), batch.kv_lens_host
    first = len(counts)
    while first and counts[first - 1] == lens[first - 1]:
        first -= 1
    return first
