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
        self._caches: dict[int, tuple[Tensor, Tensor]] = {}  # by group, as last written
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
        sequences = len(batch.kv_lens_host)
        assert len(batch.seq_starts_host) == sequences + 1
        header[step.N // 8], header[step.B // 8] = n, sequences
        header[step.TOKENS // 8] = _address(batch.tokens, n)
        header[step.POSITIONS // 8] = _address(batch.positions, n)
        header[step.SEQ_STARTS // 8] = _address(batch.seq_starts, sequences + 1)
        header[step.KV_LENS // 8] = _address(batch.kv_lens, sequences)
        keep: list[object] = [batch]
        longest = max(batch.kv_lens_host, default=0)
        assert longest <= self.shape.longest, f"{longest} tokens, made for {self.shape.longest}"
        assert tuple(batch.seq_starts.tolist()) == batch.seq_starts_host
        for number, (group, state) in enumerate(zip(self.groups, batch.state, strict=True)):
            if isinstance(state, PagedState):
                self._write_group(number, group, state, n, sequences, longest)
        for number, angles in enumerate(self._angles):
            table, index = angles.at(
                batch.positions.numpy(), batch.seq_starts.numpy(), batch.rope_lens.numpy(), longest
            )
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
    ) -> None:
        known = self._caches.get(number)
        if known is None or known[0] is not state.k or known[1] is not state.v:
            self._write_cache(number, group, state)
        size, blocks = self.shape.block_size, state.k.shape[1]
        table, slots = state.table, state.slots
        assert table.dtype == torch.int32
        assert table.is_contiguous()
        assert table.shape[0] == sequences
        assert table.shape[1] * size >= longest
        if n:  # a negative number is a large one without its sign
            assert table.numpy().view(np.uint32).max() < blocks
            assert slots.numpy().view(np.uint64).max() < blocks * size
        at = step.group_at(number) // 8
        header = self.words
        header[at + step.TABLE // 8] = table.data_ptr()
        header[at + step.TABLE_WIDTH // 8] = table.shape[1]
        header[at + step.SLOTS // 8] = _address(slots, n)

    def _write_cache(self, number: int, group: StateGroup, state: PagedState) -> None:
        """Where keys and values lie; the same in every step of an engine."""
        size, spec, blocks = self.shape.block_size, group.spec, state.k.shape[1]
        assert isinstance(spec, PagedKV)
        for tensor, dim in ((state.k, spec.k_dim), (state.v, spec.v_dim)):
            row = row_bytes(self.shape.kv, dim) // tensor.element_size()
            assert tensor.shape == (group.layers, blocks, size, spec.heads, row), tensor.shape
            assert tensor.dtype == KV_TORCH[self.shape.kv]
            assert tensor.is_contiguous()
        at = step.group_at(number) // 8
        header = self.words
        header[at + step.K // 8] = state.k.data_ptr()
        header[at + step.K_LAYER // 8] = state.k.nbytes // group.layers
        header[at + step.V // 8] = state.v.data_ptr()
        header[at + step.V_LAYER // 8] = state.v.nbytes // group.layers
        self._caches[number] = (state.k, state.v)


def _address(t: Tensor, count: int) -> int:
    """Of `count` int64 one after another."""
    assert t.dtype == torch.int64
    assert t.shape == (count,)
    assert t.is_contiguous()
    return t.data_ptr()
