"""The model of --draft-model: what it needs, whether it fits the other model, loading it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.draft_model import DraftModel
from rbee_worker.engine.lookup import why_no_drafts
from rbee_worker.errors import ModelError, UsageError
from rbee_worker.extras import explained
from rbee_worker.loading.planned import DraftPlan, Preflight
from rbee_worker.loading.purpose import purpose_of
from rbee_worker.models import build_model
from rbee_worker.models.random import PREFIX, open_model
from rbee_worker.ops import Ops
from rbee_worker.ops.backend import ModelOutline, Progress
from rbee_worker.state.pool import StatePool

if TYPE_CHECKING:
    from rbee_worker.loading.memory import StatePlan
    from rbee_worker.tokenizer.core import Tokenizer

Plan = Callable[[Checkpoint, Settings], Preflight]  # `preflight`
# What llama.cpp's converter makes special, whatever the model's own files say of it.
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]")
# Places of pictures and sound in prompts: text models of a family often lack them.
_PLACE = re.compile(r"<(image|audio|video)(_soft_token)?>|<\|(image|audio|video)_pad\|>")
_FIX = "name a smaller model of the same family, or leave --draft-model out."


@contextmanager
def of_draft() -> Iterator[None]:
    """Errors that are raised inside concern the draft model alone (`WorkerError.of_draft`)."""
    try:
        yield
    except Exception as error:
        known = explained(error)
        if known is None and isinstance(error, OSError):
            known = ModelError(f"the draft model cannot be read: {error.strerror or error}.")
        if known is None:
            raise
        known.of_draft = True
        raise known from None


def plan_draft(ckpt: Checkpoint, ahead: Preflight, settings: Settings, plan: Plan) -> DraftPlan:
    """Open and check the draft model for the model of `ckpt`.

    Raises UsageError if the two do not fit each other, and whatever keeps it from loading.
    """
    if settings.speculate != "off":
        raise UsageError(
            f"--speculate {settings.speculate} and --draft-model both draft tokens.",
            fix="give one of them.",
        )
    task = purpose_of(ckpt, ahead.model, settings).task
    if ahead.model.start is not None or task != "generate":
        raise UsageError(
            f"--draft-model: nothing can be drafted for {task} models and models with an encoder.",
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
    if model.start is not None or purpose_of(draft, model, own).task != "generate":
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
        if one.token_text(token) == other.token_text(token):
            continue
        text, own = _named(one, token), _named(other, token)
        if text != own and (text or token < rows):
            raise UsageError(
                f"--draft-model {draft.ref} has another vocabulary: token {token} is {own[:40]!r} "
                f"there and {text[:40]!r} in {ckpt.ref}.",
                fix=_FIX,
            )
    odds = {i for i in one.special_ids ^ other.special_ids if _named(one, i) or _named(other, i)}
    if ckpt.kind != draft.kind:
        odds = {odd for odd in odds if not _LOOKS_SPECIAL.fullmatch(one.token_text(odd))}
    if odds:
        odd = min(odds)
        raise UsageError(
            f"--draft-model {draft.ref} has another vocabulary: token {odd} "
            f"({one.token_text(odd)[:40]!r}) is special in one of the two only.",
            fix=_FIX,
        )
    known = reversed(range(min(one.vocab_size, rows)))
    needed = next((token + 1 for token in known if _named(one, token)), 0)
    if draft_rows < needed:
        raise UsageError(
            f"--draft-model {draft.ref} has rows for {draft_rows} tokens, not for {needed}.",
            fix=_FIX,
        )


def _named(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; "" for a place that a picture or sound takes, and for a row without a token,
    to which llama.cpp's converter gives a name."""
    text = tokenizer.token_text(token)
    return "" if text == f"[PAD{token}]" or _PLACE.fullmatch(text) else text
