"""From a model's name to a running engine: open, check, prepare, build, allocate the state."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import rbee_worker
from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.weight_files import stamp
from rbee_worker.config import Settings
from rbee_worker.engine.dense import Dense
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.lookup import drafting_notes
from rbee_worker.engine.make import make_engine
from rbee_worker.engine.messages import Loading
from rbee_worker.engine.mtp import MtpDrafts
from rbee_worker.engine.proposer import Proposer
from rbee_worker.errors import ModelError, is_out_of_memory
from rbee_worker.kept_memory import KeptMemory
from rbee_worker.loading.adapters import adapters_of
from rbee_worker.loading.draft import load_draft, of_draft
from rbee_worker.loading.preflight import outline_of, preflight
from rbee_worker.loading.purpose import dimensions_of, purpose_of
from rbee_worker.model_info import ModelInfo
from rbee_worker.models import build_model
from rbee_worker.models.base import Decoder
from rbee_worker.models.random import open_model
from rbee_worker.ops import Ops
from rbee_worker.ops.backend import Kept, ModelOutline
from rbee_worker.ops.backends import backend_notes
from rbee_worker.state.features import FeatureBook
from rbee_worker.state.pool import StatePool

Report = Callable[[Loading], None]


def load_engine(
    settings: Settings, report: Report, memory: KeptMemory | None = None
) -> tuple[Engine, ModelInfo]:
    """Load `settings.model`; report: is told of stages, layers and bytes.

    memory: where an engine before this one may have left the weights. Raises subclasses of
    ModelError, and UsageError.
    """
    clock = _Phases()
    report(Loading(stage="opening"))
    ckpt = open_model(settings.model, cache_dir=settings.cache_dir, mmproj=settings.mmproj)
    plan = preflight(ckpt, settings)
    backend = plan.backend
    there = 0 if memory is None else memory.usable()  # bytes of weights that are not free any more
    plan.room(settings, backend.free_bytes(settings) + there)
    clock.done("open")
    outline = outline_of(ckpt, plan.model.context)
    prepared = backend.prepare(outline, settings, plan.kv_dtype, _compiling(report))
    clock.done("kernels")
    ops = backend.ops(
        settings,
        plan.dtype,
        weight_bytes=plan.weight_bytes,
        progress=_compiling(report),
        prepared=prepared,
        kept=None if memory is None else Kept(memory, _weights_key(ckpt, outline)),
    )
    model = _build(ckpt, ops, report)
    clock.done("weights")
    adapters, loaded = adapters_of(ckpt, ops, settings)
    clock.done("adapters")
    gauge = backend.gauge(outline, settings, plan.dtype, plan.kv_dtype)
    later = plan.adapters.room + plan.draft_bytes + plan.dense_bytes  # what is not there yet
    room = plan.state(settings, backend.free_bytes(settings) - later)
    features = plan.features
    pool = StatePool(
        model.groups,
        tokens=room.tokens,
        block_size=settings.block_size,
        max_seqs=settings.max_seqs,
        step_tokens=settings.token_budget,
        prefix_cache=settings.prefix_cache and settings.kv_cache,
        snapshots=room.snapshots,
        spares=settings.spares,
        features=None if features is None else FeatureBook(features.tiles, features.slots),
    )
    state = backend.state(ops, pool, plan.kv_dtype)
    drafts: Proposer | None = None
    draft_kv_bytes = 0
    if plan.draft is not None:
        with of_draft():
            drafts, draft_kv_bytes = load_draft(
                plan.draft,
                outline_of(plan.draft.ckpt, plan.draft.ahead.model.context),
                room,
                ops,
                model.vocab_size,
                _compiling(report),
            )
        clock.done("draft")
    executable = backend.executable(model, settings, kv_dtype=plan.kv_dtype, longest=room.context)
    if model.mtp is not None:
        drafts = MtpDrafts(executable, state, pool, context=room.context)
    purpose = purpose_of(ckpt, model, settings)
    engine = make_engine(
        executable,
        state,
        ops.sampling(model.vocab_size),
        pool,
        token_budget=settings.token_budget,
        max_seqs=settings.max_seqs,
        context=room.context,
        kv_cache=settings.kv_cache,
        speculate=settings.drafts if purpose.task == "generate" else "off",
        drafts=drafts,
        ropes=model.ropes,
        adapters=adapters,
        start=model.start,
        speaks=model.voice is not None,
        dense=[Dense(*one.read(), one.act) for one in ckpt.sentence.dense],
        buckets=backend.buckets,
        overlaps=backend.overlaps,
        gauge=gauge,
        trace=bool(settings.trace),
    )
    clock.done("state")
    info = ModelInfo(
        model=settings.model,
        arch=ckpt.arch,
        device=ops.device,
        backend=backend.name,
        dtype=plan.dtype,
        kv_dtype=plan.kv_dtype,
        context=engine.context,
        vocab_size=model.vocab_size,
        kv_tokens=room.tokens,
        block_size=settings.block_size,
        weight_bytes=plan.weight_bytes + plan.dense_bytes,
        kv_bytes=state.nbytes + draft_kv_bytes,
        n_layers=len(model.blocks),
        n_parameters=model.n_parameters,
        purpose=purpose,
        dimensions=dimensions_of(purpose, model),
        speculate=engine.speculate,
        draft_model=settings.draft_model if plan.draft is not None else "",
        draft_bytes=plan.draft_bytes,
        adapters=loaded,
        adapter_bytes=plan.adapters.nbytes,
        load_s=clock.seconds,
        notes=(
            *(*backend_notes(settings), *prepared.notes, *plan.notes),
            *(*ckpt.notes, *model.notes, *model.limits, *room.notes),
            *drafting_notes(settings, model.groups, purpose.task),
        ),
    )
    return engine, info


def _compiling(report: Report) -> Callable[[int, int, str], None]:
    """A callback that reports kernels compiled for this processor."""

    def told(done: int, total: int, name: str) -> None:
        report(Loading(stage="compiling", item=name, layers_loaded=done, layers_total=total))

    return told


def _weights_key(ckpt: Checkpoint, outline: ModelOutline) -> bytes:
    """See `Kept`: the same files, read by the same program."""
    tower = None if ckpt.tower is None else stamp(ckpt.tower)
    known = repr((rbee_worker.__version__, outline.key, stamp(ckpt.path), tower))
    return hashlib.sha256(known.encode()).digest()


def _build(ckpt: Checkpoint, ops: Ops, report: Report) -> Decoder:
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
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{ckpt.path}: there is not enough memory to hold the weights as {ops.dtype}.",
            fix="choose a smaller model, a smaller --dtype, or free some memory.",
        ) from None


class _Phases:
    """The seconds that each phase of loading took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = round(now - self._last, 3)
        self._last = now
