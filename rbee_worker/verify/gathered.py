"""Config keys that HF's classes need and GGUF files leave out, by family: found in other keys, or
in the tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rbee_worker.checkpoint import Checkpoint


def _falcon_config(ckpt: Checkpoint) -> dict[str, Any]:
    """The number of norms, which a GGUF file shows by having them."""
    if ckpt.kind != "gguf":
        return {}
    two = any(".ln_attn." in name for name in ckpt.source.names())
    return {"num_ln_in_parallel_attn": 2 if two else 1}


def _mpt_config(ckpt: Checkpoint) -> dict[str, Any]:
    """GGUF files store as a float what HF requires as an integer."""
    mix = dict(ckpt.config.get("attn_config") or {})
    if "alibi_bias_max" in mix:
        mix["alibi_bias_max"] = int(mix["alibi_bias_max"])
    return {"attn_config": mix}


def _small_experts_config(ckpt: Checkpoint) -> dict[str, Any]:
    """Values for keys that a GGUF file leaves out, which means null; HF needs numbers."""
    usual = {"n_routed_experts": 0, "n_shared_experts": 0, "n_group": 1, "topk_group": 1}
    said = {key: ckpt.config.get(key) or usual[key] for key in usual}
    return said if ckpt.kind == "gguf" else {}


def _deepseek_config(ckpt: Checkpoint) -> dict[str, Any]:
    """Values that HF needs: KV heads for all heads, and numbers for what a file leaves out."""
    c = ckpt.config
    if ckpt.kind != "gguf":
        return {}
    grouped = (c.get("n_group") or 1) > 1
    return {
        **_small_experts_config(ckpt),
        "qk_nope_head_dim": c["qk_head_dim"] - c["qk_rope_head_dim"],
        "num_key_value_heads": c["num_attention_heads"],
        "topk_method": "group_limited_greedy" if grouped else "greedy",  # for V2; V3 has one method
    }


def _gemma_config(ckpt: Checkpoint) -> dict[str, Any]:
    """Scores are divided by the root of a head's width, unless the file says otherwise."""
    said = ckpt.config.get("query_pre_attn_scalar", 0)
    return {"query_pre_attn_scalar": ckpt.config["head_dim"]} if said is None else {}


def _granite_config(ckpt: Checkpoint) -> dict[str, Any]:
    """The same for Granite, whose key is a factor."""
    said = ckpt.config.get("attention_multiplier", 0)
    return {"attention_multiplier": ckpt.config["head_dim"] ** -0.5} if said is None else {}


def _phi3_config(ckpt: Checkpoint) -> dict[str, Any]:
    """A GGUF file without an original context was not extended."""
    key = "original_max_position_embeddings"
    said = ckpt.config.get(key, 0 if ckpt.kind == "gguf" else 1)
    return {} if said else {key: ckpt.config["max_position_embeddings"]}


