"""Attention over a paged cache, and what happens to queries, keys and values before it."""

from rbee_worker.ops.cuda.kernels.attention.attend import attend
from rbee_worker.ops.cuda.kernels.attention.attend_decode import attend_decode
from rbee_worker.ops.cuda.kernels.attention.prompts import attend_prompts, takes_prompts
from rbee_worker.ops.cuda.kernels.attention.shapes import fixed_tiles
from rbee_worker.ops.cuda.kernels.attention.write import split_rope_write, write_kv

__all__ = [
    "attend",
    "attend_decode",
    "attend_prompts",
    "fixed_tiles",
    "split_rope_write",
    "takes_prompts",
    "write_kv",
]
