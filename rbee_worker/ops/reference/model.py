"""`ReferenceModel`: a `Decoder` computed by torch, in the form that the engine runs.

Every method enters torch's inference mode itself, so that its callers do not need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.ops import DTYPES
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder


class ReferenceModel:
    """See `ops.backend.Executable`."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.ops = decoder, decoder.ops
        self.groups: tuple[StateGroup, ...] = decoder.groups
        self.vocab_size = decoder.vocab_size
        self.context = decoder.context

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Tensor:
        """See `Executable.encode`."""
        rows: Tensor = self.decoder.encode(batch)
        return rows

    @torch.inference_mode()
    def hidden(self, batch: Batch) -> Tensor:
        """See `Executable.hidden`."""
        hidden: Tensor = self.decoder.hidden(batch)
        return hidden

    @torch.inference_mode()
    def head(self, rows: Tensor | NDArray[np.float32]) -> Tensor:
        """See `Executable.head`; rows may also be numbers of the host."""
        if not isinstance(rows, Tensor):
            rows = torch.from_numpy(rows).to(self.ops.device, DTYPES[self.ops.dtype])
        logits: Tensor = self.decoder.head(rows)
        return logits

    def host(self, rows: Tensor) -> NDArray[np.float32]:
        """See `Executable.host`."""
        numbers: NDArray[np.float32] = rows.detach().to("cpu", torch.float32).numpy()
        return numbers

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Tensor:
        """See `Executable.logits`."""
        return self.head(self.hidden(batch)[batch.sample_rows])
