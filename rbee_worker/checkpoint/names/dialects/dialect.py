"""`Dialect`: older names that a model's own code had for the config and tensors of a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rbee_worker.checkpoint.names.architecture import Row

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Dialect:
    """One `model_type` that is another one under older names.

    model_type: today's. keys: old config key -> today's; constants: config values that hold for
    every such checkpoint; factors: config key -> (today's key, factor to multiply the value with).
    tensors: rows whose `gguf` side is the old name (empty: the names are today's); after: rows that
    replace these for the number right after the last layer; prefixes: beginning of an old name ->
    today's. only: config key -> the one value that is supported. inside: the names of the config's
    object that describes the text model, whose model_type must be among `text`; assumed: what keys
    that it leaves out mean, because transformers writes into it only what differs from its class;
    beside: keys beside that object that are read; ignored: config keys that have no effect here.
    """

    model_type: str
    keys: Mapping[str, str] = field(default_factory=lambda: _NONE)
    constants: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    factors: Mapping[str, tuple[str, float]] = field(default_factory=lambda: MappingProxyType({}))
    tensors: tuple[Row, ...] = ()
    after: tuple[Row, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=lambda: _NONE)
    only: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    inside: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    assumed: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    beside: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def weight_and_bias(old: str, new: str, shift: int = 0) -> tuple[Row, ...]:
    """A weight and its bias."""
    return tuple(Row(f"{old}.{k}", f"{new}.{k}", shift=shift) for k in ("weight", "bias"))
