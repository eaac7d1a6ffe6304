"""One sequence computed at once, with a state of its own: what a comparison runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.state.specs import StateGroup
from rbee_worker.state.tensors import StateTensors

BLOCK_SIZE = 16
KV = "f32"  # of the cache: nothing but the computation is compared
_SLOT = 1  # 0 is a sink


def whole_batch(
    groups: Sequence[StateGroup],
    tokens: Sequence[int],
    *,
    device: str = "cpu",
    block_size: int = BLOCK_SIZE,
) -> Batch:
    """All of `tokens` as one sequence of one step, with zeroed float32 state of `groups`."""
    n = len(tokens)
    blocks = -(-n // block_size) + 1  # and the sink
    made = StateTensors(
        groups,
        [blocks] * len(groups),
        _SLOT + 1,
        block_size=block_size,
        dtype=KV,
        device=device,
    )
    positions = torch.arange(n, device=device)
    table = torch.arange(1, blocks, dtype=torch.int32, device=device)[None]
    slot = torch.tensor([_SLOT], device=device)
    state: list[PagedState | FixedState] = []
    for paged, fixed in zip(made.paged, made.fixed, strict=True):
        if paged is not None:
            state.append(PagedState(*paged, table, positions + block_size))
        else:
            assert fixed is not None
            state.append(FixedState(fixed, slot))

    def one(value: int) -> Tensor:
        return torch.tensor([value], device=device)

    return Batch(
        tokens=torch.tensor(list(tokens), device=device),
        positions=positions,
        seq_starts=torch.tensor([0, n], device=device),
        kv_lens=one(n),
        rope_lens=one(n),
        sample_rows=one(n - 1),
        state=tuple(state),
        seq_starts_host=(0, n),
        kv_lens_host=(n,),
    )


@dataclass(frozen=True)
class Trace:
    """States of the T tokens of one sequence: before the first block and after each [T, dim], and
    the logits [T, vocab], all float32."""

    states: tuple[Tensor, ...]
    logits: Tensor

    def inputs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What each block got and what it made of it."""
        return pairwise(self.states)


class Pieces(Protocol):
    """A model that can be run piece by piece: a `Decoder`, or its recordings."""

    @property
    def groups(self) -> tuple[StateGroup, ...]: ...
    @property
    def device(self) -> str:
        """Where its tensors are."""
        ...

    def embedded(self, batch: Batch) -> Tensor:
        """batch of N rows -> what the first block reads [N, dim]"""
        ...

    def layers(self, x: Tensor, batch: Batch) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, each as a function of the state alone."""
        ...

    def normed(self, x: Tensor) -> Tensor:
        """What the last block made [N, dim] -> what the head reads [N, dim]"""
        ...

    def head(self, rows: Tensor) -> Tensor:
        """hidden states [S, dim] -> logits float32 [S, vocab]"""
        ...


def trace(model: Pieces, tokens: Sequence[int]) -> Trace:
    """What `model` computes of `tokens` from their embedding on."""
    batch = whole_batch(model.groups, tokens, device=model.device)
    with torch.inference_mode():
        x = model.embedded(batch)
        states = [x.float().clone()]
        for layer in model.layers(x, batch):
            x = layer(x)
            states.append(x.float().clone())
        return Trace(tuple(states), model.head(model.normed(x)))


def alone(model: Pieces, tokens: Sequence[int], given: Trace) -> Trace:
    """Every block, and the head, computed from what `given` has before it: errors of earlier ones
    do not reach it."""
    batch = whole_batch(model.groups, tokens, device=model.device)
    with torch.inference_mode():
        x = model.embedded(batch)
        states = [x.float().clone()]
        for layer, (before, _) in zip(model.layers(x, batch), given.inputs(), strict=True):
            states.append(layer(before.to(x.dtype)).float().clone())
        return Trace(tuple(states), model.head(model.normed(given.states[-1].to(x.dtype))))
