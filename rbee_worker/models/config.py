"""Reads a config.json (HF keys) into a family's `Config` dataclass, whose fields are those keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.models.inert_keys import INERT
from rbee_worker.ops import Activation

C = TypeVar("C")

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "relu2": "relu2",
}


def read_config(cls: type[C], config: Mapping[str, Any], *, where: str) -> tuple[C, list[str]]:
    """An instance of the dataclass `cls` from `config`, and the keys that nothing reads.

    An absent key takes the field's default. null is a value of its own, valid for the fields whose
    type allows None. Raises CheckpointError, which lists every missing or mistyped key.
    """
    assert dataclasses.is_dataclass(cls)
    values: dict[str, Any] = {}
    wrong: list[str] = []
    fields = dataclasses.fields(cls)
    for f in fields:
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if f.name not in config:
            if required:
                wrong.append(f"{f.name} is missing")
        elif not _fits(value := config[f.name], str(f.type)):
            said = "null" if value is None else repr(value)
            wrong.append(f"{f.name} is {said}, expected {f.type}")
        else:
            values[f.name] = value
    if wrong:
        raise CheckpointError(
            f"{where}: the config cannot be used: {'; '.join(wrong)}.",
            fix="download the checkpoint's config again.",
        )
    known = {f.name for f in fields} | INERT
    unused = sorted(k for k, v in config.items() if k not in known and v not in (None, False))
    return cls(**values), unused


FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
RECURRENT = "linear_attention"
UNBOUNDED = 1 << 20  # the context of a model without a longest sequence, as in llama.cpp's files


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The config.json keys that every decoder-only family has, whatever its layers consist of.

    A field's default is what transformers' config class assumes for an absent key, and its type
    allows None where that class accepts null; tests/test_defaults.py compares all of them. Keys
    that determine a shape have no default: a config without them is damaged.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False

    # The following properties describe what differs between layers; `layer_plan` checks them.

    @property
    def kinds(self) -> Sequence[str]:
        """The kind of each layer, in the words of `layer_types`."""
        raise NotImplementedError

    @property
    def lengths(self) -> Mapping[str, int | None]:
        """The kinds that layers may have -> how many positions one sees; None: all, or not
        given."""
        return dict.fromkeys(self.kinds)

    @property
    def rotates(self) -> Sequence[object]:
        """For each layer, whether it has rotary positions (a true value)."""
        return [False] * self.num_hidden_layers


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(StackConfig):
    """Every layer is recurrent: no positions, and no longest sequence."""

    max_position_embeddings: int = UNBOUNDED

    @property
    def kinds(self) -> Sequence[str]:
        return [RECURRENT] * self.num_hidden_layers


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(StackConfig):
    """The keys of nearly every family with attention; a family adds its own."""

    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0

    @property
    def kv_heads(self) -> int:
        """The number of KV heads; one for each query head if the config gives no number."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width(self) -> int:
        """The width of one head, in columns."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rotary(self) -> int:
        """The number of columns of one head that rotate."""
        # Rounded: if the fraction came from dividing two counts, no column may get lost.
        return int(self.width * self.partial_rotary_factor + 1e-6)

    @property
    def kinds(self) -> Sequence[str]:
        return [FULL] * self.num_hidden_layers

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {FULL: None}

    @property
    def rotates(self) -> Sequence[object]:
        return [True] * self.num_hidden_layers


@dataclass(frozen=True, kw_only=True)
class WindowConfig(DecoderConfig):
    """A family in which every layer has the same sliding window, or none has one."""

    sliding_window: int | None = None

    @property
    def window(self) -> int | None:
        """The sliding window, in positions; None: no layer has one."""
        return self.sliding_window

    @property
    def kinds(self) -> Sequence[str]:
        return [FULL if self.window is None else SLIDING] * self.num_hidden_layers

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {FULL: None, SLIDING: self.window}


@dataclass(frozen=True, kw_only=True)
class MixedConfig(WindowConfig):
    """A family in which some layers have a sliding window: see `layer_types`, or else `pattern`."""

    layer_types: list[str] | None = None

    @property
    def pattern(self) -> Sequence[str]:
        """The kind of each layer, for a config without `layer_types`."""
        raise NotImplementedError

    @property
    def kinds(self) -> Sequence[str]:
        return self.pattern if self.layer_types is None else self.layer_types


def _fits(value: Any, annotation: str) -> bool:
    """Whether a JSON value fits a field annotated int, float, bool, str, dict or list (| None)."""
    kinds = [part.split("[")[0].strip() for part in annotation.split("|")]
    if value is None:
        return "None" in kinds
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, int):
        return "int" in kinds or "float" in kinds
    return type(value).__name__ in kinds


def positive(where: str, **sizes: float) -> None:
    """Raise CheckpointError unless every size is greater than zero."""
    bad = [f"{k} = {v}" for k, v in sizes.items() if not v > 0]
    if bad:
        raise CheckpointError(
            f"{where}: sizes must be positive: {', '.join(bad)}.", fix="correct the config"
        )


def activation(name: str) -> Activation:
    """The op for a config's `hidden_act`. Raises UnsupportedModel."""
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"hidden_act {name!r} is not supported.",
            fix=f"supported: {', '.join(sorted(_ACTIVATIONS))}.",
        )
    return _ACTIVATIONS[name]
