"""`Sampling` on the team's threads: one replay goes from logits to ids, without other threads.

Records describe the rows to the kernels (`sampling_memory.py`); every address in a record is
checked here. Ids equal torch's (`reference/sampling/filters.py`): comparisons are exact and sums
are float64 on both sides. They may differ only if a border of top_p, min_p or the draw lies within
the rounding of such a sum (1e-15 of it).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from rbee_worker.ops.cpu.backend.bias_table import CpuBiasTable, address_of
from rbee_worker.ops.cpu.backend.masks import CpuMasks
from rbee_worker.ops.cpu.runtime.native import Args, Library
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import sampling_memory as m
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.regions import Words, address, zeros
from rbee_worker.ops.sampling import Bits, DrawParams, HostIds
from rbee_worker.types import TokenLogprob

KERNELS = (
    *("sample.scan", "sample.sums", "sample.choose"),
    *("edits.apply", "edits.undo", "masks.apply"),
)

_Row = tuple[int, int, float, float, float, float, int]  # the words of a record after its address
_GREEDY: _Row = (m.GREEDY, 0, 1.0, 1.0, 0.0, 0.0, 0)
_GIVEN = struct.Struct("=3q4dq")  # the part of a record before its results
_BITS = struct.Struct("=q")
_FOUND = struct.Struct(f"={m.ID}xqdd")  # id, peak, total
_PAIR = np.dtype([("id", np.int32), ("logit", np.float32)])


class _KnownLogits(NamedTuple):
    """What is known about an array of logits. stride: bytes between rows."""

    logits: F32
    rows: int
    address: int
    stride: int


class CpuSampling:
    """See `ops.sampling.Sampling`. Called by the thread that runs the team."""

    def __init__(self, library: Library, team: Team, vocab_size: int) -> None:
        library.load(KERNELS)
        self._library, self._team, self._vocab = library, team, vocab_size
        blocks = m.blocks(vocab_size)
        self._width = m.padded(blocks)
        self._scratch = zeros(team.threads * m.scratch_bytes(vocab_size))
        header: Words = np.zeros(2, np.int64)
        self._header = memoryview(header)  # type: ignore[arg-type]
        self._header_at = address(header)
        self._known: _KnownLogits | None = None
        self._masks = CpuMasks(vocab_size)
        self._reserve(8)

    def _reserve(self, rows: int) -> None:
        """Make space for `rows` rows at once, and programs that read it."""
        blocks = m.blocks(self._vocab)
        self._room = rows
        records = zeros(rows * m.RECORD)
        self._records = memoryview(records).cast("B")  # type: ignore[arg-type]
        self._ids = self._records.cast("q")[m.ID // 8 :: m.RECORD // 8]
        self._greedy_rows = 0  # rows of `_known` whose records are still those of `greedy`
        self._header[m.RECORDS // 8] = address(records)
        tops = np.full((rows, self._width), -np.inf, np.float32)
        shared: dict[str, Any] = {"vocab": self._vocab, "blocks": blocks, "width": self._width}
        groups, sums = np.zeros((rows, blocks, 16), np.float32), np.zeros((rows, blocks))
        scan = self._library["sample.scan"].pack(**shared, tops=tops, groups=groups)
        add = self._library["sample.sums"].pack(**shared, tops=tops, sums=sums)
        choose = self._library["sample.choose"].pack(
            **shared,
            tops=tops,
            groups=groups,
            sums=sums,
            scratch=self._scratch,
            scratch_bytes=m.scratch_bytes(self._vocab),
            places=m.padded(self._vocab),
        )
        powers = np.left_shift(1, np.arange(16), dtype=np.int32)
        mask = self._library["masks.apply"].pack(vocab=self._vocab, blocks=blocks, powers=powers)
        self._keep: list[Args] = [scan, add, choose, mask]
        kernels = {"sample.scan": scan, "sample.sums": add, "sample.choose": choose}
        entries = [
            Instruction(self._library[name].address, args.address, int(name != "sample.scan"))
            for name, args in kernels.items()
        ]
        # A thread scans the blocks that it has masked: nothing to wait for between the two.
        first = Instruction(self._library["masks.apply"].address, mask.address, 0)
        self._entries = words([first, *entries, entries[0], entries[2]])
        at, size = address(self._entries), self._entries[:1].nbytes
        self._masked = at, 4
        self._program = at + size, 3
        self._short = at + 4 * size, 2  # without the sums

    def _run(
        self,
        logits: F32,
        records: Iterable[_Row],
        rows: Sequence[int],
        *,
        sums: bool = True,
        masks: Mapping[int, Bits] | None = None,
    ) -> range:
        """Replay over some rows of logits [S, V]. Returns the offset of each row's record, in
        bytes.

        sums: whether any row may need the sum of its weights. masks: by place among `rows`.
        """
        known = self._look_at(logits)
        if len(rows) > self._room:
            self._reserve(len(rows))
        self._greedy_rows = 0
        places = range(0, len(rows) * m.RECORD, m.RECORD)
        for place, row, record in zip(places, rows, records, strict=True):
            assert 0 <= row < known.rows
            at = known.address + row * known.stride
            _GIVEN.pack_into(self._records, place, at, *record)
            _BITS.pack_into(self._records, place + m.BITS, 0)
        if masks:
            assert max(masks) < len(rows)
            self._masks.write(self._records, masks)
            self._header[m.ROWS // 8] = len(rows)
            self._team.replay(*self._masked, self._header_at)
        else:
            self._replay(len(rows), sums)
        return places

    def _replay(self, rows: int, sums: bool) -> None:
        self._header[m.ROWS // 8] = rows
        self._team.replay(*(self._program if sums else self._short), self._header_at)

    def _look_at(self, logits: F32) -> _KnownLogits:
        """Check an array of logits. A model passes the same array at each step with as many rows,
        so its address is read once."""
        known = self._known
        if known is None or known.logits is not logits:
            place, stride = address_of(logits, self._vocab)
            known = self._known = _KnownLogits(logits, len(logits), place, stride)
            self._greedy_rows = 0
        return known

    def greedy(self, logits: F32) -> HostIds:
        """See `Sampling.greedy`."""
        rows = self._look_at(logits).rows
        if rows and rows == self._greedy_rows:  # as in the previous step, whose records still hold
            self._replay(rows, sums=False)
        else:
            self._run(logits, repeat(_GREEDY, rows), range(rows), sums=False)
            self._greedy_rows = rows
        return HostIds(self._ids[:rows].tolist())

    def choose(
        self,
        logits: F32,
        params: Sequence[DrawParams | None],
        masks: Mapping[int, Bits] | None = None,
    ) -> HostIds:
        """See `Sampling.choose`."""
        records = [_GREEDY if one is None else self._record(one) for one in params]
        rows = len(self._run(logits, records, range(self._look_at(logits).rows), masks=masks))
        return HostIds(self._ids[:rows].tolist())

    def _record(self, params: DrawParams) -> _Row:
        scale, top_k, top_p, min_p, u = params
        return m.DRAW, top_k if top_k < self._vocab else 0, scale, top_p, min_p, u, 0

    def score(
        self,
        logits: F32,
        ids: Sequence[int],
        tops: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> list[TokenLogprob]:
        """See `Sampling.score`."""
        which = range(logits.shape[0]) if rows is None else rows
        counts = [min(top, self._vocab) for top in tops]
        best = [np.zeros(count, _PAIR) for count in counts]
        records = [
            (m.SCORE, count, 1.0, 1.0, 0.0, 0.0, address(pairs))
            for count, pairs in zip(counts, best, strict=True)
        ]
        places = self._run(logits, records, which)
        chosen = logits[list(which), list(ids)].tolist()
        result = []
        for place, pairs, token, value in zip(places, best, ids, chosen, strict=True):
            _, peak, total = _FOUND.unpack_from(self._records, place)
            norm = math.log(total)
            top = tuple((other, _log(logit, peak, norm)) for other, logit in pairs.tolist())
            result.append(TokenLogprob(id=token, logprob=_log(value, peak, norm), top=top))
        return result

    def bias_table(self, max_seqs: int) -> CpuBiasTable:
        """See `Sampling.bias_table`."""
        return CpuBiasTable(self._library, self._team, max_seqs)


def _log(value: float, peak: float, norm: float) -> float:
    return (0.0 if value == peak == math.inf else value - peak) - norm
