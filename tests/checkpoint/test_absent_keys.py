"""A GGUF file says nothing of a key: that means what llama.cpp means by it, never transformers'
default. llama.cpp's meanings are those of `load_arch_hparams` in its `src/models`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.names import GGUF_ARCHITECTURES
from rbee_worker.errors import ModelError
from rbee_worker.models import architecture, given_keys
from rbee_worker.models.config import StackConfig, read_config
from tests.checkpoint.test_mapped import write

# What every file says or its tensors show, whatever the architecture.
DERIVED = {"vocab_size", "num_key_value_heads", "head_dim", "rope_scaling", "partial_rotary_factor"}
KEYS: dict[str, Any] = {
    "context_length": 512,
    "embedding_length": 64,
    "block_count": 12,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
}


def unsaid() -> Iterator[tuple[str, str, str]]:
    """(GGUF architecture, model_type, field) of all that no key, constant or tensor of a table
    says."""
    rows = [*GGUF_ARCHITECTURES.items()]
    rows += [(name, other) for name, row in rows for _, other in row.instead]
    for name, row in rows:
        said = {key.hf.partition(".")[0] for key in row.keys} | {*row.constants, *DERIVED}
        said |= {key.partition(".")[0] for key in row.present} | {*row.absent, *row.alone}
        said |= {*row.rows}
        if "inner_widths" in said:  # of each layer; `by_layers` makes one of them
            said |= {"intermediate_size"}
        for model_type in sorted(row.model_types):
            for f in fields(architecture(model_type, where="").config):
                if f.name not in said and "None" not in str(f.type):
                    yield name, model_type, f.name


def test_tables_say_every_key_that_cannot_be_null() -> None:
    missing = [f"{name}: {field} ({model_type})" for name, model_type, field in unsaid()]
    assert not missing, (
        "rbee_worker/checkpoint/names: say what llama.cpp means where a file lacks these keys, as "
        f"`constants` or the `default` of a Key: {', '.join(missing)}"
    )


def config_of(tmp_path: Path, arch: str, **more: Any) -> StackConfig:
    """The config of a file that says nothing but sizes and `more` (`__` for `.`)."""
    keys = {**KEYS, **{k.replace("__", "."): v for k, v in more.items()}}
    tensors = {"token_embd.weight": np.zeros((48, 64), np.float32)}
    if arch in ("qwen2moe", "qwen3next"):
        tensors["blk.0.ffn_gate_shexp.weight"] = np.zeros((80, 64), np.float32)
    path = write(
        tmp_path / "x.gguf",
        {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in keys.items()}},
        tensors,
    )
    ckpt = open_checkpoint(str(path))
    config = architecture(ckpt.arch, where="").config
    found, _ = read_config(config, given_keys(ckpt, config), where="x.gguf")
    assert isinstance(found, StackConfig)
    return found


_MOE = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 32}
_SSM_SIZES = {"conv_kernel": 4, "inner_size": 96, "state_size": 16, "time_step_rank": 4}
_MLA = {"attention__kv_lora_rank": 16, "rope__dimension_count": 8, "attention__value_length": 8}
_SSM = {f"ssm__{k}": n for k, n in _SSM_SIZES.items()}
_HYBRID = {
    **_SSM,
    "ssm__group_count": 2,
    "attention__head_count_kv": [0, 2] * 6,
    "expert_shared_feed_forward_length": 32,
}
_WKV = {"wkv__head_size": 16}
_LORAS = ("decay", "iclr", "value_residual_mix", "gate")
_PATTERN = "attention__sliding_window_pattern"
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("arch", "more", "means"),
    [
        # transformers: 32, 8, 10000.0, 4096 ...
        ("llama", {}, {"kv_heads": 4, "rope_theta": 10000.0}),
        ("llama", _MOE, {"kv_heads": 4, "window": None, "rope_theta": 10000.0}),
        ("qwen2", {}, {"kv_heads": 4, "kinds": [FULL] * 12}),
        ("qwen3", {}, {"kv_heads": 4, "width": 16}),
        ("smollm3", {}, {"rope_theta": 10000.0, "rotates": [True, True, True, False] * 3}),
        ("qwen2moe", _MOE, {"shared_expert_intermediate_size": 80, "qkv_bias": False}),
        (
            "granite",
            {"logit_scale": 4.0},
            {"attention_multiplier": None, "residual_multiplier": 1.0, "embedding_multiplier": 1.0},
        ),
        (
            "gemma2",
            {},
            {
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
                "sliding_window": 4096,
                "kinds": [SLIDING, FULL] * 6,
                "query_pre_attn_scalar": None,
            },
        ),
        ("gemma2", {_PATTERN: 3}, {"kinds": [SLIDING, SLIDING, FULL] * 4}),
        ("gemma3", {}, {"kinds": [FULL] * 12, "final_logit_softcapping": None}),
        (
            "gemma3",
            {"attention__sliding_window": 8},
            {"kinds": ([SLIDING] * 5 + [FULL]) * 2, "rope_local_base_freq": 10000.0},
        ),
        (
            "gemma3",
            {"attention__sliding_window": 8, _PATTERN: [True, False] * 6},
            {"kinds": [SLIDING, FULL] * 6},
        ),
        ("olmo2", {"attention__sliding_window": 8}, {"kinds": ([SLIDING] * 3 + [FULL]) * 3}),
        ("command-r", {}, {"logit_scale": 1.0, "rope_theta": 10000.0}),
        ("chatglm", {}, {"rotary": 16, "kv_heads": 4, "width": 16}),
        ("stablelm", {}, {"rotary": 16, "kv_heads": 4}),
        ("phi2", {}, {"rotary": 16}),
        ("phi3", {}, {"original_max_position_embeddings": None, "rotary": 16}),
        ("starcoder2", {}, {"kv_heads": 4, "window": None}),
        (
            "deepseek2",
            _MOE | _MLA | {"attention__key_length": 24},
            {
                "scoring_func": "softmax",
                "norm_topk_prob": None,
                "routed_scaling_factor": 1.0,
                "first_k_dense_replace": 0,
                "n_shared_experts": None,
                "n_group": None,
                "q_lora_rank": None,
                "plain": 16,
            },
        ),
        (
            "gpt-oss",
            _MOE | {"attention__sliding_window": 8},
            {"rope_theta": 10000.0, "kv_heads": 4, "width": 16, "rope_scaling": None},
        ),
        ("llama4", _MOE | {"interleave_moe_layer_step": 1}, {"kv_heads": 4, "rope_theta": 10000.0}),
        ("falcon", {}, {"kv_heads": 4}),
        ("mpt", {}, {"attn_config": {"alibi_bias_max": 0.0, "qk_ln": False}}),
        (
            "mamba",
            _SSM,
            {"parameter_norm": None, "use_bias": False, "use_conv_bias": False, "inner": 96},
        ),
        ("mamba", _SSM | {"ssm__dt_b_c_rms": True}, {"parameter_norm": 1e-5, "rank": 4}),
        (
            "mamba2",
            _SSM | {"ssm__group_count": 2},
            {"num_heads": 4, "width": 24, "time_step_limit": None, "use_conv_bias": False},
        ),
        (
            "rwkv6",
            _WKV | {"time_mix_extra_dim": 8, "time_decay_extra_dim": 4},
            {"halved_every": None, "heads": 4, "low_ranks": (8, 4), "final_norm_epsilon": 1e-5},
        ),
        (
            "rwkv7",
            _WKV | {f"attention__{part}_lora_rank": 8 for part in _LORAS},
            {"head_norm_eps": 64e-5, "heads": 4, "inner": 96, "ranks": dict.fromkeys("wavg", 8)},
        ),
        (
            "granitehybrid",
            _HYBRID | {"logit_scale": 4.0, "expert_count": 8, "expert_used_count": 2},
            {
                "attention_multiplier": None,
                "residual_multiplier": 1.0,
                "kinds": ["linear_attention", FULL] * 6,
                "rotates": [False, True] * 6,
                "inner": 96,
                "columns": 24,
                "mamba_conv_bias": False,
            },
        ),
        (
            "granitehybrid",
            _HYBRID | {"rope__scaling__finetuned": False},  # without multipliers: Bamba
            {"kinds": ["linear_attention", FULL] * 6, "rotates": [False] * 12, "mlp_bias": False},
        ),
        (
            "falcon-h1",
            _SSM | {"ssm__group_count": 2},
            {"mlp_multipliers": None, "mamba_norm_before_gate": False, "mamba_rms_norm": False},
        ),
        (
            "qwen3next",
            _MOE | _SSM | {"ssm__group_count": 2},
            {
                "kinds": (["linear_attention"] * 3 + [FULL]) * 3,
                "inner": 96,
                "num_nextn_predict_layers": 0,
                "norm_topk_prob": True,
            },
        ),
        (
            "nemotron_h",
            _HYBRID | {"feed_forward_length": [96, 0, 0, 0] * 3},
            {
                "kinds": ["mlp", FULL, "linear_attention", FULL] * 3,
                "intermediate_size": 96,
                "inner": 96,
                "num_hidden_layers": 12,
            },
        ),
    ],
)  # fmt: skip
def test_what_an_absent_key_means_in_gguf(
    arch: str, more: dict[str, Any], means: dict[str, Any], tmp_path: Path
) -> None:
    found = config_of(tmp_path, arch, **more)
    got = {key: getattr(found, key) for key in means}
    assert {k: list(v) if k in ("kinds", "rotates") else v for k, v in got.items()} == means


def test_what_llama_cpp_needs_is_missed(tmp_path: Path) -> None:
    for arch, more in (("llama", {"expert_count": 8}), ("deepseek2", _MLA), ("qwen3moe", {})):
        with pytest.raises(ModelError, match=r"num_experts_per_tok is null|is missing"):
            config_of(tmp_path, arch, **more)
