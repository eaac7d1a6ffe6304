"""Our side of benchmarks/cpu.py: MODEL THREADS wall|cpu. Greedy decoding without an engine.

Besides the rows: what one token reads (bytes of weights, bytes of cache for each token before it)
and how fast this machine's memory is read in the same minute.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model, outline_model
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.ops.cpu import isa
from rbee_worker.ops.cpu.backend import CpuOps
from rbee_worker.ops.cpu.bandwidth import read_gb_s
from rbee_worker.ops.cpu.header import Shape
from rbee_worker.ops.cpu.model import CpuModel
from rbee_worker.ops.cpu.native import Library
from rbee_worker.ops.cpu.team import Team
from rbee_worker.ops.cpu.traffic import TrafficOps
from rbee_worker.state.specs import PagedKV

BLOCK, CONTEXT = 16, 640  # tokens a cache block; tokens a sequence may have


class Sequences:
    """Sequences of one length each, with cache rows of their own (float16, as the peer's)."""

    def __init__(self, model: CpuModel, count: int) -> None:
        self.model, per = model, CONTEXT // BLOCK
        self._table = 1 + np.arange(count * per, dtype=np.int32).reshape(count, per)
        places = self._table.astype(np.int64)[:, :, None] * BLOCK + np.arange(BLOCK)
        self._slots = places.reshape(count, CONTEXT)
        self.caches = []
        for group in model.groups:
            if isinstance(group.spec, PagedKV):
                shape = (group.layers, 1 + count * per, BLOCK, group.spec.heads)
                widths = (group.spec.k_dim, group.spec.v_dim)
                kept = tuple(torch.zeros(*shape, d, dtype=torch.float16) for d in widths)
            else:
                shapes = group.spec.shapes
                kept = tuple(torch.zeros(group.layers, 1 + count, *s) for s in shapes)
            self.caches.append((isinstance(group.spec, PagedKV), kept))

    @property
    def bytes_a_token(self) -> int:
        """Bytes of cache that a step reads for each token before it, of one sequence."""
        specs = [(g.layers, g.spec) for g in self.model.groups if isinstance(g.spec, PagedKV)]
        return sum(layers * spec.bytes_per_token("f16") for layers, spec in specs)

    def feed(self, tokens: list[list[int]], done: int) -> torch.Tensor:
        """The next tokens of every sequence, each `done` tokens long: logits of the last ones."""
        n, b = len(tokens[0]), len(tokens)
        starts, lens = tuple(range(0, n * b + 1, n)), (done + n,) * b
        lengths, table = np.array(lens), self._table[:b]
        slots, own = (
            np.ascontiguousarray(self._slots[:b, done : done + n]).reshape(-1),
            np.arange(b),
        )
        of = torch.from_numpy
        batch = Batch(
            of(np.array(tokens).reshape(-1)), of(np.tile(np.arange(done, done + n), b)),
            of(np.array(starts)), of(lengths), of(lengths), of(np.array(starts[1:]) - 1),
            tuple(PagedState(kept[0], kept[1], of(table), of(slots)) if paged
                  else FixedState(kept, of(own + 1)) for paged, kept in self.caches), starts, lens,
        )  # fmt: skip
        hidden = self.model.hidden(batch)
        return self.model.head(hidden if n == 1 else hidden[batch.sample_rows])


def main(path: str, threads: int, clock: str) -> None:
    torch.set_num_threads(1)
    now = time.process_time if clock == "cpu" else time.perf_counter
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    ops = CpuOps(library, Team(library, threads))
    shape, ckpt = Shape(512, 8, CONTEXT, BLOCK, "f16"), open_checkpoint(path)
    model = CpuModel(build_model(ckpt, ops), ops, shape)
    traffic = TrafficOps()
    traffic.count(outline_model(ckpt, traffic), shape)

    sampling = ops.sampling(model.vocab_size)

    def words(count: int) -> list[int]:
        return [(100 + i) % model.vocab_size for i in range(count)]

    def rate(count: int, prompt: int, steps: int) -> float:
        seqs = Sequences(model, count)
        seqs.feed([words(prompt)] * count, 0)
        token, start = [[100]] * count, now()
        for i in range(steps):
            logits = seqs.feed(token, prompt + i)
            token = [[one] for one in sampling.greedy(logits)]
        return count * steps / (now() - start)

    def prefill() -> float:
        seqs, start = Sequences(model, 1), now()
        seqs.feed([words(512)], 0)
        return 512 / (now() - start)

    rate(1, 16, 8)
    prefill()
    rows = {
        "prefill_512": [prefill() for _ in range(3)],
        "decode": [rate(1, 16, 64) for _ in range(3)],
        "decode_at_512": [rate(1, 512, 32) for _ in range(2)],
        "decode_8": [rate(8, 16, 32) for _ in range(2)],
    }
    found = {k: round(statistics.median(v), 1) for k, v in rows.items()}
    found |= {
        "token_bytes": traffic.nbytes,
        "cache_bytes": Sequences(model, 1).bytes_a_token,
        "read_gb_s": round(read_gb_s(threads), 2),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
