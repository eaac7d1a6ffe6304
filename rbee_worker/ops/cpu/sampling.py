"""`Sampling` on the team's threads: one replay from logits to ids, no other thread is woken.

Rows go to the kernels as records (`sampling_memory.py`); what a kernel will follow is checked here.
Ids equal torch's (`engine/filters.py`): comparisons are exact and sums are float64 on both sides.
Only where a border of top_p, min_p or the draw lies within the rounding of such a sum (1e-15 of
it) may the two differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rbee_worker.ops.cpu import sampling_memory as m
from rbee_worker.ops.cpu.entries import CpuEntries
from rbee_worker.ops.cpu.native import Args, Library
from rbee_worker.ops.cpu.team import Team, Words
from rbee_worker.ops.sampling import Bools, Cuts
from rbee_worker.types import TokenLogprob

KERNELS = ("sample.scan", "sample.sums", "sample.choose", "bend.do", "bend.undo")

_FLOATS = slice(m.SCALE // 8, m.U // 8 + 1)  # scale, top_p, min_p, u
_PAIR = np.dtype([("id", np.int32), ("logit", np.float32)])


class CpuSampling:
    """See `ops.sampling.Sampling`. Called by the thread that runs the team."""

    def __init__(self, library: Library, team: Team, vocab_size: int) -> None:
        library.load(KERNELS)
        self._library, self._team, self._vocab = library, team, vocab_size
        blocks = m.blocks(vocab_size)
        self._width = m.padded(blocks)
        self._scratch = _memory(team.threads * m.scratch_bytes(vocab_size))
        self._header: Words = np.zeros(2, np.int64)
        self._reserve(8)

    def _reserve(self, rows: int) -> None:
        """Room for `rows` rows at once; the programs' addresses are of that room."""
        blocks = m.blocks(self._vocab)
        self._records: Words = np.zeros((rows, m.RECORD // 8), np.int64)
        self._numbers = self._records.view(np.float64)
        self._header[m.RECORDS // 8] = self._records.ctypes.data
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
        self._keep: list[Args] = [scan, add, choose]
        entries = [
            (self._library[f"sample.{name}"].address, args.address, int(name != "scan"))
            for name, args in (("scan", scan), ("sums", add), ("choose", choose))
        ]
        self._program: Words = np.array(entries, np.int64)
        self._short: Words = np.array([entries[0], entries[2]], np.int64)  # nothing to sum

    def _rows(self, logits: Tensor) -> Words:
        """Records of the rows of logits [S, V], all greedy."""
        assert logits.dtype == torch.float32
        assert logits.shape[1] == self._vocab
        assert logits.stride(1) == 1 or self._vocab == 1
        n = logits.shape[0]
        if n > len(self._records):
            self._reserve(n)
        records = self._records[:n]
        first, stride = logits.data_ptr(), 4 * logits.stride(0)
        records[:, m.LOGITS // 8] = range(first, first + n * stride, stride) if n > 1 else first
        records[:, m.KIND // 8] = m.GREEDY
        self._header[m.ROWS // 8] = n
        return records

    def greedy(self, logits: Tensor) -> list[int]:
        """See `Sampling.greedy`."""
        records = self._rows(logits)
        self._team.run(self._short, self._header)
        found: list[int] = records[:, m.ID // 8].tolist()
        return found

    def choose(self, logits: Tensor, cuts: Cuts, greedy: Bools) -> list[int]:
        """See `Sampling.choose`."""
        records = self._rows(logits)
        n = len(records)
        records[:, m.KIND // 8] = ~greedy  # DRAW is 1
        records[:, m.TOP_K // 8] = np.where(cuts.top_k < self._vocab, cuts.top_k, 0)
        self._numbers[:n, _FLOATS] = np.stack((cuts.scale, cuts.top_p, cuts.min_p, cuts.u), axis=1)
        self._team.run(self._program, self._header)
        found: list[int] = records[:, m.ID // 8].tolist()
        return found

    def score(self, logits: Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
        """See `Sampling.score`."""
        records = self._rows(logits)
        n, most = len(records), min(max(tops, default=0), self._vocab)
        best = np.zeros((n, most), _PAIR)
        records[:, m.KIND // 8] = m.SCORE
        records[:, m.TOP_K // 8] = np.minimum(tops, self._vocab)
        records[:, m.BEST // 8] = best.ctypes.data + best.strides[0] * np.arange(n)
        self._numbers[:n, _FLOATS] = (1.0, 1.0, 0.0, 0.0)
        self._team.run(self._program, self._header)
        peaks = self._numbers[:n, m.PEAK // 8].tolist()
        totals = self._numbers[:n, m.TOTAL // 8].tolist()
        chosen = logits.numpy()[np.arange(n), list(ids)].tolist()
        places, values = best["id"].tolist(), best["logit"].tolist()
        result = []
        for i, (peak, total) in enumerate(zip(peaks, totals, strict=True)):
            norm = math.log(total)
            pairs = zip(places[i][: tops[i]], values[i][: tops[i]], strict=True)
            top = tuple((token, _log(value, peak, norm)) for token, value in pairs)
            result.append(TokenLogprob(id=ids[i], logprob=_log(chosen[i], peak, norm), top=top))
        return result

    def entries(self, max_seqs: int) -> CpuEntries:
        """See `Sampling.entries`."""
        return CpuEntries(self._library, self._team, max_seqs)


def _log(value: float, peak: float, norm: float) -> float:
    return (0.0 if value == peak == math.inf else value - peak) - norm


def _memory(nbytes: int) -> npt.NDArray[np.uint8]:
    """Bytes from a cache line on; the system gives pages when they are touched."""
    raw = np.zeros(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]
