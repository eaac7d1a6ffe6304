"""`CudaModel`: a `Decoder` recorded once, lowered, and run; decoding steps replay CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.lowering import NO_BATCH, lowered
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.program import Program
from rbee_worker.ops.cuda.state import DecodingBatch
from rbee_worker.ops.cuda.tower import CudaTower
from rbee_worker.ops.graph.graph import Graph, Value
from rbee_worker.ops.graph.sampled import sampled
from rbee_worker.ops.guidance import guided
from rbee_worker.ops.reference.ops import DTYPES

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder

_RESULTS = 2  # results of steps that must survive: the last step's while the next one runs
_FEW = 64  # sequences up to which logits are in the graph: a graph keeps the memory for its results
_KEPT = 64  # batches whose graphs are kept


class CudaModel:
    """See `ops.executable.Executable`. fused: how often each fusion applied, by name."""

    def __init__(self, decoder: Decoder, *, graphs: bool) -> None:
        assert isinstance(decoder.ops, CudaOps)
        self.groups, self.vocab_size = decoder.groups, decoder.vocab_size
        self.context = decoder.context
        self._ops = decoder.ops
        decoder.ops.weights_done()
        self._head, _ = lowered(decoder.ops, decoder.groups, decoder.head, Value(decoder.width))
        self._hidden, _ = self._lowered(decoder, lambda _: decoder.hidden(NO_BATCH))
        # a decoding step at once, so that the last norm is computed with the head
        self._whole, self.fused = self._lowered(
            decoder, lambda _: decoder.head(decoder.hidden(NO_BATCH))
        )
        # a step with prompts, whose last operations have the sampled rows only
        self._sampled, _ = self._lowered(
            decoder, lambda _: decoder.head(decoder.hidden(NO_BATCH)), change=sampled
        )
        self._encoder: _Programs | None = None
        if decoder.start is not None:
            self._encoder, _ = self._lowered(decoder, lambda _: decoder.encode(NO_BATCH))
        self._tower = None if decoder.tower is None else CudaTower(decoder.tower, decoder.ops)
        self._voice: Program | None = None
        if (voice := decoder.voice) is not None:
            piece = partial(decoder.ops.linear, weight=voice.weight)
            self._voice, _ = lowered(decoder.ops, (), piece, Value(voice.weight.cols))
        self._graphs = graphs
        self._seen: dict[int, tuple[Batch, list[_Capture]]] = {}  # by the batch's id

    def _lowered(
        self,
        decoder: Decoder,
        piece: Callable[[Any], Any],
        change: Callable[[Graph], Graph] | None = None,
    ) -> tuple[_Programs, dict[str, int]]:
        """The programs of a piece, and the fusions in the one that most steps use. change: see
        `lowered`."""
        ops = self._ops
        plain, counts = lowered(ops, decoder.groups, piece, adapting=False, change=change)
        if ops.sites is None:
            return _Programs(plain, plain), counts
        adapted, with_adapters = lowered(ops, decoder.groups, piece, change=change)
        if ops.now.fixed:  # one program, so that all sums have one order
            return _Programs(adapted, adapted), with_adapters
        return _Programs(plain, adapted), counts

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Tensor:
        """See `Executable.encode`."""
        assert self._encoder is not None
        return self._computed(self._encoder, batch)

    def see(self, tile: NDArray[np.uint8]) -> Tensor:
        """See `Executable.see`."""
        assert self._tower is not None
        return self._tower.see(tile)

    def mtp_hidden(self, rows: NDArray[np.float32], batch: Batch) -> Tensor:
        """See `Executable.mtp_hidden`."""
        raise AssertionError("models are built without such layers here")

    def mtp_head(self, rows: NDArray[np.float32]) -> Tensor:
        """See `Executable.mtp_head`."""
        raise AssertionError("models are built without such layers here")

    @torch.inference_mode()
    def voice(self, embedding: NDArray[np.float32]) -> Tensor:
        """See `Executable.voice`."""
        assert self._voice is not None
        given = torch.from_numpy(embedding)[None].to(self._ops.device, DTYPES[self._ops.dtype])
        return self._voice.run(None, given)[0]

    @torch.inference_mode()
    def guided(self, batch: Batch, scales: Sequence[float]) -> Tensor:
        """See `Executable.guided`."""
        joined: Tensor = guided(self.logits(batch), scales)
        return joined

    @torch.inference_mode()
    def hidden(self, batch: Batch) -> Tensor:
        """See `Executable.hidden`."""
        return self._computed(self._hidden, batch)

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
            return self._computed(self._sampled, batch)
        if not self._graphs:
            return self._decoded(batch)
        if batch.tokens.shape[0] <= _FEW:
            return self._replayed(batch, self._decoded, _RESULTS)
        return self.head(self._replayed(batch, self.hidden, 1))

    def _replayed(self, batch: Batch, compute: Callable[[Batch], Tensor], results: int) -> Tensor:
        """compute(batch) by a graph, from the second time on. results: how many of the last ones
        must survive."""
        seen, captures = self._seen.get(id(batch), (None, []))
        if seen is not batch:  # its kernels are compiled by running once
            if len(self._seen) >= _KEPT:
                self._seen.pop(next(iter(self._seen)))
            self._seen[id(batch)] = batch, []
            return compute(batch)
        if len(captures) < results:
            captures.append(_Capture(lambda: compute(batch)))
            return captures[-1].replay()
        captures.append(captures.pop(0))
        return captures[-1].replay()

    def _decoded(self, batch: Batch) -> Tensor:
        """The logits of a step whose rows are all sampled, in order."""
        return self._computed(self._whole, batch)

    def _computed(self, programs: _Programs, batch: Batch) -> Tensor:
        self._ops.now.begin(batch)
        program = programs.plain if batch.adapters is None else programs.adapted
        return program.run(batch)[0]


class _Programs(NamedTuple):
    """A piece of a model for steps without adapters, in which more fusions apply, and with them."""

    plain: Program
    adapted: Program


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
