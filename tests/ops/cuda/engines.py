"""An engine on the cuda backend for a checkpoint of a tiny model, with overlapping steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.make import make_engine
from rbee_worker.models import build_model
from rbee_worker.ops.backends import backend
from rbee_worker.ops.cuda.model import CudaModel
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.state import CudaState
from rbee_worker.state.features import FeatureBook
from rbee_worker.state.pool import StatePool
from tests.engine.schedules import Run

TOKENS, SEQUENCES = 640, 4


def cuda_ops(path: Path) -> CudaOps:
    """Operations in float32."""
    settings = Settings(model=str(path), backend="cuda")
    ops = backend("cuda").ops(settings, "f32", weight_bytes=0, progress=lambda *_: None)
    assert isinstance(ops, CudaOps)
    return ops


def running(path: Path, *, slots: int = SEQUENCES, context: int = TOKENS, **how: Any) -> Run:
    """An engine that runs requests. slots: of features, if the model has any."""
    ops = cuda_ops(path)
    decoder = build_model(open_checkpoint(str(path)), ops)
    model = CudaModel(decoder, graphs=False)
    features = None if decoder.tiles is None else FeatureBook(decoder.tiles, slots)
    pool = StatePool(
        model.groups,
        tokens=TOKENS,
        block_size=16,
        max_seqs=SEQUENCES,
        step_tokens=64,
        features=features,
    )
    state = CudaState(
        *(model.groups, pool.n_blocks, pool.n_slots),
        block_size=16,
        dtype="f32",
        device=ops.device,
        drawn=ops.drawn,
        features=features,
    )
    return Run(
        make_engine(
            *(model, state, ops.sampling(model.vocab_size), pool),
            token_budget=64,
            max_seqs=SEQUENCES,
            context=context,
            start=decoder.start,
            buckets=True,
            overlaps=True,
            **how,
        )
    )
