"""Drafts by the model's own layer for further tokens: whether it can make any, what it takes."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.loading.planned import Preflight
from rbee_worker.models import plan_model
from rbee_worker.models.base import Decoder
from rbee_worker.state.specs import StateGroup, group_bytes_per_block


@dataclass(frozen=True)
class MtpPlan:
    """What the layer adds: nbytes of weights, and of cache for each token."""

    nbytes: int = 0
    per_token: int = 0


NO_MTP = MtpPlan()


def check_mtp(ckpt: Checkpoint, model: Decoder, settings: Settings) -> None:
    """Raise UsageError if drafts of the model's own layer are wanted and it can make none."""
    if settings.mtp and model.mtp is None:
        raise UsageError(
            f"--speculate mtp: {ckpt.ref} has no layer that predicts further tokens (MTP), or none "
            "that is supported.",
            fix="use --speculate ngram, or leave the option out.",
        )


def plan_mtp(ckpt: Checkpoint, ahead: Preflight, settings: Settings) -> MtpPlan:
    """The layer's share of a planned model."""
    if ahead.model.mtp is None:
        return NO_MTP
    without = ahead.backend.plan_ops(ahead.dtype, settings)
    groups, kv = plan_model(ckpt, without).groups, ahead.kv_dtype
    more = _per_token(ahead.model.groups, kv) - _per_token(groups, kv)
    return MtpPlan(ahead.weight_bytes - sum(without.held_bytes.values()), more)


def _per_token(groups: tuple[StateGroup, ...], kv: str) -> int:
    return sum(group_bytes_per_block(group, 1, kv) for group in groups)
