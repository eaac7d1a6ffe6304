"""What a checkpoint becomes under given settings, before any weight is read. Torch-free.

The client runs it so that an unusable model is reported at once, `inspect` prints it, and the
loader follows it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import is_packed
from rbee_worker.checkpoint.summary import summarize
from rbee_worker.config import Settings
from rbee_worker.engine.lookup import why_no_drafts
from rbee_worker.errors import UsageError
from rbee_worker.loading.adapters import plan_adapters
from rbee_worker.loading.draft import of_draft, plan_draft
from rbee_worker.loading.memory import plan_features
from rbee_worker.loading.mtp import check_mtp
from rbee_worker.loading.planned import Preflight
from rbee_worker.models import outline_model, plan_model
from rbee_worker.ops.adapted import sites_for
from rbee_worker.ops.backend import ModelOutline
from rbee_worker.ops.backends import choose_backend
from rbee_worker.state.specs import LANES, in_one_step

# Memory of an engine process beside weights and state: the interpreter, torch, one step's buffers.
WORKSPACE_BYTES = 500_000_000
_SPAN = 256  # keys that attention reads at once; a block must not be in two spans


def preflight(ckpt: Checkpoint, settings: Settings) -> Preflight:
    """Check every name, shape and setting. Raises subclasses of ModelError, and UsageError."""
    backend = choose_backend(settings)
    if _SPAN % settings.block_size:
        raise UsageError(
            f"--block-size {settings.block_size} does not divide {_SPAN}.", fix="use 16, 32 or 64."
        )
    formats = {use.format: use.nbytes for use in summarize(ckpt.source).formats}
    dtype = backend.compute_dtype(settings, ckpt.kind, formats)
    held = backend.plan_ops(dtype, settings)
    held.sites, held.mtp = sites_for(settings), settings.mtp
    model = plan_model(ckpt, held)
    check_mtp(ckpt, model, settings)
    packed = is_packed(formats)
    # keys that last for one step are few: they stay exact
    kv = backend.kv_dtype(settings, dtype, packed and not in_one_step(model.groups))
    adapters = plan_adapters(ckpt, settings, held.sites)
    tiles = model.tiles
    if tiles is not None and tiles.whole and settings.token_budget < tiles.rows:
        raise UsageError(
            f"--token-budget {settings.token_budget} is less than the {tiles.rows} tokens of a "
            "picture, which this model computes in one step.",
            fix=f"use {tiles.rows} or more.",
        )
    if model.voice is not None and settings.token_budget < 2 * LANES:
        raise UsageError(
            f"--token-budget {settings.token_budget} is too small for a model that speaks, which "
            "computes each token twice.",
            fix=f"use {2 * LANES} or more.",
        )
    features = plan_features(tiles, settings, voices=model.voice is not None)
    activations = backend.activations(settings, dtype, formats)
    ahead = Preflight(
        backend,
        model,
        held,
        dtype,
        kv,
        activations,
        adapters,
        features=features,
        notes=_rounding_notes(settings, formats),
        dense_bytes=sum(one.nbytes for one in ckpt.sentence.dense),
    )
    if not settings.draft_model or why_no_drafts(model.groups, settings.kv_cache) is not None:
        return ahead
    with of_draft():
        return replace(ahead, draft=plan_draft(ckpt, ahead, settings, preflight))


def _rounding_notes(settings: Settings, formats: Collection[str]) -> tuple[str, ...]:
    """A note for a person who asked for a rounding of activations, or for none, that makes no
    difference to weights in these formats."""
    if settings.bf16_activations and "BF16" not in formats:
        return ("--bf16-activations changes nothing here: none of the weights are BF16",)
    if settings.exact_activations and not is_packed(formats):
        return ("--exact-activations changes nothing here: no weights are quantized",)
    return ()


def outline_of(ckpt: Checkpoint, context: int) -> ModelOutline:
    """The model as a backend sees it before it is loaded. context: its longest sequence."""
    infos = ((n, ckpt.source.info(n)) for n in sorted(ckpt.source.names()))
    tensors = [(name, info.format, info.shape) for name, info in infos]
    key = repr((ckpt.arch, ckpt.config, tensors))
    return ModelOutline(key, context, lambda ops: outline_model(ckpt, ops))
