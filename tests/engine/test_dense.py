"""Dense maps of vectors equal torch's."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from rbee_worker.engine.dense import Dense
from rbee_worker.types import DenseAct


@pytest.mark.parametrize("act", get_args(DenseAct))
@pytest.mark.parametrize("bias", [False, True])
def test_a_map_equals_torchs(act: DenseAct, bias: bool) -> None:
    """Of small and of large numbers, without a warning."""
    torch.manual_seed(1)
    layer = torch.nn.Linear(24, 31, bias=bias)
    mine = Dense(layer.weight.detach().numpy(), layer.bias.detach().numpy() if bias else None, act)
    for scale in (1.0, 50.0, 1e6):
        x = torch.randn(24) * scale
        with torch.inference_mode():
            want = getattr(torch.nn, act)()(layer.double()(x.double())).numpy()
        with np.errstate(all="raise", under="ignore"):
            got = mine(x.numpy())
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * scale)
