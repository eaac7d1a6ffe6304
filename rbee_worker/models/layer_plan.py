"""`LayerPlan`: what differs between layers: which keys a layer sees, and its rotary positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.models.config import CHUNKED, FULL, SLIDING, DecoderConfig, positive
from rbee_worker.ops import RopeSpec

_KEYS = {SLIDING: "sliding_window", CHUNKED: "attention_chunk_size"}


@dataclass(frozen=True)
class LayerPlan:
    """number: counted from 0. kind: in the words of `layer_types`. window: a query sees its last
    `window` keys; chunk: a query sees the keys of its own chunk of `chunk` positions; both None:
    all keys. rope None: no rotary positions."""

    number: int
    kind: str
    window: int | None
    chunk: int | None
    rope: RopeSpec | None


def plan_layers(
    c: DecoderConfig, rope: RopeSpec | Mapping[str, RopeSpec] | None
) -> tuple[LayerPlan, ...]:
    """The plan of each layer of `c`. rope: one table for all layers, or one for each kind.

    Raises CheckpointError, UnsupportedModel.
    """
    kinds, rotates, lengths = c.kinds, c.rotates, c.lengths
    unknown = sorted({str(kind) for kind in kinds if kind not in lengths})
    if unknown:
        raise UnsupportedModel(
            f"config: layer_types has {', '.join(unknown)}, which this architecture lacks.",
            fix=f"supported: {', '.join(lengths)}.",
        )
    _one_for_each("layer_types", kinds, c)
    _one_for_each("no_rope_layers", rotates, c)
    for kind in set(kinds) - {FULL}:
        length = lengths[kind]
        if length is None:
            raise CheckpointError(
                f"config: layer_types has {kind}, but {_KEYS[kind]} is not set.",
                fix="download the checkpoint's config again.",
            )
        positive("config", **{_KEYS[kind]: length})

    def plan(number: int, kind: str) -> LayerPlan:
        turned = rope[kind] if isinstance(rope, Mapping) else rope
        return LayerPlan(
            number=number,
            kind=kind,
            window=lengths[kind] if kind == SLIDING else None,
            chunk=lengths[kind] if kind == CHUNKED else None,
            rope=turned if rotates[number] else None,
        )

    return tuple(plan(number, kind) for number, kind in enumerate(kinds))


def every(nth: int, count: int) -> list[str]:
    """The kinds of `count` layers if every nth has full attention. Raises CheckpointError."""
    positive("config", sliding_window_pattern=nth)
    return [SLIDING if (i + 1) % nth else FULL for i in range(count)]


def windowed_from(first: int, count: int) -> list[str]:
    """The kinds of `count` layers if all but the `first` first ones have a window."""
    return [SLIDING if i >= first else FULL for i in range(count)]


def _one_for_each(key: str, values: Sequence[object], c: DecoderConfig) -> None:
    if len(values) != c.num_hidden_layers:
        raise CheckpointError(
            f"config: {key} names {len(values)} layers, num_hidden_layers says "
            f"{c.num_hidden_layers}.",
            fix="download the checkpoint's config again.",
        )
