"""Dialects: older names that a model's own code had for configs and tensors of today's families."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rbee_worker.checkpoint.names.dialects import (
    chatglm,
    encoders,
    gpt,
    qwen,
    recurrent,
    speech,
    towers,
)
from rbee_worker.checkpoint.names.dialects.dialect import Dialect

__all__ = ["DIALECTS", "Dialect"]

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {"Yi": Dialect("llama")}
    | gpt.DIALECTS
    | qwen.DIALECTS
    | chatglm.DIALECTS
    | towers.DIALECTS
    | recurrent.DIALECTS
    | encoders.DIALECTS
    | speech.DIALECTS
)
