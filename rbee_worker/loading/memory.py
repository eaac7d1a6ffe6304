"""How much state a model gets (tokens, context, bytes) in the available memory. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.config import Settings
from rbee_worker.errors import ModelError, UsageError
from rbee_worker.state.fixed import plan_slots
from rbee_worker.state.paged import plan_blocks
from rbee_worker.state.specs import (
    ELEMENT_BYTES,
    StateGroup,
    TileSpec,
    group_bytes_per_block,
    group_bytes_per_slot,
)

SHARE = 0.5  # most of the free memory that state may take
COMFORT = 32768  # default size of a pool in tokens, where memory allows
AGAIN = 1 << 26  # bytes of features that are kept for pictures that come again
MOST_AGAIN = 64  # tiles of these, however small
LEAST = 64  # a shorter context is useless


@dataclass(frozen=True)
class StatePlan:
    """context: the longest sequence; tokens: what the pool holds; nbytes: of all its tensors;
    snapshots: of recurrent state, from which later requests can continue."""

    context: int
    tokens: int
    nbytes: int
    snapshots: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeaturePlan:
    """slots: tiles of pictures whose features are in memory at once; nbytes: of all of them; tiles:
    what one tile is."""

    tiles: TileSpec
    slots: int
    nbytes: int


def plan_features(
    tiles: TileSpec | None, settings: Settings, *, voices: bool = False
) -> FeaturePlan | None:
    """The memory for features of pictures: what one step may compute, and beside that as many tiles
    as fit in `AGAIN` bytes, for pictures that are needed again. voices: it has those of running
    sequences instead, one each. None: the model reads no pictures."""
    if tiles is None:
        return None
    each = tiles.rows * tiles.width * ELEMENT_BYTES["f32"]
    if voices:
        return FeaturePlan(tiles, settings.max_seqs, settings.max_seqs * each)
    slots = max(1, settings.token_budget // tiles.patches) + min(max(1, AGAIN // each), MOST_AGAIN)
    return FeaturePlan(tiles, slots, slots * each)


def state_bytes(
    groups: Sequence[StateGroup], settings: Settings, kv_dtype: str, tokens: int, snapshots: int = 0
) -> int:
    """The size in bytes of a pool for `tokens` tokens and `snapshots` snapshots, sinks included."""
    slots = plan_slots(groups, settings.max_seqs, snapshots, settings.spares)
    blocks = plan_blocks(
        groups,
        tokens=tokens,
        block_size=settings.block_size,
        max_seqs=settings.max_seqs,
        step_tokens=settings.token_budget,
    )
    return sum(
        n * group_bytes_per_block(group, settings.block_size, kv_dtype)
        + slots * group_bytes_per_slot(group)
        for group, n in zip(groups, blocks, strict=True)
    )


def plan_state(
    groups: Sequence[StateGroup],
    settings: Settings,
    *,
    model_context: int,
    kv_dtype: str,
    free_bytes: int,
) -> StatePlan:
    """The state for a model in the available memory.

    Raises UsageError for sizes that contradict each other or the model, ModelError if there is not
    enough memory for any useful context. A default context is reduced to what fits in memory, with
    a note; one that the user chose is kept or refused. Before that, snapshots of recurrent state
    are given up, with a note.
    """
    context = _context(settings, model_context)
    tokens = settings.kv_tokens or max(context, COMFORT)
    room = int(free_bytes * SHARE)
    _check_slots(groups, settings, room)
    snapshots, notes = _snapshots(groups, settings, kv_dtype, tokens, room)
    if not settings.kv_tokens and state_bytes(groups, settings, kv_dtype, tokens, snapshots) > room:
        tokens = _fitting(groups, settings, kv_dtype, tokens, room)
    if tokens < context:
        if settings.ctx or tokens < min(LEAST, context):
            need = state_bytes(groups, settings, kv_dtype, context)
            raise ModelError(
                f"a context of {context} tokens needs {need:,} bytes of state, but "
                f"{room:,} are available.",
                fix="give a smaller --ctx, a smaller --kv-dtype, or free some memory.",
            )
        notes.append(f"context cut from {context} to {tokens} tokens: that is what memory holds")
        context = tokens
    nbytes = state_bytes(groups, settings, kv_dtype, tokens, snapshots)
    return StatePlan(context, tokens, nbytes, snapshots, tuple(notes))


def _check_slots(groups: Sequence[StateGroup], settings: Settings, room: int) -> None:
    """Raise ModelError if the recurrent state of all sequences does not fit."""
    each = sum(group_bytes_per_slot(group) for group in groups)
    need = plan_slots(groups, settings.max_seqs, 0, settings.spares) * each
    if need > room:
        raise ModelError(
            f"the recurrent state of {settings.max_seqs} sequences needs {need:,} bytes, "
            f"{each:,} each, but {room:,} are available.",
            fix="give a smaller --max-seqs, or free some memory.",
        )


def _snapshots(
    groups: Sequence[StateGroup], settings: Settings, kv_dtype: str, tokens: int, room: int
) -> tuple[int, list[str]]:
    """The number of snapshots of recurrent state that fit beside `tokens` tokens: one per sequence,
    halved until they fit, with a note if it had to be halved."""
    reuses = settings.prefix_cache and settings.kv_cache and plan_slots(groups, 1, 0) > 0
    most = n = settings.max_seqs if reuses else 0
    while n and state_bytes(groups, settings, kv_dtype, tokens, n) > room:
        n //= 2
    if n == most:
        return n, []
    return n, [
        f"{n} snapshots of recurrent state are kept, not {most}, because no more fit in memory: "
        f"{'fewer' if n else 'no'} prompts can reuse the computed beginning of another"
    ]


def _context(settings: Settings, model_context: int) -> int:
    if settings.ctx > model_context:
        raise UsageError(
            f"--ctx {settings.ctx} is more than the {model_context} tokens the model was made for.",
            fix=f"use --ctx {model_context} or less.",
        )
    context = settings.ctx or model_context
    if settings.kv_tokens and settings.kv_tokens < context:
        if settings.ctx:
            raise UsageError(
                f"--kv-tokens {settings.kv_tokens} cannot hold one sequence of --ctx {context}.",
                fix="raise --kv-tokens or lower --ctx.",
            )
        context = settings.kv_tokens
    return context


def _fitting(
    groups: Sequence[StateGroup], settings: Settings, kv_dtype: str, tokens: int, room: int
) -> int:
    """The most tokens, in whole blocks, whose state fits `room`. Found by bisection, because the
    size is not linear where layers have windows."""
    low, high = 0, tokens // settings.block_size
    while low < high:
        middle = (low + high + 1) // 2
        if state_bytes(groups, settings, kv_dtype, middle * settings.block_size) <= room:
            low = middle
        else:
            high = middle - 1
    return low * settings.block_size
