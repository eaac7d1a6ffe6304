"""The model of --draft-model: what it needs, whether it fits the other model, loading it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.draft_model import DraftModel
from rbee_worker.engine.lookup import why_no_drafts
from rbee_worker.errors import ModelError, UsageError
from rbee_worker.models import build_model
from rbee_worker.models.random import PREFIX, open_model
from rbee_worker.ops import Ops
from rbee_worker.ops.backend import ModelOutline, Progress
from rbee_worker.state.pool import StatePool

if TYPE_CHECKING:
    from rbee_worker.loading.memory import StatePlan
    from rbee_worker.loading.preflight import Preflight

Plan = Callable[[Checkpoint, Settings], "Preflight"]  # `preflight`
_FIX = "name a smaller model of the same family, or leave --draft-model out."


@dataclass(frozen=True)
class DraftPlan:
    """A draft model before its weights are read."""

    ckpt: Checkpoint
    settings: Settings  # of the engine, as they apply to this model
    ahead: Preflight


def plan_draft(ckpt: Checkpoint, ahead: Preflight, settings: Settings, plan: Plan) -> DraftPlan:
    """Open and check the draft model for the model of `ckpt`.

    Raises UsageError if the two do not fit each other, and whatever keeps it from loading.
    """
    if settings.speculate != "off":
        raise UsageError(
            f"--speculate {settings.speculate} and --draft-model both draft tokens.",
            fix="give one of them.",
        )
    if ahead.model.start is not None or ahead.model.purpose.task != "generate":
        raise UsageError(
            f"--draft-model: nothing can be drafted for {ahead.model.purpose.task} models and "
            "models with an encoder.",
            fix="leave --draft-model out.",
        )
    own = replace(
        settings,
        model=settings.draft_model,
        draft_model="",
        kv_dtype=ahead.kv_dtype,
        lora="",
        lora_slots=0,
        ctx=0,
    )
    draft = open_model(own.model, cache_dir=settings.cache_dir, mmproj="none")
    found = DraftPlan(draft, own, plan(draft, own))
    model = found.ahead.model
    if model.start is not None or model.purpose.task != "generate":
        raise UsageError(f"--draft-model {draft.ref} does not generate text.", fix=_FIX)
    why = why_no_drafts(model.groups, kv_cache=True)
    if why is not None:
        raise UsageError(f"--draft-model {draft.ref} cannot draft: {why}.", fix=_FIX)
    _check_vocabulary(ckpt, ahead.model.vocab_size, draft, model.vocab_size)
    return found


def load_draft(
    plan: DraftPlan,
    outline: ModelOutline,
    room: StatePlan,
    beside: Ops,
    vocab: int,
    progress: Progress,
) -> tuple[DraftModel, int]:
    """The draft model beside the operations of the other one, whose head has `vocab` rows; and the
    bytes of its cache, which has space for as many tokens."""
    ahead, own = plan.ahead, plan.settings
    backend = ahead.backend
    ops = backend.ops(
        own,
        ahead.dtype,
        weight_bytes=ahead.weight_bytes,
        progress=progress,
        prepared=backend.prepare(outline, own, ahead.kv_dtype, progress),
        beside=beside,
    )
    try:
        model = build_model(plan.ckpt, ops)
    except MemoryError:
        raise ModelError(
            f"{plan.ckpt.path}: there is not enough memory for the draft model.",
            fix="leave --draft-model out, or free some memory.",
        ) from None
    pool = StatePool(
        model.groups,
        tokens=room.tokens,
        block_size=own.block_size,
        max_seqs=own.max_seqs,
        step_tokens=own.token_budget,
        prefix_cache=own.prefix_cache,
    )
    state = backend.state(ops, pool, ahead.kv_dtype)
    longest = min(room.context, model.context)
    executable = backend.executable(model, own, kv_dtype=ahead.kv_dtype, longest=longest)
    columns = partial(backend.columns, vocab=vocab)
    return DraftModel(executable, state, pool, ropes=model.ropes, columns=columns), state.nbytes


def _check_vocabulary(ckpt: Checkpoint, rows: int, draft: Checkpoint, draft_rows: int) -> None:
    """Raise UsageError if a token's id does not mean the same text to both models, or if the draft
    model has no row for it."""
    if PREFIX in (ckpt.ref[: len(PREFIX)], draft.ref[: len(PREFIX)]):  # they have no tokenizer
        if rows != draft_rows:
            what = f"{draft_rows} tokens, not {rows}"
            raise UsageError(f"--draft-model {draft.ref} has {what}.", fix=_FIX)
        return
    from rbee_worker.tokenizer.load import load_tokenizer  # late: only with this option

    one, other = load_tokenizer(ckpt), load_tokenizer(draft)
    for token in range(max(one.vocab_size, other.vocab_size)):
        text, own = one.token_text(token), other.token_text(token)
        if text != own and (one.has(token) or token < rows):
            raise UsageError(
                f"--draft-model {draft.ref} has another vocabulary: token {token} is {own[:40]!r} "
                f"there and {text[:40]!r} in {ckpt.ref}.",
                fix=_FIX,
            )
    if one.special_ids != other.special_ids:
        odd = min(one.special_ids ^ other.special_ids)
        raise UsageError(
            f"--draft-model {draft.ref} has another vocabulary: token {odd} "
            f"({one.token_text(odd)[:40]!r}) is special in one of the two only.",
            fix=_FIX,
        )
    if draft_rows < min(one.vocab_size, rows):
        raise UsageError(
            f"--draft-model {draft.ref} has rows for {draft_rows} tokens, not for "
            f"{one.vocab_size}.",
            fix=_FIX,
        )
