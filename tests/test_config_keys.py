"""Every key of a family's config class is read by what builds the model: a field that nothing reads
would take a key of config.json in silence, and the note of unread keys would not name it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.errors import CheckpointError
from rbee_worker.models import ARCHITECTURES, given_keys
from rbee_worker.models.config import read_config
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Ops
from rbee_worker.ops.plan import Outline, PlanOps
from tests.archs import ARCHS, oracle, write_checkpoint, write_gguf

# Lists that transformers writes out, in whose absence other keys say the same.
LISTS = ("layer_types", "no_rope_layers", "moe_layers", "per_layer_config")
_TURNS = "nothing rotates"
_OWN = "a key of the model's own code beside that of transformers, which counts"
# (type, field): why nothing reads it.
IDLE: Mapping[tuple[str, str], str] = {
    ("based", "hidden_act"): "no file says it: an activation other than swiglu is refused",
    ("deepseek_v2", "head_dim"): "a head's width is that of its parts",
    ("deepseek_v2", "partial_rotary_factor"): "qk_rope_head_dim says it",
    ("deepseek_v3", "head_dim"): "a head's width is that of its parts",
    ("deepseek_v3", "partial_rotary_factor"): "qk_rope_head_dim says it",
    ("falcon_h1", "mamba_expand"): "mamba_d_ssm says it, which transformers writes too",
    ("falcon_mamba", "expand"): "intermediate_size says it, which transformers writes too",
    ("gemma2", "hidden_act"): "hidden_activation counts",
    ("gemma3_text", "hidden_act"): "hidden_activation counts",
    ("gemma4_text", "hidden_act"): "hidden_activation counts",
    ("gemma4_text", "rope_scaling"): "rope_parameters says it for each kind of layers",
    ("gemma4_text", "rope_theta"): "rope_parameters says it for each kind of layers",
    ("gpt_bigcode", "num_key_value_heads"): "multi_query says it",
    ("gpt_bigcode", "rope_scaling"): _TURNS,
    ("gpt_bigcode", "rope_theta"): _TURNS,
    ("gpt_oss", "hidden_act"): "experts have an activation of their own",
    ("gpt_oss", "initial_context_length"): "rope_scaling says it",
    ("jamba", "rope_scaling"): _TURNS,
    ("jamba", "rope_theta"): _TURNS,
    ("mamba", "expand"): "intermediate_size says it, which transformers writes too",
    ("mpt", "learned_pos_emb"): "models without ALiBi, where it counts, are refused",
    ("mpt", "rope_scaling"): _TURNS,
    ("mpt", "rope_theta"): _TURNS,
    ("nemotron_h", "hybrid_override_pattern"): "transformers writes layers_block_type",
    ("nemotron_h", "rope_scaling"): _TURNS,
    ("nemotron_h", "rope_theta"): _TURNS,
    ("recurrent_gemma", "hidden_act"): "hidden_activation counts",
    ("rwkv5", "hidden_act"): "no file says it: the architecture has its own",
    ("rwkv6", "hidden_act"): "no file says it: the architecture has its own",
    ("smollm3", "max_window_layers"): _OWN,
    ("starcoder2", "activation_function"): _OWN,
}


def recorded(kind: type[Any], seen: set[str]) -> type[Any]:
    """A config class like `kind` that writes down which fields are asked for, but by the functions
    that copy all of them."""

    def asked(self: Any, name: str) -> Any:
        if sys._getframe(1).f_globals.get("__name__") != "dataclasses":
            seen.add(name)
        return object.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": asked})


def asked_for(ckpt: Checkpoint, *, without: tuple[str, ...] = ()) -> set[str]:
    """The names that building a checkpoint's model asks its config for."""
    seen: set[str] = set()
    row = ARCHITECTURES[ckpt.arch]
    given = {k: v for k, v in given_keys(ckpt, row.config).items() if k not in without}
    config, _ = read_config(recorded(row.config, seen), given, where="")
    with suppress(CheckpointError) if without else nullcontext():  # other layers, other shapes
        row.build(config, Weights(Outline(ckpt.source), cast(Ops, PlanOps("f32"))))
    return seen


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_key_is_read(model_type: str, tmp_path: Path) -> None:
    seen: set[str] = set()
    for arch in (a for a in ARCHS if a.config().model_type == model_type):
        ckpt = open_checkpoint(str(write_checkpoint(arch, tmp_path / arch.id)))
        seen |= asked_for(ckpt) | asked_for(ckpt, without=LISTS)
        if arch.gguf_arch is not None:
            path = write_gguf(arch, oracle(arch), tmp_path / f"{arch.id}.gguf")
            seen |= asked_for(open_checkpoint(str(path)))
    config = ARCHITECTURES[model_type].config
    unread = {f.name for f in dataclasses.fields(config)} - seen
    idle = {field for kind, field in IDLE if kind == model_type}
    assert not unread - idle, (
        f"{config.__module__}: nothing reads these fields of {config.__name__}: {unread - idle}; "
        "compute what they say, refuse what cannot be computed, or name them in INERT of "
        "rbee_worker/models/inert_keys.py or in IDLE here with the reason"
    )
    assert not idle - unread, f"IDLE has fields of {model_type} that are read: {idle - unread}"
