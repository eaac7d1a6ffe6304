"""`CudaModel`: a `Decoder` recorded once, lowered, and run; decoding steps replay CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.fusions import FUSIONS
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.program import Program
from rbee_worker.ops.cuda.state import DecodingBatch
from rbee_worker.ops.graph.fusion import fused
from rbee_worker.ops.graph.graph import Graph, Value
from rbee_worker.ops.reference.ops import DTYPES

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder

_RESULTS = 2  # results of steps that must survive: the last step's while the next one runs


class CudaModel:
    """See `ops.backend.Executable`. fused: how often each fusion applied, by name."""

    def __init__(self, decoder: Decoder, *, graphs: bool) -> None:
        assert isinstance(decoder.ops, CudaOps)
        self.groups, self.vocab_size = decoder.groups, decoder.vocab_size
        self.context = decoder.context
        self._ops = decoder.ops
        decoder.ops.weights_done()
        self._hidden, _ = lowered(decoder.ops, decoder, lambda _: decoder.hidden(NO_BATCH))
        self._head, _ = lowered(decoder.ops, decoder, decoder.head, Value(decoder.width))
        # a decoding step at once, so that the last norm is computed with the head
        self._whole, self.fused = lowered(
            decoder.ops, decoder, lambda _: decoder.head(decoder.hidden(NO_BATCH))
        )
        self._encoder: Program | None = None
        if decoder.start is not None:
            self._encoder, _ = lowered(decoder.ops, decoder, lambda _: decoder.encode(NO_BATCH))
        self._graphs = graphs
        self._seen: dict[int, tuple[Batch, list[_Capture]]] = {}  # by the batch's id

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Tensor:
        """See `Executable.encode`."""
        assert self._encoder is not None
        self._ops.now.begin(batch)
        return self._encoder.run(batch)[0]

    def see(self, tile: NDArray[np.uint8]) -> Tensor:
        """See `Executable.see`."""
        raise AssertionError("models are built without towers here")

    @torch.inference_mode()
    def hidden(self, batch: Batch) -> Tensor:
        """See `Executable.hidden`."""
        self._ops.now.begin(batch)
        return self._hidden.run(batch)[0]

    @torch.inference_mode()
    def head(self, rows: Tensor | NDArray[np.float32]) -> Tensor:
        """See `Executable.head`; rows may also be numbers of the host."""
        if not isinstance(rows, Tensor):
            rows = torch.from_numpy(rows).to(self._ops.device, DTYPES[self._ops.dtype])
        return self._head.run(None, rows)[0]

    def host(self, rows: Tensor) -> NDArray[np.float32]:
        """See `Executable.host`; waits for the step that makes them."""
        numbers: NDArray[np.float32] = rows.detach().to("cpu", torch.float32).numpy()
        return numbers

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Tensor:
        """See `Executable.logits`."""
        if not isinstance(batch, DecodingBatch):
            return self.head(self.hidden(batch)[batch.sample_rows])
        if not self._graphs:
            return self._decoded(batch)
        seen, captures = self._seen.get(id(batch), (None, []))
        if seen is not batch:  # its kernels are compiled by running once
            self._seen[id(batch)] = batch, []
            return self._decoded(batch)
        if len(captures) < _RESULTS:
            captures.append(_Capture(lambda: self._decoded(batch)))
            return captures[-1].replay()
        captures.append(captures.pop(0))
        return captures[-1].replay()

    def _decoded(self, batch: Batch) -> Tensor:
        """The logits of a step whose rows are all sampled, in order."""
        self._ops.now.begin(batch)
        return self._whole.run(batch)[0]


class _Capture:
    """A CUDA graph of a computation, and the tensor that each replay writes."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = compute()

    def replay(self) -> Tensor:
        """Launch it. The result is overwritten by the next replay."""
        self._graph.replay()
        return self._result


NO_BATCH: Batch = None  # type: ignore[assignment]  # recording never looks at the batch


def lowered(
    ops: CudaOps, decoder: Decoder, piece: Callable[[Any], Any], given: Value | None = None
) -> tuple[Program, dict[str, int]]:
    """A piece of the model, a function of `given`, as a program, and the fusions in it."""
    graph: Graph = ops.record(decoder.groups, given)
    result = piece(given)
    graph.results = (result,)
    ops.graph = None
    whole, counts = fused(graph, FUSIONS)
    return Program(whole, ops.now), counts
