"""The tables that some formats look values up in, as int8 tensors on the device."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from rbee_worker.checkpoint.decoding import blocks, grids

_GRIDS = {
    "IQ1_S": "IQ1",
    "IQ1_M": "IQ1",
    "IQ2_XXS": "IQ2_XXS",
    "IQ2_XS": "IQ2_XS",
    "IQ2_S": "IQ2_S",
    "IQ3_XXS": "IQ3_XXS",
    "IQ3_S": "IQ3_S",
}
_LEVELS = {"IQ4_NL": blocks.IQ4, "IQ4_XS": blocks.IQ4, "MXFP4": blocks.FP4}


@cache
def table(format: str, device: torch.device) -> torch.Tensor | None:
    """int8 [16]: the value of each nibble; or int8 [points * width]: the points of a grid; None for
    a format that looks nothing up."""
    if format in _GRIDS:
        values = grids.levels(_GRIDS[format]).reshape(-1)
    elif format in _LEVELS:
        values = _LEVELS[format].astype(np.int8)
    else:
        return None
    return torch.from_numpy(values).to(device)
