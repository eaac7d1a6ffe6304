"""The trace of an HF model: its hidden states and logits, of one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rbee_worker.errors import UnsupportedModel
from rbee_worker.models import architecture
from rbee_worker.verify.quiet import quiet
from rbee_worker.verify.whole import F32, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def hf_trace(model: PreTrainedModel, tokens: Sequence[int], source: Sequence[int] = ()) -> Trace:
    """HF's computation of `tokens`, in one forward pass. An encoder's rows stand for logits, and so
    do the scores that a head for classes gives for every row.
    source: what a model with an encoder reads before them."""
    if source:
        return _pair_trace(model, tokens, source)
    with _watched(_layers(model)) as states, quiet(), torch.inference_mode():
        ids = torch.tensor([list(tokens)])
        row = architecture(model.config.model_type, where="transformers")
        if row.stacks_of(model.config.to_dict()) == "encoder":
            logits = model(ids).last_hidden_state[0]
        elif isinstance(head := getattr(model, "score", None), torch.nn.Linear):
            with _results(head) as scores:
                model(ids, use_cache=False)
            logits = scores[0]
        else:
            logits = model(ids, use_cache=False).logits[0]
    return Trace(_numbers(states), logits.float().numpy())


def _pair_trace(model: Any, tokens: Sequence[int], source: Sequence[int]) -> Trace:
    """The same of a model with an encoder and a decoder."""
    readers, writers = (list(half.block) for half in (model.encoder, model.decoder))
    with _watched(readers) as read, _watched(writers) as states, quiet(), torch.inference_mode():
        out = model(
            input_ids=torch.tensor([list(source)]),
            decoder_input_ids=torch.tensor([list(tokens)]),
            use_cache=False,
        )
    rows = out.encoder_last_hidden_state[0]
    return Trace(_numbers(states), out.logits[0].float().numpy(), _numbers([*read, rows]))


@contextmanager
def _watched(layers: Sequence[torch.nn.Module]) -> Iterator[list[Tensor]]:
    """The hidden states before the first of these layers and after each, once they have run."""
    states: list[Tensor] = []

    def before(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        states.append((args[0] if args else named["hidden_states"])[0].detach().float())

    def after(_: Any, args: Any, result: Any) -> None:
        out = result[0] if isinstance(result, tuple) else result
        states.append(out[0].detach().float())

    hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _results(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """What this module gives for each row, before one of the rows is chosen."""
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, args, result: found.append(result[0]))
    try:
        yield found
    finally:
        hook.remove()


def _numbers(states: Sequence[Tensor]) -> tuple[F32, ...]:
    return tuple(state.float().numpy() for state in states)


def _layers(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """The model's blocks: its first list with as many modules as it has layers."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    raise UnsupportedModel(
        f"{type(model).__name__} has no list of its {count} layers.",
        fix="this architecture cannot be verified layer by layer.",
    )
