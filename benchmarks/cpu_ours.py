"""Our side of benchmarks/cpu.py: MODEL THREADS wall|cpu [bf16]. Greedy decoding without an engine;
bf16: with --bf16-activations.

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

sys.path.insert(0, str(Path(__file__).parents[1]))


from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.step_numbers import StepBuilder
from rbee_worker.engine.stop import StopRules
from rbee_worker.models import build_model, outline_model
from rbee_worker.ops.cpu.backend.bytes_read import TrafficOps
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.backend.outline import OutlineOps
from rbee_worker.ops.cpu.runtime.bandwidth import read_gb_s
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.ops.cpu.runtime.readings import chosen
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.shared.regions import Words
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import PagedKV
from rbee_worker.types import SamplingParams

BLOCK, CONTEXT = 16, 640  # tokens a cache block; tokens a sequence may have


class Sequences:
    """Sequences of one length each, their cache in float16, as the peer's. What a step takes of
    the engine it takes here: room in the pool, the batch, the model, the pool told that it ran."""

    def __init__(self, model: CpuModel, count: int) -> None:
        self.model = model
        self._pool = StatePool(
            model.groups, tokens=count * CONTEXT, block_size=BLOCK, max_seqs=count,
            step_tokens=CONTEXT, prefix_cache=False,
        )  # fmt: skip
        self._memory = CpuState(
            model.groups, self._pool.n_blocks, self._pool.n_slots, block_size=BLOCK, dtype="f16"
        )
        self._steps = StepBuilder(model.groups, BLOCK)
        self._seqs = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> Sequence:
        tokens: list[int] = []
        params = SamplingParams(max_tokens=CONTEXT)
        seq = Sequence(
            submit=Submit(seq=str(number), prompt_ids=(), params=params), tokens=tokens,
            limit=CONTEXT, rules=StopRules(params, (), prompt=0, context=CONTEXT),
            state=self._pool.new(tokens), arrival=number, arrived_s=0.0, rope_len=0,
        )  # fmt: skip
        self._pool.attach(seq.state)
        return seq

    @property
    def bytes_a_token(self) -> int:
        """Bytes of cache that a step reads for each token before it, of one sequence."""
        specs = [(g.layers, g.spec) for g in self.model.groups if isinstance(g.spec, PagedKV)]
        return sum(layers * spec.bytes_per_token("f16") for layers, spec in specs)

    def feed(self, tokens: list[list[int]], done: int, times: list[Words] | None = None) -> F32:
        """The next tokens of every sequence, each `done` tokens long: logits of the last ones.
        times: as for `CpuModel.logits`."""
        chunks = []
        for seq, new in zip(self._seqs, tokens, strict=True):
            seq.tokens += new
            assert len(seq.tokens) == done + len(new)
            seq.rope_len = seq.rope_len or len(seq.tokens)
            granted = self._pool.reserve(seq.state, len(new))
            assert granted == len(new)
            chunks.append(Chunk(seq, seq.state, done, granted, 1))
        logits = self.model.logits(self._memory.stage(self._steps.build(chunks).numbers), times)
        for chunk in chunks:
            self._pool.commit(chunk.state, chunk.count)
        return logits


def main(path: str, threads: int, clock: str, rounding: str = "") -> None:
    now = time.process_time if clock == "cpu" else time.perf_counter
    library, bf16 = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", ""))), rounding == "bf16"
    shape, ckpt = Shape(512, 8, CONTEXT, BLOCK, "f16"), open_checkpoint(path)
    outline = OutlineOps(bf16=bf16)
    kernels = outline.needed(outline_model(ckpt, outline), shape)
    ops = CpuOps(
        library, Team(library, threads), bf16=bf16, readings=chosen(library, kernels).readings
    )
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
            token = [[one] for one in sampling.greedy(logits).host()]
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
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
