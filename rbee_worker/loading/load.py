"""From an opened model to a running engine: build, state, sampler. Imports torch.

What needs no torch was done in `ahead.py`, while torch was being imported.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.make import make_engine
from rbee_worker.engine.messages import Loading
from rbee_worker.errors import ModelError, is_out_of_memory
from rbee_worker.loading.ahead import Ahead, Report, compiling, load_ahead, repacked
from rbee_worker.loading.kernels import compile_for
from rbee_worker.machine import allowed_cores, available_memory
from rbee_worker.models import build_model
from rbee_worker.models.base import Decoder
from rbee_worker.ops import Ops
from rbee_worker.ops.select import backend_notes, executable, make_ops, make_state
from rbee_worker.state.pool import StatePool
from rbee_worker.types import ModelInfo


def load_engine(settings: Settings, report: Report) -> tuple[Engine, ModelInfo]:
    """Load `settings.model`; `report` hears of stages, layers and bytes.

    Raises ModelError's children and UsageError.
    """
    return finish_engine(load_ahead(settings, report), report)


def finish_engine(begun: Ahead, report: Report) -> tuple[Engine, ModelInfo]:
    """Go on from what was loaded ahead. Raises as `load_engine`."""
    settings, ckpt, ahead = begun.settings, begun.ckpt, begun.plan
    threads = settings.threads or allowed_cores()
    torch.set_num_threads(threads)
    clock = _Phases(begun.seconds)
    compile_for(ckpt, settings, ahead.kv_dtype, compiling(report))
    clock.done("kernels")
    held = begun.held or repacked(ckpt, ahead, settings, report)
    ops = make_ops(
        settings,
        ahead.dtype,
        threads=threads,
        weight_bytes=ahead.weight_bytes,
        progress=compiling(report),
        held=held,
    )
    if ops.name == "cpu":
        torch.set_num_threads(1)  # a second pool of threads would fight with the backend's own
    model = _build(ckpt, ops, held is not None, report)
    clock.done("weights")
    plan = ahead.state(settings, available_memory())
    pool = StatePool(
        model.groups,
        tokens=plan.tokens,
        block_size=settings.block_size,
        max_seqs=settings.max_seqs,
        step_tokens=settings.token_budget,
        prefix_cache=settings.prefix_cache and settings.kv_cache,
        snapshots=plan.snapshots,
    )
    memory = make_state(
        ops,
        model.groups,
        pool.n_blocks,
        pool.n_slots,
        block_size=settings.block_size,
        dtype=ahead.kv_dtype,
    )
    runnable = executable(
        model, ops, settings=settings, kv_dtype=ahead.kv_dtype, longest=plan.context
    )
    engine = make_engine(
        runnable,
        memory,
        ops.sampling(model.vocab_size),
        pool,
        token_budget=settings.token_budget,
        max_seqs=settings.max_seqs,
        context=plan.context,
        kv_cache=settings.kv_cache,
        ropes=model.ropes,
        trace=bool(settings.trace),
    )
    clock.done("state")
    info = ModelInfo(
        model=settings.model,
        arch=ckpt.arch,
        device=ops.device,
        backend=ops.name,
        dtype=ahead.dtype,
        kv_dtype=ahead.kv_dtype,
        context=engine.context,
        vocab_size=model.vocab_size,
        kv_tokens=plan.tokens,
        block_size=settings.block_size,
        weight_bytes=ahead.weight_bytes,
        kv_bytes=memory.nbytes,
        n_layers=len(model.blocks),
        n_parameters=model.n_parameters,
        load_s=clock.seconds,
        notes=ckpt.notes + model.notes + model.limits + plan.notes + backend_notes(settings),
    )
    return engine, info


def _build(ckpt: Checkpoint, ops: Ops, repacked: bool, report: Report) -> Decoder:
    if repacked:
        from rbee_worker.ops.cpu.runtime.ahead import NamedSource

        ckpt = replace(ckpt, source=NamedSource(ckpt.source))

    def progress(layers: int, of_layers: int, done: int, total: int) -> None:
        report(
            Loading(
                stage="loading",
                layers_loaded=layers,
                layers_total=of_layers,
                bytes_loaded=done,
                bytes_total=total,
            )
        )

    try:
        return build_model(ckpt, ops, progress)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{ckpt.path}: there is not enough memory to hold the weights as {ops.dtype}.",
            fix="choose a smaller model, a smaller --dtype, or free some memory.",
        ) from None


class _Phases:
    """Seconds of each phase of loading, beside those already in `seconds`."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = dict(seconds)
        self._last = time.perf_counter()

    def done(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + now - self._last, 3)
        self._last = now
