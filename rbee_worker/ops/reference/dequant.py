"""Packed tensors to torch tensors: `checkpoint/decoding` for any float dtype."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from rbee_worker.checkpoint.decoding import F32, decode, decode_spans
from rbee_worker.checkpoint.formats import Packed


def dequantize(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of `packed`, in its shape; decoded in float32, then rounded to `dtype`.

    Raises UnsupportedModel for a format that has no decoder.
    """
    threads = torch.get_num_threads()
    if dtype == torch.float32:
        return torch.from_numpy(decode(packed, threads=threads))
    with torch.inference_mode(False):  # otherwise other threads could not write to this tensor
        out = torch.empty((prod(packed.shape[:-1]), *packed.shape[-1:]), dtype=dtype)

        def put(rows: slice, values: F32) -> None:
            out[rows] = torch.from_numpy(values).reshape(out[rows].shape)

        decode_spans(packed, put, threads=threads)
        return out.view(packed.shape)
