"""The architectures: one row each. Adding one adds a row here, a family file, a row of tests.

Importing this module imports no torch: a model can be checked and measured from a checkpoint's
names and shapes alone (`plan_model`), in the process that has no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.errors import UnsupportedModel
from rbee_worker.models import gemma, llama
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import read_config
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops
from rbee_worker.ops.plan import Outline, PlanOps

Progress = Callable[[int, int, int, int], None]  # layers done, of, bytes read, of


@dataclass(frozen=True)
class Architecture:
    """How a `model_type` becomes a model. `defaults`: config keys whose absence means this."""

    config: type[Any]
    build: Callable[[Any, Weights], Decoder]
    title: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


# What the absence of a key means, in families that share a file.
QWEN = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
QWEN3 = QWEN | {"qk_norm": True, "head_dim": 128}
SMOLLM3 = {
    "use_sliding_window": False,
    "no_rope_layer_interval": 4,
    "rope_theta": 2e6,
    "tie_word_embeddings": True,
}
HELIUM = {"rope_pairs": True, "rope_theta": 1e5, "head_dim": 128, "rms_norm_eps": 1e-8}

GEMMA = {
    "hidden_act": "gelu_pytorch_tanh",
    "head_dim": 256,
    "tie_word_embeddings": True,
}
GEMMA2 = GEMMA | {
    "sliding_window": 4096,
    "sliding_window_pattern": 2,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 256.0,
}
GEMMA3 = GEMMA | {
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 256.0,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "qk_norm": True,
}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(llama.Config, llama.build, "Llama 1-3.3, Yi, SmolLM2"),
    "mistral": Architecture(
        llama.Config, llama.build, "Mistral 7B, Nemo", {"num_key_value_heads": 8}
    ),
    "qwen2": Architecture(llama.Config, llama.build, "Qwen 2, Qwen 2.5", QWEN | {"qkv_bias": True}),
    "qwen3": Architecture(llama.Config, llama.build, "Qwen 3", QWEN3),
    "smollm3": Architecture(llama.Config, llama.build, "SmolLM3", SMOLLM3),
    "granite": Architecture(llama.Config, llama.build, "Granite 3", {"attention_multiplier": 1.0}),
    "gemma": Architecture(gemma.Config, gemma.build_first, "Gemma 1", GEMMA),
    "gemma2": Architecture(gemma.Config, gemma.build, "Gemma 2", GEMMA2),
    "gemma3_text": Architecture(gemma.Config, gemma.build, "Gemma 3", GEMMA3),
    "helium": Architecture(llama.Config, llama.build, "Helium", HELIUM),
}


def architecture(name: str, *, where: str) -> Architecture:
    """The row of a `model_type`. Raises UnsupportedModel naming it and the supported ones."""
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.5)
        hint = f"; the nearest is {near[0]}" if near else ""
        raise UnsupportedModel(
            f"{where}: architecture {name!r} is not supported yet.",
            fix=f"use a model of one of: {', '.join(ARCHITECTURES)}{hint}.",
        )
    return ARCHITECTURES[name]


def build_model(ckpt: Checkpoint, ops: Ops, progress: Progress | None = None) -> Decoder:
    """Read a checkpoint into a model that computes with `ops`. Raises ModelError's children."""
    where = str(ckpt.path)
    row = architecture(ckpt.arch, where=where)
    config, unused = read_config(row.config, {**row.defaults, **ckpt.config}, where=where)
    weights = Weights(ckpt.source, ops, where=where, progress=progress)
    model = row.build(config, weights)
    notes = model.notes
    if unused:
        notes += (f"config keys that nothing reads: {', '.join(unused)}",)
    return replace(model, n_parameters=weights.parameters, notes=notes)


def plan_model(ckpt: Checkpoint, dtype: str, *, packed: bool = False) -> tuple[Decoder, PlanOps]:
    """Build without reading data: every name and shape is checked, every byte counted.

    packed: for a backend that computes with packed weights as they are.
    """
    ops = PlanOps(dtype, packed=packed)
    outline = replace(ckpt, source=Outline(ckpt.source))
    return build_model(outline, cast(Ops, ops)), ops
