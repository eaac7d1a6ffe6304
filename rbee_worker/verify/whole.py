"""One sequence computed at once, with a state of its own: what a comparison runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rbee_worker.models.base import Decoder
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.state.specs import StateGroup
from rbee_worker.state.tensors import StateTensors

BLOCK_SIZE = 16
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
        dtype="f32",
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


def trace(model: Decoder, tokens: Sequence[int]) -> Trace:
    """What `model` computes of `tokens` from their embedding on."""
    batch = whole_batch(model.groups, tokens, device=model.ops.device)
    with torch.inference_mode():
        x = model.embedded(batch)
        states = [x.float().clone()]
        for layer in model.layers(x, batch):
            x = layer(x)
            states.append(x.float().clone())
        return Trace(tuple(states), model.head(model.norm(x)))


def alone(model: Decoder, tokens: Sequence[int], given: Trace) -> Trace:
    """Every block, and the head, computed from what `given` has before it: errors of earlier ones
    do not reach it."""
    batch = whole_batch(model.groups, tokens, device=model.ops.device)
    with torch.inference_mode():
        x = model.embedded(batch)
        states = [x.float().clone()]
        for layer, (before, _) in zip(model.layers(x, batch), given.inputs(), strict=True):
            states.append(layer(before.to(x.dtype)).float().clone())
        return Trace(tuple(states), model.head(model.norm(given.states[-1].to(x.dtype))))
