"""What kernels read of the loaded adapters: a table for each site, int64 words.

An entry for each slot has a record for each of the site's parts. Slot 0 and empty places are zeros.
The h between the two factors has room for the highest rank in each part. Torch-free.
"""

from __future__ import annotations

RANKS = 4  # rows of A that are kept together
LANES = 16  # columns of A are padded to a multiple of this
CELL = 64  # rows of B that are kept together, rank by rank

# a part's record
A = 0  # address of A [cells of ranks, cells of columns, RANKS, LANES]
B = 8  # address of B [cells of rows, rank, CELL]
RANK = 16  # 0: the adapter has nothing here
FORM = 24  # the place in FORMS
SCALE = 32  # bits of a float32
FIRST = 40  # the part's first column of y
ROWS = 48  # the part's columns of y
PART_BYTES = 64

FORMS = ("f32", "f16", "bf16")
