"""The header of a step, filled from a `Batch` (`step.py` says where things stand).

Everything a kernel will follow is checked here, because a wrong address is a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.ops.cpu import step
from rbee_worker.ops.cpu.angles import Angles
from rbee_worker.ops.cpu.team import Words
from rbee_worker.state.specs import PagedKV, StateGroup, row_bytes

KV_TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i8": torch.int8}


@dataclass(frozen=True)
class Shape:
    """What a model is recorded for. rows: tokens of a step at most; head_rows: logits at once;
    longest: tokens of a sequence at most."""

    rows: int
    head_rows: int
    longest: int
    block_size: int
    kv: str  # dtype of keys and values


class Header:
    """The words of one program's steps, and the tables of its rotary positions."""

    def __init__(
        self, groups: Sequence[StateGroup], ropes: Sequence[RopeSpec], shape: Shape
    ) -> None:
        self.groups, self.shape = groups, shape
        self._angles = [Angles(spec) for spec in ropes]
        self.words: Words = np.zeros(step.words(len(groups), len(ropes)), np.int64)

    @contextmanager
    def of(self, batch: Batch) -> Iterator[Words]:
        """The words for `batch`, good inside the context: they point at numbers it keeps alive."""
        keep = self._write(batch, batch.tokens.shape[0])
        yield self.words
        del keep

    def rows(self, n: int) -> Words:
        """The words for n rows of what looks at no batch."""
        self.words[step.N // 8] = n
        return self.words

    def _write(self, batch: Batch, n: int) -> list[object]:
        """Fill the header. Returns what its addresses point to."""
        if batch.token_from is not None or batch.embeds is not None or batch.memory is not None:
            raise UnsupportedModel(
                "the cpu backend takes token ids, not embeddings or encoder states.",
                fix="use --backend reference.",
            )
        header = self.words
        ids = (batch.tokens, batch.positions, batch.seq_starts, batch.kv_lens, batch.rope_lens)
        tokens, positions, starts, lens, rope_lens = (_words(t) for t in ids)
        sequences = len(lens)
        assert len(positions) == n
        assert len(starts) == sequences + 1
        header[step.N // 8], header[step.B // 8] = n, sequences
        header[step.TOKENS // 8] = tokens.ctypes.data
        header[step.POSITIONS // 8] = positions.ctypes.data
        header[step.SEQ_STARTS // 8] = starts.ctypes.data
        header[step.KV_LENS // 8] = lens.ctypes.data
        keep: list[object] = [tokens, positions, starts, lens]
        longest = max(batch.kv_lens_host, default=0)
        assert longest <= self.shape.longest, f"{longest} tokens, made for {self.shape.longest}"
        assert tuple(starts.tolist()) == batch.seq_starts_host
        for number, (group, state) in enumerate(zip(self.groups, batch.state, strict=True)):
            if isinstance(state, PagedState):
                keep += self._write_group(number, group, state, n, sequences, longest)
        for number, angles in enumerate(self._angles):
            table, index = angles.at(positions, starts, rope_lens, longest)
            at = step.rope_at(number, len(self.groups)) // 8
            header[at + step.ANGLES // 8] = table.ctypes.data
            header[at + step.INDEX // 8] = index.ctypes.data
            keep += [table, index]
        return keep

    def _write_group(
        self,
        number: int,
        group: StateGroup,
        state: PagedState,
        n: int,
        sequences: int,
        longest: int,
    ) -> list[object]:
        size = self.shape.block_size
        spec = group.spec
        assert isinstance(spec, PagedKV)
        blocks = state.k.shape[1]
        for tensor, dim in ((state.k, spec.k_dim), (state.v, spec.v_dim)):
            row = row_bytes(self.shape.kv, dim) // tensor.element_size()
            assert tensor.shape == (group.layers, blocks, size, spec.heads, row), tensor.shape
            assert tensor.dtype == KV_TORCH[self.shape.kv]
            assert tensor.is_contiguous()
        table = np.ascontiguousarray(state.table.numpy())
        slots = _words(state.slots)
        assert table.dtype == np.int32
        assert table.shape[0] == sequences
        assert table.shape[1] * size >= longest
        assert len(slots) == n
        if n:
            assert table.min() >= 0
            assert table.max() < blocks
            assert slots.min() >= 0
            assert slots.max() < blocks * size
        at = step.group_at(number) // 8
        header = self.words
        header[at + step.K // 8] = state.k.data_ptr()
        header[at + step.K_LAYER // 8] = state.k.nbytes // group.layers
        header[at + step.V // 8] = state.v.data_ptr()
        header[at + step.V_LAYER // 8] = state.v.nbytes // group.layers
        header[at + step.TABLE // 8] = table.ctypes.data
        header[at + step.TABLE_WIDTH // 8] = table.shape[1]
        header[at + step.SLOTS // 8] = slots.ctypes.data
        return [table, slots]


def _words(t: Tensor) -> Words:
    assert t.dtype == torch.int64
    words: Words = np.ascontiguousarray(t.numpy())
    return words
