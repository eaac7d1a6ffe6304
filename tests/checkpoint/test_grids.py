"""Every grid is the gguf package's, point by point."""

import gguf
import numpy as np
import pytest

from rbee_worker.checkpoint.decoding import grids

PEERS = {"IQ1": ("IQ1_S", "IQ1_M")}


@pytest.mark.parametrize("name", grids.GRIDS)
def test_points(name):
    for peer in PEERS.get(name, (name,)):
        quant = getattr(gguf.quants, peer)
        quant.init_grid()
        assert quant.grid_shape == grids.GRIDS[name][:2]
        want = np.asarray(quant.grid).reshape(quant.grid_shape)
        np.testing.assert_array_equal(grids.levels(name), want)
    assert set(grids.digits(name).flat) == set(range(len(grids.GRIDS[name].levels)))