def _qwen3_next_config(ckpt: Checkpoint) -> dict[str, Any]:
    """The width of a head of the delta rule."""
    c = ckpt.config
    if ckpt.kind != "gguf":
        return {}
    return {"linear_value_head_dim": c["linear_inner_size"] // c["linear_num_value_heads"]}


def _t5_config(ckpt: Checkpoint) -> dict[str, Any]:
    """A GGUF file shows by its tensors whether there are gates, of which llama.cpp has one kind."""
    if ckpt.kind != "gguf" or ckpt.gguf is None:
        return {}
    gated = any(name.endswith("DenseReluDense.wi_0.weight") for name in ckpt.source.names())
    return {
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "decoder_start_token_id": ckpt.config.get("decoder_start_token_id") or 0,
    }


def _llama4_config(ckpt: Checkpoint) -> dict[str, Any]:
    """The size with 128 experts has no norms of queries and keys, which a GGUF file does not
    say."""
    if ckpt.kind != "gguf":
        return {}
    return {"use_qk_norm": ckpt.config["num_local_experts"] != 128}


def _olmo3_config(ckpt: Checkpoint) -> dict[str, Any]:
    """HF's class needs the rotary values of both kinds of layers, or of neither."""
    if ckpt.kind != "gguf":
        return {}
    c = ckpt.config
    plain = {"rope_type": "default", "rope_theta": c["rope_theta"]}
    local = (c.get("rope_parameters") or {}).get("sliding_attention", plain)
    full = plain | (c.get("rope_scaling") or {})
    both = {"full_attention": full, "sliding_attention": local}
    return {"rope_parameters": both, "rope_scaling": None}


def _exaone4_config(ckpt: Checkpoint) -> dict[str, Any]:
    """HF's class cannot expand a pattern without windows."""
    if ckpt.kind != "gguf" or ckpt.config.get("sliding_window"):
        return {}
    return {"layer_types": ["full_attention"] * ckpt.config["num_hidden_layers"]}


def _falcon_mamba_config(ckpt: Checkpoint) -> dict[str, Any]:
    """A GGUF file has one epsilon for all norms."""
    given = ckpt.config.get("mixer_rms_eps")
    missing = ckpt.kind == "gguf" and given is None
    return {"mixer_rms_eps": ckpt.config["layer_norm_epsilon"]} if missing else {}


def _mamba2_config(ckpt: Checkpoint) -> dict[str, Any]:
    """A GGUF file has the numbers of columns and heads; HF has the width of a head, and the ratio
    of the columns to the model's width."""
    c = ckpt.config
    if ckpt.kind != "gguf":
        return {}
    inner = c["intermediate_size"]
    return {"head_dim": inner // c["num_heads"], "expand": inner // c["hidden_size"]}


def _headed_config(ckpt: Checkpoint) -> dict[str, Any]:
    """The same for hybrids of Mamba 2, whose class takes null for a limit and then fails."""
    c = ckpt.config
    if ckpt.kind != "gguf":
        return {}
    inner = c["mamba_d_ssm"]
    return {
        "mamba_d_head": inner // c["mamba_n_heads"],
        "mamba_expand": inner // c["hidden_size"],
        "time_step_limit": [0.0, math.inf],
    }


def _falcon_h1_config(ckpt: Checkpoint) -> dict[str, Any]:
    """Sizes as of other hybrids; HF's class has the columns of the recurrence."""
    found = _headed_config(ckpt)
    return {key: value for key, value in found.items() if key != "mamba_expand"}


def _nemotron_h_config(ckpt: Checkpoint) -> dict[str, Any]:
    """The width of a head, and the kinds of layers under HF's key, which may be a GGUF file's."""
    c = ckpt.config
    if ckpt.kind != "gguf":
        return {}
    return {
        "mamba_head_dim": c["mamba_inner_size"] // c["mamba_num_heads"],
        "layers_block_type": c["layer_types"],
        "layer_types": None,
        "num_hidden_layers": None,
        "hidden_act": None,
    }


def _jamba_config(ckpt: Checkpoint) -> dict[str, Any]:
    """Where layers with attention and with experts begin, and how far apart they are, which a GGUF
    file shows."""
    c = ckpt.config
    if ckpt.kind != "gguf":
        return {}
    full = [n for n, kind in enumerate(c["layer_types"]) if kind == "full_attention"]
    names, router = set(ckpt.source.names()), "model.layers.{}.feed_forward.router.weight"
    several = [n for n in range(c["num_hidden_layers"]) if router.format(n) in names]
    said: dict[str, Any] = {
        "layer_types": None,
        "mamba_expand": c["mamba_d_inner"] // c["hidden_size"],
    }
    for key, layers in (("attn", full), ("expert", several)):
        first, second = [*layers, *[c["num_hidden_layers"]] * 2][:2]
        said |= {
            f"{key}_layer_offset": first,
            f"{key}_layer_period": max(second - first, first + 1),
        }
    return said


def _bamba_config(ckpt: Checkpoint) -> dict[str, Any]:
    """And the numbers of the layers with attention, whose kinds a GGUF file has."""
    if ckpt.kind != "gguf":
        return {}
    full = [n for n, kind in enumerate(ckpt.config["layer_types"]) if kind == "full_attention"]
    # Keys of a property of HF's class are None, which is not passed.
    return {**_headed_config(ckpt), "attn_layer_indices": full, "layer_types": None}


def _granite_hybrid_config(ckpt: Checkpoint) -> dict[str, Any]:
    return _granite_config(ckpt) | _headed_config(ckpt)


# By `model_type`: config values that a file leaves out; None is a value.
GATHERED: Mapping[str, Callable[[Checkpoint], dict[str, Any]]] = {
    "bamba": _bamba_config,
    "deepseek_v2": _deepseek_config,
    "deepseek_v3": _deepseek_config,
    "dots1": _small_experts_config,
    "glm4_moe": _small_experts_config,
    "exaone4": _exaone4_config,
    "falcon": _falcon_config,
    "falcon_h1": _falcon_h1_config,
    "falcon_mamba": _falcon_mamba_config,
    "gemma2": _gemma_config,
    "gemma3_text": _gemma_config,
    "granite": _granite_config,
    "granitemoe": _granite_config,
    "granitemoehybrid": _granite_hybrid_config,
    "granitemoeshared": _granite_config,
    "jamba": _jamba_config,
    "mamba2": _mamba2_config,
    "phi3": _phi3_config,
    "qwen3_next": _qwen3_next_config,
    "llama4_text": _llama4_config,
    "mpt": _mpt_config,
    "nemotron_h": _nemotron_h_config,
    "olmo3": _olmo3_config,
    **dict.fromkeys(("t5", "mt5", "umt5"), _t5_config),
}
