"""The state that a layer declares, and how equal declarations form groups.

Torch-free: the scheduler and the memory plan read these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1, "f8": 1}
SCALE_BYTES = {"i8": 4}  # for each head's key or value
COLOURS = 3  # of a pixel
LANES = 2  # of a sequence that is computed with its voice and without


def row_bytes(dtype: str, dim: int) -> int:
    """The bytes of one head's key (or value) of `dim` numbers in a cache of `dtype`."""
    return dim * ELEMENT_BYTES[dtype] + (SCALE_BYTES.get(dtype, 0) if dim else 0)


@dataclass(frozen=True)
class PagedKV:
    """Per token: a key [heads, k_dim] and a value [heads, v_dim].

    v_dim == 0: no value is stored; values are the first columns of the key (latent attention).
    window: only the last `window` positions are read (None = all of them). lanes: how many times a
    sequence is computed; each lane has keys and values of its own, in memory blocks of its own
    (engine/lanes.py).
    """

    heads: int
    k_dim: int
    v_dim: int
    window: int | None = None
    lanes: int = 1

    def bytes_per_token(self, dtype: str) -> int:
        """The bytes that one layer keeps for one token, including a quantized cache's scales."""
        one = self.heads * (row_bytes(dtype, self.k_dim) + row_bytes(dtype, self.v_dim))
        return self.lanes * one


@dataclass(frozen=True)
class CrossKV(PagedKV):
    """Keys and values of a sequence's source (the rows of an encoder), not of its own tokens.

    They are written once, before the sequence's first token is computed, and there are as many as
    the source has rows: `SeqState.source`, or `PagedState.lens` in a batch. Bytes are per source
    row.
    """

    def __post_init__(self) -> None:
        assert self.window is None, "every query reads all of the source"


@dataclass(frozen=True)
class StepKV(PagedKV):
    """Keys and values that are read only in the step that writes them: an encoder's.

    An encoder's queries see later keys too, so all rows of a sequence are in one step
    (`Sequence.whole`), and nothing of it is kept. All layers use the same memory, one after
    another, and the windows of its layers are masks only.
    """

    def __post_init__(self) -> None:
        assert self.window is None, "a window saves nothing here"


@dataclass(frozen=True)
class Fixed:
    """Per sequence: tensors whose size does not depend on its length (recurrent layers).

    shapes: (name, shape) of each tensor; a layer's operations refer to a tensor by its name.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    dtype: str = "f32"

    def __post_init__(self) -> None:
        assert len(dict(self.shapes)) == len(self.shapes), "two tensors of one name"

    @property
    def nbytes(self) -> int:
        """The bytes that one layer keeps for one sequence."""
        return sum(prod(shape) for _, shape in self.shapes) * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class TileSpec:
    """What a model makes of one tile of a picture, `side` by `side` pixels: `rows` rows of `width`
    numbers, its features, which take the place of token embeddings. patches: rows that computing
    them takes. whole: the text model's rows of a picture see each other, so they are in one
    step."""

    side: int
    patches: int
    rows: int
    width: int
    whole: bool = False


StateSpec = PagedKV | Fixed


@dataclass(frozen=True)
class StateRef:
    """The location of one layer's state: the group, and the layer's number inside it."""

    group: int
    layer: int


@dataclass(frozen=True)
class StateGroup:
    """Layers that keep the same kind of state and therefore share one block table, or one slot."""

    spec: StateSpec
    layers: int


class StateBook:
    """Collects the layers' declarations while a model is built, and assigns locations."""

    def __init__(self) -> None:
        self._layers: dict[StateSpec, int] = {}

    def add(self, spec: StateSpec) -> StateRef:
        """The location of the next layer that keeps `spec`; layers with a `StepKV` share one."""
        if isinstance(spec, StepKV):
            self._layers[spec] = 1
            return StateRef(list(self._layers).index(spec), 0)
        layer = self._layers.get(spec, 0)
        self._layers[spec] = layer + 1
        return StateRef(list(self._layers).index(spec), layer)

    @property
    def groups(self) -> tuple[StateGroup, ...]:
        """Groups in order of first use."""
        return tuple(StateGroup(spec, layers) for spec, layers in self._layers.items())


def of_sources(groups: Sequence[StateGroup]) -> tuple[bool, ...]:
    """Which groups keep rows of sequences' sources: where there is a decoder (`CrossKV`), what its
    encoder keeps in its own step is one of them."""
    pair = any(isinstance(group.spec, CrossKV) for group in groups)
    kinds = (CrossKV, StepKV) if pair else ()
    return tuple(isinstance(group.spec, kinds) for group in groups)


def in_one_step(groups: Sequence[StateGroup]) -> bool:
    """Whether all rows of a sequence must be in one step: see `StepKV`."""
    alone = not any(of_sources(groups))
    return alone and any(isinstance(group.spec, StepKV) for group in groups)


def group_bytes_per_block(group: StateGroup, block_size: int, dtype: str) -> int:
    """The bytes of one block of a paged group over all its layers; 0 for a fixed group."""
    spec = group.spec
    if isinstance(spec, Fixed):
        return 0
    return group.layers * block_size * spec.bytes_per_token(dtype)


def group_bytes_per_slot(group: StateGroup) -> int:
    """The bytes a fixed group keeps for one sequence over all its layers; 0 for a paged group."""
    spec = group.spec
    if isinstance(spec, PagedKV):
        return 0
    return group.layers * spec.nbytes
