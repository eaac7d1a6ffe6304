"""`Sampling` by Triton kernels: ids stay on the device until somebody asks for them.

Ids equal those of the reference (`reference/sampling/filters.py`), unless a border of top_p, min_p
or the draw lies within the rounding of a float64 sum (1e-15 of it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.cuda.bias_table import CudaBiasTable
from rbee_worker.ops.cuda.drawn import CudaIds, Drawn
from rbee_worker.ops.cuda.kernels.sampling.draw import draw, planned
from rbee_worker.ops.cuda.kernels.sampling.peaks import greedy
from rbee_worker.ops.cuda.kernels.sampling.rows import COLUMNS
from rbee_worker.ops.cuda.kernels.sampling.score import scores
from rbee_worker.ops.cuda.upload import upload
from rbee_worker.ops.sampling import Bits, DrawParams
from rbee_worker.types import TokenLogprob


class CudaSampling:
    """See `ops.sampling.Sampling`. On the CPU its kernels run in Triton's interpreter.

    drawn: keeps the ids of the last draw for the next step, if steps overlap.
    """

    def __init__(self, device: torch.device, vocab_size: int, drawn: Drawn | None = None) -> None:
        self._device, self._vocab, self._drawn = device, vocab_size, drawn

    def greedy(self, logits: Tensor) -> CudaIds:
        """See `Sampling.greedy`."""
        return self._kept(greedy(self._checked(logits)))

    def choose(
        self,
        logits: Tensor,
        params: Sequence[DrawParams | None],
        masks: Mapping[int, Bits] | None = None,
    ) -> CudaIds:
        """See `Sampling.choose`."""
        if masks:
            logits = self._masked(logits, masks)
        plan = planned(params, self._vocab)
        settings = upload(plan.settings, self._device)
        return self._kept(draw(self._checked(logits), plan, settings))

    def score(
        self,
        logits: Tensor,
        ids: Sequence[int],
        tops: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> list[TokenLogprob]:
        """See `Sampling.score`."""
        if not ids:
            return []
        logits = self._checked(logits)
        if rows is not None:
            logits = logits[upload(np.array(rows, np.int64), self._device)]
        counts = [min(top, self._vocab) for top in tops]
        table = np.zeros((len(ids), COLUMNS))
        table[:, 0] = table[:, 2] = 1.0
        table[:, 1] = counts
        found = scores(
            logits,
            upload(np.array(ids, np.int32), self._device),
            upload(table, self._device) if any(counts) else None,
            max(counts),
        )
        chosen, peaks, totals, places, values = (t.cpu().tolist() for t in found)
        result = []
        for row, (token, count) in enumerate(zip(ids, counts, strict=True)):
            peak, norm = peaks[row], math.log(totals[row])
            pairs = list(zip(places[row][:count], values[row][:count], strict=True))
            pairs.sort(key=lambda pair: (-pair[1], pair[0]))
            top = tuple((other, _log(logit, peak, norm)) for other, logit in pairs)
            result.append(TokenLogprob(id=token, logprob=_log(chosen[row], peak, norm), top=top))
        return result

    def bias_table(self, max_seqs: int) -> CudaBiasTable:
        """See `Sampling.bias_table`."""
        return CudaBiasTable(max_seqs, self._device)

    def _masked(self, logits: Tensor, masks: Mapping[int, Bits]) -> Tensor:
        """A copy of logits [S, V] with -inf for every token that its row's mask excludes."""
        words = -(-self._vocab // 32)
        table = np.stack([bits[:words].view(np.int32) for bits in masks.values()])
        bits = upload(table, self._device)[:, :, None]  # [rows, words, 1]
        lanes = torch.arange(32, dtype=torch.int32, device=self._device)
        excluded = (bits >> lanes & 1 == 0).flatten(1)[:, : self._vocab]
        rows = upload(np.array(list(masks), np.int64), self._device)
        kept = logits.clone()
        kept[rows] = kept[rows].masked_fill(excluded, -torch.inf)
        return kept

    def _kept(self, ids: Tensor) -> CudaIds:
        if self._drawn is not None:
            self._drawn.keep(ids)
        return CudaIds(ids)

    def _checked(self, logits: Tensor) -> Tensor:
        assert logits.dtype == torch.float32
        assert logits.shape[1] == self._vocab
        return logits if logits.stride(1) == 1 else logits.contiguous()


def _log(value: float, peak: float, norm: float) -> float:
    return (0.0 if value == peak == math.inf else value - peak) - norm
