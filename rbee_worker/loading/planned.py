"""What loading a model will take: the model's outline, and the sizes of everything it brings."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.errors import ModelError
from rbee_worker.loading.adapters import NO_ADAPTERS, AdapterPlan
from rbee_worker.loading.memory import FeaturePlan, StatePlan, plan_state
from rbee_worker.models.base import Decoder
from rbee_worker.ops.backend import Backend
from rbee_worker.ops.plan import PlanOps


@dataclass(frozen=True)
class Preflight:
    """backend: what will compute. model: built from names and shapes, without data; held: the sizes
    that its weights will have in memory. draft: the model that drafts for it, if there is one;
    features: of pictures, if it reads them, or of voices; dense_bytes: of the maps of vectors."""

    backend: Backend
    model: Decoder
    held: PlanOps
    dtype: str
    kv_dtype: str
    activations: str  # as `Backend.activations`
    adapters: AdapterPlan = NO_ADAPTERS
    draft: DraftPlan | None = None
    features: FeaturePlan | None = None
    notes: tuple[str, ...] = ()  # on options that change nothing for this model
    dense_bytes: int = 0

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
        weights = self.weight_bytes + self.dense_bytes
        left = free_bytes - weights
        if left < self.adapters.nbytes and left >= 0:
            raise ModelError(
                f"adapters need {self.adapters.nbytes:,} bytes beside the weights; {left:,} are "
                "free.",
                fix="give fewer --lora-slots or a lower --lora-rank, or free some memory.",
            )
        left -= self.adapters.nbytes
        if left < 0:
            raise ModelError(
                f"the weights need {weights:,} bytes as {self.dtype}; {free_bytes:,} are free.",
                fix="choose a smaller model or a smaller --dtype, or free some memory.",
            )
        left -= self.draft_bytes
        if left < 0:
            short = ModelError(
                f"the draft model needs {self.draft_bytes:,} bytes beside the other weights; "
                f"{left + self.draft_bytes:,} are free.",
                fix="leave --draft-model out, or free some memory.",
            )
            short.of_draft = True
            raise short
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


@dataclass(frozen=True)
class DraftPlan:
    """A draft model before its weights are read."""

    ckpt: Checkpoint
    settings: Settings  # of the engine, as they apply to this model
    ahead: Preflight
