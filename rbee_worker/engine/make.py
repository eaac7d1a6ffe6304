"""Builds an engine from the parts that loading has made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rbee_worker.engine.adapters import Adapters
from rbee_worker.engine.dense import Dense
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.lanes import Lanes
from rbee_worker.engine.proposer import Proposer
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.engine.runner import Runner
from rbee_worker.engine.sampler import Sampler
from rbee_worker.model_info import Speculation
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.backend import DeviceGauge
from rbee_worker.ops.executable import Executable, StateMemory
from rbee_worker.ops.sampling import Sampling
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import LANES


def make_engine(
    model: Executable,
    memory: StateMemory,
    sampling: Sampling,
    pool: StatePool,
    *,
    token_budget: int,
    max_seqs: int,
    context: int,
    kv_cache: bool = True,
    speculate: Speculation = "off",
    drafts: Proposer | None = None,
    ropes: Iterable[RopeSpec] = (),
    adapters: Adapters | None = None,
    start: int | None = None,
    speaks: bool = False,
    dense: Sequence[Dense] = (),
    buckets: bool = False,
    overlaps: bool = False,
    gauge: DeviceGauge | None = None,
    trace: bool = False,
) -> Engine:
    """An engine that runs `model`. memory, sampling: from its backend, for `pool` and its
    vocabulary.

    token_budget: tokens of a step. context: longest sequence. drafts: what drafts tokens by
    computing them.
    ropes: every rotary table of the model; start: see `Decoder.start`. adapters: None if it takes
    none. speaks: sequences have two lanes (lanes.py), and a step half as many tokens of each.
    dense: maps of vectors, in order.
    buckets, overlaps, gauge: the backend's (`ops.backend.Backend`). trace: report the times of
    every step.
    """
    runner = Runner(
        model,
        memory,
        Sampler(model.vocab_size, max_seqs, sampling),
        block_size=pool.block_size,
        max_seqs=max_seqs,
        buckets=buckets,
        overlaps=overlaps,
        adapts=adapters is not None,
        keeps=speculate == "mtp" and drafts is not None,
        whole=pool.features is not None and pool.features.spec.whole,
        lanes=Lanes(pool.n_blocks, pool.block_size) if speaks else None,
        dense=dense,
        clock=_now_us if trace else None,
    )
    return Engine(
        runner,
        pool,
        token_budget=token_budget // LANES if speaks else token_budget,
        max_seqs=max_seqs,
        context=context,
        kv_cache=kv_cache,
        speculate=speculate,
        drafts=drafts,
        ropes=RopeLengths(ropes),
        adapters=adapters,
        start=start,
        gauge=gauge,
    )


def _now_us() -> float:
    """The clock of all traces."""
    return time.monotonic() * 1e6
