"""`CpuModel`: a `Decoder` recorded once and replayed for every step, as the engine sees it.

The model's Python runs only when this object is made: once for a whole step, of which `hidden`
replays the beginning and `logits` all, and once for `head` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu.backend.mtp import CpuMtp, mtp_names
from rbee_worker.ops.cpu.backend.ops import CpuOps, check_block_size
from rbee_worker.ops.cpu.backend.recorded import Recorded, Stage, record, trace
from rbee_worker.ops.cpu.backend.tower import CpuTower, tower_names
from rbee_worker.ops.cpu.backend.voice import CpuVoice, voice_names
from rbee_worker.ops.cpu.runtime.header import Header, Shape, longest_of
from rbee_worker.ops.cpu.runtime.program import F32, Program
from rbee_worker.ops.cpu.shared.regions import Words
from rbee_worker.ops.guidance import guided

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder


class CpuModel:
    """Hidden states and logits by replay. Results are views that the next call overwrites."""

    def __init__(self, decoder: Decoder, ops: CpuOps, shape: Shape) -> None:
        check_block_size(shape.block_size)
        self.groups = decoder.groups
        self.vocab_size = decoder.vocab_size
        self.context = decoder.context
        self.decoder, self.ops, self.team = decoder, ops, ops.team
        self._head = self._recorded(shape, _head(decoder, shape))
        self._head_header = Header((), (), shape)
        self._tower = None if decoder.tower is None else CpuTower(decoder.tower, ops)
        self._mtp = None if decoder.mtp is None else CpuMtp(decoder.mtp, decoder.groups, ops, shape)
        self._voice = None if decoder.voice is None else CpuVoice(decoder.voice, ops)
        self._record_whole(shape)

    def _record_whole(self, shape: Shape) -> None:
        self.shape = shape
        self._whole = self._recorded(shape, _whole(self.decoder, shape))
        self._header = Header(self.groups, self._whole.ropes, shape)
        single = replace(shape, rows=1, head_rows=1)
        self._single = self._recorded(single, _whole(self.decoder, single))
        assert self._single.ropes == self._whole.ropes  # both use one header
        if self.decoder.start is not None:
            self._encoder = self._recorded(shape, _encode(self.decoder, shape))

    def _recorded(self, shape: Shape, stages: tuple[Stage, ...]) -> Recorded:
        return record(self.groups, self.decoder.width, self.ops, shape, *stages)

    def see(self, tile: NDArray[np.uint8]) -> F32:
        """See `Executable.see`."""
        assert self._tower is not None
        return self._tower.see(tile)

    def mtp_hidden(self, rows: F32, batch: Batch) -> F32:
        """See `Executable.mtp_hidden`."""
        assert self._mtp is not None
        return self._mtp.hidden(rows, batch)

    def mtp_head(self, rows: F32) -> F32:
        """See `Executable.mtp_head`."""
        assert self._mtp is not None
        return self._mtp.head(rows)

    def voice(self, embedding: F32) -> F32:
        """See `Executable.voice`."""
        assert self._voice is not None
        return self._voice.row(embedding)

    def encode(self, batch: Batch, times: list[Words] | None = None) -> F32:
        """See `Executable.encode`."""
        n = self._fit(batch)
        assert not self._encoder.ropes  # it uses the header of the other programs
        return self._encoder.program.run(self.team, self._header.write(batch), n, times)

    def hidden(self, batch: Batch, times: list[Words] | None = None) -> F32:
        """N rows -> normalised hidden states float32 [N, dim].

        If a step is larger than the model was recorded for, it is recorded again, which takes a
        moment.
        """
        n = self._fit(batch)
        header = self._header.write(batch)
        return self._for(n).run(self.team, header, n, times, stage=0)

    def head(self, rows: F32, times: list[Words] | None = None) -> F32:
        """Hidden states [S, dim] -> logits float32 [S, vocab]."""
        n, most = len(rows), self.shape.head_rows
        if n > most:
            logits = np.empty((n, self.decoder.outputs), np.float32)
            for at in range(0, n, most):
                logits[at : at + most] = self.head(rows[at : at + most], times)
            return logits
        self._head.give(rows)
        return self._head.program.run(self.team, self._head_header.rows(n), n, times)

    def logits(self, batch: Batch, times: list[Words] | None = None) -> F32:
        """N rows, S of them sampled -> logits float32 [S, vocab]: the head of those rows' hidden
        states, bit for bit. If every row is sampled, as in decoding, one replay computes both."""
        n = self._fit(batch)
        header = self._header.write(batch)
        if n <= self.shape.head_rows and self._header.samples_all:
            return self._for(n).run(self.team, header, n, times)
        hidden = self._for(n).run(self.team, header, n, times, stage=0)
        return self.head(hidden[batch.sample_rows], times)

    def guided(self, batch: Batch, scales: Sequence[float]) -> F32:
        """See `Executable.guided`."""
        logits: F32 = guided(self.logits(batch), scales)
        return logits

    def host(self, rows: F32) -> F32:
        """See `Executable.host`: they are there already."""
        return rows

    def _for(self, n: int) -> Program:
        """The program for n rows."""
        return (self._single if n == 1 else self._whole).program

    def _fit(self, batch: Batch) -> int:
        """The number of the step's rows; from now on there is space for them."""
        n, longest = batch.seq_starts_host[-1], longest_of(batch)
        if n > self.shape.rows or longest > self.shape.longest:
            rows, most = max(n, self.shape.rows), max(longest, self.shape.longest)
            self._record_whole(replace(self.shape, rows=rows, longest=most))
        return n


def _head(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    return ((lambda x, _: decoder.head(x), shape.head_rows),)


def _encode(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    """A step that reads sources."""
    return ((lambda _, batch: decoder.encode(batch), shape.rows),)


def _whole(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    """The hidden states of a step, and their head if the rows are not too many for it."""
    head, rows = _head(decoder, shape)[0]
    return (lambda _, batch: decoder.hidden(batch), shape.rows), (head, min(rows, shape.rows))


def decoding_names(decoder: Decoder, ops: CpuOps, shape: Shape) -> list[str]:
    """The kernels that recording a step of `decoder` calls; `ops` may hold no weights
    (`outline.py`)."""
    return _names(decoder, ops, shape, _whole(decoder, shape))


def kernel_names(decoder: Decoder, ops: CpuOps, shape: Shape) -> list[str]:
    """`decoding_names`, and the kernels of what reads sources and pictures."""
    names = decoding_names(decoder, ops, shape)
    if decoder.start is not None:
        names += _names(decoder, ops, shape, _encode(decoder, shape))
    if decoder.mtp is not None:
        names += mtp_names(decoder.mtp, decoder.groups, ops, shape)
    if decoder.tower is not None:
        names += tower_names(decoder.tower, ops)
    if decoder.voice is not None:
        names += voice_names(decoder.voice, ops)
    return list(dict.fromkeys(names))


def _names(decoder: Decoder, ops: CpuOps, shape: Shape, stages: tuple[Stage, ...]) -> list[str]:
    entries = trace(decoder.groups, decoder.width, ops, shape, stages)[0].entries
    return list(dict.fromkeys(call.kernel for call in entries))
