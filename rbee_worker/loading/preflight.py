"""What a checkpoint becomes under given settings, before any weight is read. Torch-free.

The client runs it so that an unusable model is reported at once, `inspect` prints it, and the
loader follows it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import FLOATS, INTEGERS
from rbee_worker.checkpoint.summary import summarize
from rbee_worker.config import Settings
from rbee_worker.engine.lookup import why_no_drafts
from rbee_worker.errors import ModelError, UsageError
from rbee_worker.loading.adapters import NO_ADAPTERS, AdapterPlan, plan_adapters
from rbee_worker.loading.draft import DraftPlan, plan_draft
from rbee_worker.loading.memory import FeaturePlan, StatePlan, plan_features, plan_state
from rbee_worker.models import outline_model, plan_model
from rbee_worker.models.base import Decoder
from rbee_worker.ops.adapted import sites_for
from rbee_worker.ops.backend import Backend, ModelOutline
from rbee_worker.ops.backends import choose_backend
from rbee_worker.ops.plan import PlanOps
from rbee_worker.state.specs import in_one_step

# Memory of an engine process beside weights and state: the interpreter, torch, one step's buffers.
WORKSPACE_BYTES = 500_000_000
_SPAN = 256  # keys that attention reads at once; a block must not be in two spans


@dataclass(frozen=True)
class Preflight:
    """backend: what will compute. model: built from names and shapes, without data; held: the sizes
    that its weights will have in memory. draft: the model that drafts for it, if there is one;
    features: of pictures, if it reads them."""

    backend: Backend
    model: Decoder
    held: PlanOps
    dtype: str
    kv_dtype: str
    adapters: AdapterPlan = NO_ADAPTERS
    draft: DraftPlan | None = None
    features: FeaturePlan | None = None

    @property
    def weight_bytes(self) -> int:
        """The size of the weights in memory, in bytes."""
        return sum(self.held.held_bytes.values())

    @property
    def draft_bytes(self) -> int:
        """The size of the draft model's weights, in bytes."""
        return 0 if self.draft is None else self.draft.ahead.weight_bytes

    def room(self, settings: Settings, free_bytes: int) -> StatePlan:
        """The context and cache that fit in `free_bytes` beside the weights, before either is
        loaded.

        Raises ModelError if they do not fit, UsageError for impossible sizes.
        """
        left = free_bytes - self.weight_bytes
        if left < self.adapters.nbytes and left >= 0:
            raise ModelError(
                f"adapters need {self.adapters.nbytes:,} bytes beside the weights; {left:,} are "
                "free.",
                fix="give fewer --lora-slots or a lower --lora-rank, or free some memory.",
            )
        left -= self.adapters.nbytes
        if left < 0:
            raise ModelError(
                f"the weights need {self.weight_bytes:,} bytes as {self.dtype}; "
                f"{free_bytes:,} are free.",
                fix="choose a smaller model or a smaller --dtype, or free some memory.",
            )
        left -= self.draft_bytes
        if left < 0:
            raise ModelError(
                f"the draft model needs {self.draft_bytes:,} bytes beside the other weights; "
                f"{left + self.draft_bytes:,} are free.",
                fix="leave --draft-model out, or free some memory.",
            )
        return self.state(settings, left)

    def state(self, settings: Settings, free_bytes: int) -> StatePlan:
        """The context and cache, once the weights are loaded and `free_bytes` are left. A draft
        model has a cache of as many tokens."""
        drafting = () if self.draft is None else self.draft.ahead.model.groups
        features = 0 if self.features is None else self.features.nbytes
        return plan_state(
            (*self.model.groups, *drafting),
            settings,
            model_context=self.model.context,
            kv_dtype=self.kv_dtype,
            free_bytes=max(free_bytes - features, 0),
        )


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
    held.sites = sites_for(settings)
    model = plan_model(ckpt, held)
    packed = not (FLOATS | INTEGERS).issuperset(formats)
    # keys that last for one step are few: they stay exact
    kv = backend.kv_dtype(settings, dtype, packed and not in_one_step(model.groups))
    adapters = plan_adapters(ckpt, settings, held.sites)
    tiles = None if model.tower is None else model.tower.spec
    if tiles is not None and tiles.whole and settings.token_budget < tiles.rows:
        raise UsageError(
            f"--token-budget {settings.token_budget} is less than the {tiles.rows} tokens of a "
            "picture, which this model computes in one step.",
            fix=f"use {tiles.rows} or more.",
        )
    features = plan_features(tiles, settings)
    ahead = Preflight(backend, model, held, dtype, kv, adapters, features=features)
    if not settings.draft_model or why_no_drafts(model.groups, settings.kv_cache) is not None:
        return ahead
    return replace(ahead, draft=plan_draft(ckpt, ahead, settings, preflight))


def outline_of(ckpt: Checkpoint, context: int) -> ModelOutline:
    """The model as a backend sees it before it is loaded. context: its longest sequence."""
    infos = ((n, ckpt.source.info(n)) for n in sorted(ckpt.source.names()))
    tensors = [(name, info.format, info.shape) for name, info in infos]
    key = repr((ckpt.arch, ckpt.config, tensors))
    return ModelOutline(key, context, lambda ops: outline_model(ckpt, ops))
