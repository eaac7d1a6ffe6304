"""A checkpoint as the cpu backend computes it, without an engine: what the benchmarks time."""

from __future__ import annotations

import os

from rbee_worker.checkpoint import Checkpoint
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

    def __init__(self, model: CpuModel, count: int, context: int = CONTEXT) -> None:
        self.model, self._context = model, context
        self._pool = StatePool(
            model.groups, tokens=count * context, block_size=BLOCK, max_seqs=count,
            step_tokens=context, prefix_cache=False,
        )  # fmt: skip
        self._memory = CpuState(
            model.groups, self._pool.n_blocks, self._pool.n_slots, block_size=BLOCK, dtype="f16"
        )
        self._steps = StepBuilder(model.groups, BLOCK)
        self._seqs = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> Sequence:
        tokens: list[int] = []
        params = SamplingParams(max_tokens=self._context)
        seq = Sequence(
            submit=Submit(seq=str(number), prompt_ids=(), params=params), tokens=tokens,
            limit=self._context, rules=StopRules(params, (), prompt=0, context=self._context),
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


def built(ckpt: Checkpoint, shape: Shape, threads: int, bf16: bool = False) -> CpuModel:
    """A model for batches of `shape`, its weights read as was measured to be best here (as the
    worker does). bf16: with --bf16-activations; RBEE_CPU_ISA chooses the instructions."""
    library, outline = (
        Library(isa.choose(os.environ.get("RBEE_CPU_ISA", ""))),
        OutlineOps(bf16=bf16),
    )
    kernels = outline.needed(outline_model(ckpt, outline), shape)
    readings = chosen(library, kernels).readings
    ops = CpuOps(library, Team(library, threads), bf16=bf16, readings=readings)
    return CpuModel(build_model(ckpt, ops), ops, shape)


def bytes_read(ckpt: Checkpoint, shape: Shape) -> int:
    """Bytes of weights that decoding one token reads."""
    traffic = TrafficOps()
    traffic.count(outline_model(ckpt, traffic), shape)
    return traffic.nbytes
