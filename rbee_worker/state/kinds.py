"""Describes every state group of a model: its kind, and the formula of its bytes. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.state.specs import (
    ELEMENT_BYTES,
    SCALE_BYTES,
    CrossKV,
    Fixed,
    StateGroup,
    StepKV,
    group_bytes_per_block,
    group_bytes_per_slot,
)


@dataclass(frozen=True)
class StateKind:
    """What one group keeps. kind is one of

        plain      as many KV heads as query heads
        grouped    fewer KV heads than query heads
        windowed   keys and values of the last `window` tokens only
        latent     keys only; values are a part of them
        cross      keys and values of a source's rows, not of the sequence's tokens
        step       keys and values of one layer in one step; nothing is kept
        recurrent  the same size at any length

    per_token, per_sequence: bytes over all `layers`; formula: of the one that is not 0.
    """

    kind: str
    layers: int
    window: int | None
    formula: str
    per_token: int
    per_sequence: int

    def of(self, tokens: int) -> int:
        """The bytes that one sequence of `tokens` tokens needs (cross: with a source as long)."""
        kept = tokens if self.window is None else min(tokens, self.window)
        return kept * self.per_token + self.per_sequence


def state_kinds(groups: Sequence[StateGroup], heads: int, dtype: str) -> list[StateKind]:
    """One entry for each group. heads: query heads of a layer; dtype: of the cache."""
    return [_kind(group, heads, dtype) for group in groups]


def _kind(group: StateGroup, heads: int, dtype: str) -> StateKind:
    spec, layers = group.spec, group.layers
    per_token = group_bytes_per_block(group, 1, dtype)
    per_sequence = group_bytes_per_slot(group)
    if isinstance(spec, Fixed):
        shapes = " + ".join("*".join(map(str, shape)) for _, shape in spec.shapes)
        text = f"{layers} layers * ({shapes}) * {ELEMENT_BYTES[spec.dtype]} bytes a sequence"
        return StateKind("recurrent", layers, None, text, 0, per_sequence)
    size, scale = ELEMENT_BYTES[dtype], SCALE_BYTES.get(dtype, 0)
    parts = [n for n in (spec.k_dim, spec.v_dim) if n]
    each = [f"({n}*{size} + {scale})" if scale else f"{n}*{size}" for n in parts]
    row = f"2 * {each[0]}" if len(set(each)) == 1 and len(each) == 2 else " + ".join(each)
    row = f"({row})" if "+" in row and not row.startswith("2") else row
    text = f"{layers} layers * {spec.heads} heads * {row} bytes a token"
    kind = "plain" if spec.heads == heads else "grouped"
    if isinstance(spec, CrossKV):
        kind, text = "cross", text.replace("a token", "a row of the source")
    elif isinstance(spec, StepKV):
        kind, text = "step", text.replace("1 layers", "1 layer at a time")
    elif spec.v_dim == 0:
        kind = "latent"
    if spec.window is not None:
        kind, text = "windowed", f"{text}, the last {spec.window}"
    return StateKind(kind, layers, spec.window, text, per_token, per_sequence)
