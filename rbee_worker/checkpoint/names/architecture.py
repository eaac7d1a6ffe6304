"""What the tables of `general.architecture` are made of: metadata keys, tensors, and one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

_Layered = Literal["windows", "each", "hybrid", "recurrent"]


@dataclass(frozen=True)
class Key:
    """A metadata key and the config key that takes its value.

    gguf: the key behind `{architecture}.`, or the full key if `whole`. hf: the config key; dots
    lead into nested objects, and a key below `unwindowed.` applies to layers without a sliding
    window. kind: what the value must be. windows: for each layer, whether it has a sliding window;
    each: a count, or a list with one per layer; hybrid: the same, where 0 means that a layer is of
    the kind that `hf` ends with; recurrent: for each layer, whether it is; rotary: a flag, which HF
    has as "rope" or "nope"; twice: twice the count that HF has; gating: the number of a scoring
    function; labels: a list of texts; pooling: the number of a way of pooling. default: what
    llama.cpp assumes if the key is absent; None: nothing, and the config has null there.
    """

    gguf: str
    hf: str
    kind: Literal[
        "count", "number", "text", "flag", "id", "twice", "gating", "rotary", "labels", "pooling"
    ] | _Layered  # fmt: skip
    default: Any = None
    required: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Row:
    """A tensor. In the names, `{}` is the layer's number and a second `{}` an expert's; op: a name
    in ops.OPS; shift: added to the layer's number to get the HF name."""

    gguf: str
    hf: str
    op: str | None = None
    shift: int = 0


@dataclass(frozen=True)
class Architecture:
    """One `general.architecture`.

    model_type: Hugging Face's. variants: (metadata key, model_type) that replaces it if the key's
    value is positive; by_value: (config key, value, model_type) that replaces it if the config has
    that value; by_tensor: (tensor, model_type) that replaces it if the file has that tensor.
    constants: config values that hold for every file; by_layers: values for files with this many
    layers, where llama.cpp recognizes a published size by the count. A config key that neither
    these nor a `Key` gives is null, never the default of transformers' config class.
    present: config keys that are true if the file has one of these tensors (`{}`: in any layer);
    absent: true if it lacks this tensor; alone: true if some layer has the first of these two
    tensors and not the second. rows: config keys whose value is the row count of a tensor. unread:
    config keys, derived for every file, that the family does not have. inert: metadata keys that
    do not affect the results of this architecture. usual: tensors that the family's models have and
    some files lack -> what the user is told then.
    """

    model_type: str
    keys: tuple[Key, ...]
    tensors: tuple[Row, ...]
    variants: tuple[tuple[str, str], ...] = ()
    instead: tuple[tuple[str, Architecture], ...] = ()
    by_value: tuple[tuple[str, Any, str], ...] = ()
    by_tensor: tuple[tuple[str, str], ...] = ()
    constants: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    by_layers: Mapping[int, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    present: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    absent: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    alone: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    rows: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unread: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()
    usual: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def model_types(self) -> set[str]:
        """Every `model_type` that its files may have."""
        replacing = (*self.variants, *self.by_value, *self.by_tensor)
        return {self.model_type, *(model_type for *_, model_type in replacing)}
