"""What the decoders make of packed tensors, as tensors of any float dtype."""

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.decoding import THREADED_VALUES, decode
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.reference.dequant import dequantize

SHAPES = [(), (5,), (0, 4), (3, 7), (2, 3, 4), (THREADED_VALUES // 512 + 1, 512)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_rounded_from_float32(shape, dtype):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    rows = int(np.prod(shape[:-1]))
    packed = Packed(values.reshape(rows, -1 if values.size else 0).view(np.uint8), "F32", shape)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():  # which is a thread's own
            got = dequantize(packed, dtype)
    finally:
        torch.set_num_threads(before)
    assert got.dtype == dtype
    assert got.shape == shape
    assert torch.equal(got, torch.from_numpy(decode(packed)).to(dtype))
