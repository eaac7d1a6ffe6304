"""What a stateful layer declares that it keeps, and how equal declarations form groups.

Torch-free: the scheduler and the memory plan read these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1, "f8": 1}


@dataclass(frozen=True)
class PagedKV:
    """Per token: a key [heads, k_dim] and a value [heads, v_dim].

    v_dim == 0: no value is stored; values are the first columns of the key (latent attention).
    window: only the last `window` positions are ever read (None = all of them).
    """

    heads: int
    k_dim: int
    v_dim: int
    window: int | None = None

    def bytes_per_token(self, element: int) -> int:
        """Bytes that one layer keeps for one token, `element` bytes a number."""
        return self.heads * (self.k_dim + self.v_dim) * element


@dataclass(frozen=True)
class Fixed:
    """Per sequence: tensors of the given shapes, whatever its length (recurrent layers)."""

    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "f32"


StateSpec = PagedKV | Fixed


@dataclass(frozen=True)
class StateRef:
    """Where one layer's state lies: which group, and which layer inside it."""

    group: int
    layer: int


@dataclass(frozen=True)
class StateGroup:
    """Layers that keep the same kind of state and so share one block table."""

    spec: StateSpec
    layers: int


def group_specs(specs: Sequence[StateSpec]) -> tuple[tuple[StateGroup, ...], tuple[StateRef, ...]]:
    """Group equal specs in order of first use; one `StateRef` for each spec given."""
    order: list[StateSpec] = []
    counts: list[int] = []
    refs: list[StateRef] = []
    for spec in specs:
        if spec not in order:
            order.append(spec)
            counts.append(0)
        group = order.index(spec)
        refs.append(StateRef(group, counts[group]))
        counts[group] += 1
    return tuple(StateGroup(s, n) for s, n in zip(order, counts, strict=True)), tuple(refs)


def group_bytes_per_block(group: StateGroup, block_size: int, element: int) -> int:
    """Bytes of one block of a paged group over all its layers; 0 for a fixed group."""
    spec = group.spec
    if isinstance(spec, Fixed):
        return 0
    return group.layers * block_size * spec.bytes_per_token(element)


def group_bytes_per_slot(group: StateGroup) -> int:
    """Bytes that a fixed group keeps for one sequence over all its layers; 0 for a paged group."""
    spec = group.spec
    if isinstance(spec, PagedKV):
        return 0
    element = ELEMENT_BYTES[spec.dtype]
    return group.layers * sum(prod(shape) * element for shape in spec.shapes)
