"""Runs one sequence at once, with state of its own, for comparisons. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.batch import Array, Batch, FixedPlaces, PagedPlaces, Places, StepNumbers
from rbee_worker.ops.executable import StateMemory
from rbee_worker.state.specs import PagedKV, StateGroup, of_sources

F32 = NDArray[np.float32]

BLOCK_SIZE = 16
KV = "f32"  # dtype of the cache, so that only the computation is compared
_SLOT = 1  # slot 0 is the sink


@dataclass(frozen=True)
class Trace:
    """The hidden states of the T tokens of one sequence, before the first block and after each,
    [T, dim], and the logits [T, vocab]. source: of a model that reads a source of S tokens first,
    the states there [S, dim] in the same order, and last the rows that the decoder looks at."""

    states: tuple[F32, ...]
    logits: F32
    source: tuple[F32, ...] = ()

    def inputs(self) -> Iterator[tuple[F32, F32]]:
        """Each block's input and output."""
        return pairwise(self.states)


class Pieces(Protocol):
    """A model that can be run piece by piece, on any backend."""

    @property
    def groups(self) -> tuple[StateGroup, ...]: ...

    def memory(self, n_blocks: Sequence[int], n_slots: int, *, block_size: int) -> StateMemory:
        """Zeroed float32 state for the model."""
        ...

    def host(self, x: Array) -> F32:
        """A copy of states or logits on the host."""
        ...

    def put(self, x: F32) -> Array:
        """Hidden states in the form that the pieces take."""
        ...

    def embedded(self, batch: Batch) -> Array:
        """The input of the first block, [N, dim], for a batch of N rows."""
        ...

    def layers(self, x: Array, batch: Batch) -> Sequence[Callable[[Array], Array]]:
        """The blocks, each as a function of the hidden state alone; x [N, dim]: from `embedded`."""
        ...

    def readers(self, batch: Batch) -> Sequence[Callable[[Array], Array]]:
        """The blocks that read a source, each as a function of the hidden state alone."""
        ...

    def keep(self, x: Array, batch: Batch) -> Array:
        """The last reader's rows [N, dim] -> those that the decoder looks at, and keeps."""
        ...

    def see(self, tile: NDArray[np.uint8]) -> F32:
        """The features of a tile of pixels [side, side, 3]: [rows, dim]."""
        ...

    def normed(self, x: Array) -> Array:
        """The output of the last block [N, dim] -> the input of the output head [N, dim]."""
        ...

    def head(self, rows: Array) -> Array:
        """Hidden states [S, dim] -> logits, float32 [S, vocab]."""
        ...


def whole_numbers(
    groups: Sequence[StateGroup],
    tokens: Sequence[int],
    source: Sequence[int] = (),
    *,
    reads: bool = False,
) -> StepNumbers:
    """All of `tokens` as one sequence of one step, in blocks 1, 2, ... and slot 1. source: what the
    model has read before them; reads: this is the step that reads it."""
    given = source if reads else tokens
    n = len(given)
    positions = np.arange(n)
    places: list[Places] = []
    for group, of_source in zip(groups, of_sources(groups), strict=True):
        if not isinstance(group.spec, PagedKV):
            places.append(FixedPlaces(np.array([_SLOT])))
            continue
        table = np.arange(1, _blocks(len(source if of_source else tokens)), dtype=np.int32)[None]
        here = of_source is reads  # the other groups' rows are there already, or not yet
        slots = positions + BLOCK_SIZE if here else np.zeros(n, np.int64)
        if reads and not of_source:
            table = np.zeros_like(table)
        places.append(PagedPlaces(table, slots, np.array([len(source)]) if of_source else None))
    return StepNumbers(
        tokens=np.array(given, np.int64),
        positions=positions,
        seq_starts=np.array([0, n]),
        kv_lens=np.array([n]),
        rope_lens=np.array([n]),
        sample_rows=np.array([n - 1]),
        places=tuple(places),
        seq_starts_host=(0, n),
        kv_lens_host=(n,),
    )


def whole_batch(model: Pieces, tokens: Sequence[int]) -> Batch:
    """All of `tokens` as one sequence of one step, with zeroed state for `model`."""
    return _memory(model, tokens).stage(whole_numbers(model.groups, tokens))


def _memory(model: Pieces, tokens: Sequence[int], source: Sequence[int] = ()) -> StateMemory:
    """Zeroed state for these tokens, and those of a source."""
    blocks = [_blocks(max(len(tokens), len(source)))] * len(model.groups)
    return model.memory(blocks, _SLOT + 1, block_size=BLOCK_SIZE)


def _blocks(tokens: int) -> int:
    """The number of blocks for `tokens` tokens, plus the sink."""
    return -(-tokens // BLOCK_SIZE) + 1


def trace(model: Pieces, tokens: Sequence[int], source: Sequence[int] = ()) -> Trace:
    """The model's computation of `tokens`, from their embedding on, and of a source before them."""
    memory = _memory(model, tokens, source)
    read = _read(model, memory, tokens, source) if source else ()
    batch = memory.stage(whole_numbers(model.groups, tokens, source))
    x = model.embedded(batch)
    states = [model.host(x)]
    for layer in model.layers(x, batch):
        x = layer(x)
        states.append(model.host(x))
    return Trace(tuple(states), model.host(model.head(model.normed(x))), read)


def _read(
    model: Pieces,
    memory: StateMemory,
    tokens: Sequence[int],
    source: Sequence[int],
    given: Trace | None = None,
) -> tuple[F32, ...]:
    """`Trace.source`, from the embedding on, or with every block from the states in `given`; what
    the decoder looks at is in `memory` then."""
    batch = memory.stage(whole_numbers(model.groups, tokens, source, reads=True))
    x = model.embedded(batch)
    states = [model.host(x)]
    for n, reader in enumerate(model.readers(batch)):
        x = reader(x if given is None else model.put(given.source[n]))
        states.append(model.host(x))
    rows = model.keep(x if given is None else model.put(given.source[-2]), batch)
    return (*states, model.host(rows))


def layer_by_layer(
    model: Pieces, tokens: Sequence[int], given: Trace, source: Sequence[int] = ()
) -> Trace:
    """Every block, and the output head, computed from the states in `given` before it, so that the
    errors of earlier blocks do not affect it."""
    memory = _memory(model, tokens, source)
    read = _read(model, memory, tokens, source, given) if source else ()
    batch = memory.stage(whole_numbers(model.groups, tokens, source))
    x = model.embedded(batch)
    states = [model.host(x)]
    for layer, (before, _) in zip(model.layers(x, batch), given.inputs(), strict=True):
        states.append(model.host(layer(model.put(before))))
    logits = model.head(model.normed(model.put(given.states[-1])))
    return Trace(tuple(states), model.host(logits), read)
