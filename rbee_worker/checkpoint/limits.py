"""Ranges of the numbers in a config, checked before anything is built from them.

No number is trusted just because a file says it. An epsilon below zero or a frequency base of
infinity passes every check of types and shapes and makes every answer wrong; a count of 2^31 layers
would fill gigabytes with lists before the first tensor is found missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from rbee_worker.checkpoint.formats import TensorSource
from rbee_worker.errors import CheckpointError


class Range(NamedTuple):
    """From `low` to `high`, both included; `above`: `low` itself is excluded."""

    low: float
    high: float
    above: bool = True

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        return f"{'greater than' if self.above else 'at least'} {self.low:g}, at most {self.high:g}"


_EPSILON = Range(0, 1)
_POSITIVE = Range(0, 1e6)
_MAGNITUDE = Range(0, 1e3)
_MAYBE = Range(0, 1e3, above=False)  # 0 means that the setting is off
_BASE = Range(1, 1e12)
_LENGTH = Range(1, 1 << 31, above=False)

# Config keys with fractional values -> their range. For a list, each of its numbers.
RANGES: Mapping[str, Range] = MappingProxyType(
    {
        **dict.fromkeys(
            ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
            _EPSILON,
        ),
        **dict.fromkeys(("mixer_rms_eps", "final_norm_epsilon", "head_norm_eps"), _EPSILON),
        "hidden_ratio": _POSITIVE,
        **dict.fromkeys(("rope_theta", "rope_local_base_freq"), _BASE),
        "partial_rotary_factor": Range(0, 1),
        **dict.fromkeys(
            ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"), _POSITIVE
        ),
        **dict.fromkeys(("short_factor", "long_factor"), _POSITIVE),
        **dict.fromkeys(
            ("attention_factor", "rope_magnitude", "short_mscale", "long_mscale"), _MAGNITUDE
        ),
        **dict.fromkeys(("mscale", "mscale_all_dim"), _MAYBE),
        **dict.fromkeys(("original_max_position_embeddings", "initial_context_length"), _LENGTH),
        "max_position_embeddings": _LENGTH,
        **dict.fromkeys(
            ("embedding_multiplier", "attention_multiplier", "residual_multiplier"), _POSITIVE
        ),
        **dict.fromkeys(("logits_scaling", "logit_scale", "routed_scaling_factor"), _POSITIVE),
        **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _POSITIVE),
        **dict.fromkeys(("attention_in_multiplier", "attention_out_multiplier"), _POSITIVE),
        **dict.fromkeys(("ssm_in_multiplier", "ssm_out_multiplier", "key_multiplier"), _POSITIVE),
        **dict.fromkeys(("lm_head_multiplier", "block_ffn_dim_multiplier"), _POSITIVE),
        "logits_soft_cap": _POSITIVE,
        "query_pre_attn_scalar": Range(0, 1e9),
        **dict.fromkeys(("clip_qkv", "swiglu_limit", "swiglu_alpha", "attn_scale"), _POSITIVE),
        "softmax_scale": _POSITIVE,
        "router_jitter_noise": Range(0, 1, above=False),
    }
)

# Limits for which infinity means that there is none.
_ENDLESS = frozenset({"time_step_limit"})

# Counts that become lists: at most as many as the files have tensors, or a tensor has rows.
_LISTED = (
    *("num_attention_heads", "num_key_value_heads", "num_global_key_value_heads"),
    *("num_local_experts", "num_experts", "n_routed_experts", "n_shared_experts"),
    *("num_experts_per_tok", "top_k_experts", "experts_per_token", "n_group", "topk_group"),
    *("linear_num_key_heads", "linear_num_value_heads"),
    *("mamba_n_heads", "mamba_num_heads", "mamba_n_groups"),
)
_LAYERS = (
    *("num_hidden_layers", "num_nextn_predict_layers", "num_kv_shared_layers"),
    "num_dense_layers",
)
# Widths: at most as many as the largest tensor has values.
_WIDTHS = (
    *("vocab_size", "hidden_size", "intermediate_size", "head_dim", "global_head_dim"),
    *(
        "attention_head_dim",
        "moe_intermediate_size",
        "shared_intermediate_size",
        "shared_expert_intermediate_size",
    ),
    *("intermediate_size_mlp", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim"),
    *("qk_nope_head_dim", "qk_head_dim", "v_head_dim", "rotary_dim"),
    *("hidden_size_per_layer_input", "vocab_size_per_layer_input"),
    *("state_size", "conv_kernel", "time_step_rank", "expand", "num_heads", "n_groups"),
    *("attention_hidden_size", "head_size", "head_size_divisor", "halved_every"),
    *("time_mix_extra_dim", "time_decay_extra_dim", "decay_low_rank_dim", "gate_low_rank_dim"),
    *("a_low_rank_dim", "v_low_rank_dim"),
    *("conv1d_width", "conv_L_cache", "lru_width", "block_multiple_of"),
    *("linear_conv_kernel_dim", "linear_inner_size", "linear_key_head_dim"),
    *("linear_value_head_dim", "ssm_state_size", "moe_latent_size"),
    *("mamba_d_conv", "mamba_d_head", "mamba_d_inner", "mamba_d_ssm", "mamba_d_state"),
    *("mamba_dt_rank", "mamba_expand", "mamba_head_dim", "mamba_inner_size"),
    "moe_shared_expert_intermediate_size",
)
_AGAIN = "download the checkpoint again; its config is damaged or belongs to other weights"


def check_ranges(config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError for a number that is not finite or outside its key's range."""
    for key, name, value in _numbers(config):
        none = key in _ENDLESS and value == math.inf
        if isinstance(value, float) and not math.isfinite(value) and not none:
            raise CheckpointError(f"{where}: {name} is {value}.", fix=_AGAIN)
        allowed = RANGES.get(key)
        if allowed is not None and value not in allowed:
            raise CheckpointError(
                f"{where}: {name} is {str(value)[:40]}; it must be {allowed}.", fix=_AGAIN
            )


def check_counts(config: Mapping[str, Any], source: TensorSource, where: str) -> None:
    """Raise CheckpointError for a count or width that the tensors of `source` are too small for."""
    shapes = [source.info(name).shape for name in source.names()]
    most = {
        _LAYERS: (len(shapes), "tensors in total"),
        _LISTED: (max([len(shapes), *map(max, filter(None, shapes))]), "rows or tensors"),
        _WIDTHS: (max(map(prod, shapes), default=0), "values in the largest tensor"),
    }
    for keys, (limit, what) in most.items():
        for key in keys:
            value = config.get(key)
            if type(value) is int and value > limit:
                raise CheckpointError(
                    f"{where}: {key} is {value}, but the files have {limit} {what}.", fix=_AGAIN
                )


def _numbers(value: Any, key: str = "", name: str = "", depth: int = 0) -> Iterator[Any]:
    """(key, its path, number) for every number in a config; elements of a list have the list's
    key."""
    if isinstance(value, bool) or depth > 8:
        return
    if isinstance(value, int | float):
        yield key, name, value
    elif isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _numbers(item, str(inner), f"{name}.{inner}" if name else inner, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, key, name, depth + 1)
