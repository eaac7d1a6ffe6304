"""The numbers of the step in which a tower reads one tile of a picture; see `models.tower`."""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.batch import Ints, PagedPlaces, StepNumbers


def tile_numbers(places: Ints, groups: int, block_size: int) -> tuple[StepNumbers, int]:
    """The step's numbers, and the blocks of each state group that it needs (the sink included).

    places: each row's patch; groups: state groups of the tower.
    """
    n = len(places)
    blocks = -(-n // block_size)
    count = np.array([n], np.int64)
    table = np.arange(1, blocks + 1, dtype=np.int32)[None]
    slots = np.arange(block_size, block_size + n)
    numbers = StepNumbers(
        tokens=np.zeros(n, np.int64),
        positions=places,
        seq_starts=np.array([0, n], np.int64),
        kv_lens=count,
        rope_lens=count,
        sample_rows=np.zeros(0, np.int64),
        places=tuple(PagedPlaces(table, slots) for _ in range(groups)),
        seq_starts_host=(0, n),
        kv_lens_host=(n,),
    )
    return numbers, blocks + 1
