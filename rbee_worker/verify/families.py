"""How files of single families group rows, and the config keys that GGUF files leave out.

A GGUF file (and GPT-OSS's published one) stores some matrices in another form than HF's class. The
functions here convert them back, exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rbee_worker.checkpoint import Checkpoint

Tensors = dict[str, Tensor]


def _falcon(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """GGUF files store q, k and v one after the other, HF stores them group by group; and in models
    with two norms the norms have other names."""
    if config.get("qkv_grouped", True):
        return found
    heads, kv = config["num_attention_heads"], config.get("num_key_value_heads") or 1
    width = config["hidden_size"] // heads
    two = any(".ln_attn." in name for name in found)
    out: Tensors = {}
    for name, tensor in found.items():
        if "query_key_value" in name:
            rest = tensor.shape[1:]
            q, k, v = torch.split(tensor, [heads * width, kv * width, kv * width])
            parts = (q.reshape(kv, -1, width, *rest), k.reshape(kv, 1, width, *rest))
            each = torch.cat([*parts, v.reshape(kv, 1, width, *rest)], dim=1)
            tensor = each.reshape(-1, *rest)
        name = name.replace(".input_layernorm.", ".ln_mlp.") if two else name
        out[name] = tensor
    return out


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


def _deepseek(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Absorbed keys [heads, latent, plain] and values [heads, value, latent] become the rows of
    HF's one matrix, head by head, keys first."""
    out = {
        n: t for n, t in found.items() if not n.endswith((".k_b_proj.weight", ".v_b_proj.weight"))
    }
    for name, keys in found.items():
        at = name.removesuffix("k_b_proj.weight")
        if at != name:
            rows = torch.cat([keys.swapaxes(1, 2), found[f"{at}v_b_proj.weight"]], dim=1)
            out[f"{at}kv_b_proj.weight"] = rows.flatten(0, 1)
    return out


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


def _gpt_oss(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Packed experts have outputs as rows, HF's have inputs as rows; gate and up alternate."""
    out: Tensors = {}
    for name, tensor in found.items():
        at, dot, last = name.partition(".experts.")
        stem, _, kind = last.partition(".")
        if not dot or not kind:
            out[name] = tensor
            continue
        if stem == "up_proj":
            continue  # handled together with the gate
        if stem == "gate_proj":
            both = torch.stack([tensor, found[f"{at}.experts.up_proj.{kind}"]], dim=2)
            stem, tensor = "gate_up_proj", both.flatten(1, 2)
        whole = f"{at}.experts.{stem}"
        out |= {f"{whole}_bias": tensor} if kind == "bias" else {whole: tensor.swapaxes(1, 2)}
    return out


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


def _llama4(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """A GGUF file's experts have outputs as rows, HF's have inputs as rows."""
    out: Tensors = {}
    for name, tensor in found.items():
        stem = name.removesuffix("_proj.weight")
        if ".experts." not in name or stem == name:
            out[name] = tensor
        elif stem.endswith(".down"):
            out[f"{stem}_proj"] = tensor.swapaxes(1, 2)
        elif stem.endswith(".gate"):
            up = found[f"{stem.removesuffix('gate')}up_proj.weight"]
            out[f"{stem}_up_proj"] = torch.cat([tensor, up], dim=1).swapaxes(1, 2)
    return out


def _qwen3_next(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """A GGUF file has q, k and v of all groups one after another, and z apart; HF's rows are those
    of a group, then of the next."""
    out = {
        n: t for n, t in found.items() if not n.endswith(("in_proj_qkv.weight", "in_proj_z.weight"))
    }
    groups, inner = config["linear_num_key_heads"], config.get("linear_inner_size", 0)
    keys = groups * config["linear_key_head_dim"]
    for name, rows in found.items():
        at = name.removesuffix("in_proj_qkv.weight")
        if at != name:
            parts = [*torch.split(rows, [keys, keys, inner]), found[f"{at}in_proj_z.weight"]]
            each = torch.cat([part.view(groups, -1, rows.shape[1]) for part in parts], dim=1)
            out[f"{at}in_proj_qkvz.weight"] = each.flatten(0, 1)
    return out


def _qwen3_next_config(ckpt: Checkpoint) -> dict[str, Any]:
    """The width of a head of the delta rule."""
    c = ckpt.config
    if ckpt.kind != "gguf":
        return {}
    return {"linear_value_head_dim": c["linear_inner_size"] // c["linear_num_value_heads"]}


def _lfm2_moe(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """A GGUF file's stacks of experts under the names that HF's class has joined; a directory has a
    tensor of each expert."""
    today = {"w1.weight": "gate_proj.weight", "w2.weight": "down_proj.weight"}
    today["w3.weight"] = "up_proj.weight"
    out: Tensors = {}
    for name, tensor in found.items():
        at, dot, part = name.partition(".experts.")
        out[f"{at}{dot}{today.get(part, part)}"] = tensor
    return out


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


def _rwkv6(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """A GGUF file has the factors of five ways of mixing in one tensor, and matrices that are
    halved after every few layers."""
    out: Tensors = {}
    for name, tensor in found.items():
        at, dot, _ = name.partition(".time_maa_wkvrg")
        every, layer = config.get("halved_every"), re.match(r"rwkv\.blocks\.(\d+)\.", name)
        if dot:
            out |= {f"{at}.time_maa_{way}": tensor[n] for n, way in enumerate("wkvrg")}
        elif every and layer and name.endswith(("attention.output.weight", "forward.value.weight")):
            out[name] = tensor * 2 ** (int(layer[1]) // every)
        else:
            out[name] = tensor
    return out


def _rwkv7(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """A GGUF file has the factors of six ways of mixing in one tensor, a vector for the bonus of
    all heads, and in the first layer matrices without a use."""
    out: Tensors = {}
    for name, tensor in found.items():
        if name.endswith(".x_x"):
            at = name.removesuffix("x")
            out |= {f"{at}{way}": tensor[n] for n, way in enumerate("rwkvag")}
        elif name.endswith(".r_k.weight"):
            out[name.removesuffix(".weight")] = tensor.view(-1, config["head_dim"])
        elif not name.startswith("model.layers.0.attn.v_lora."):
            out[name] = tensor
    return out


# By `model_type`: converts a file's tensors to the form of HF's class.
REGROUPED: Mapping[str, Callable[[Tensors, Mapping[str, Any]], Tensors]] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "falcon": _falcon,
    "gpt_oss": _gpt_oss,
    "lfm2_moe": _lfm2_moe,
    "llama4_text": _llama4,
    "qwen3_next": _qwen3_next,
    "rwkv6": _rwkv6,
    "rwkv7": _rwkv7,
}
# By `model_type`: config values that a file leaves out; None is a value.
GATHERED: Mapping[str, Callable[[Checkpoint], dict[str, Any]]] = {
    "bamba": _bamba_config,
    "deepseek_v2": _deepseek_config,
    "deepseek_v3": _deepseek_config,
    "dots1": _small_experts_config,
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
}
