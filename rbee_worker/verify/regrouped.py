"""How files of single families group rows.

A GGUF file (and GPT-OSS's published one) stores some matrices in another form than HF's class. The
functions here convert them back, exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

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


def _t5(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    """A GGUF file calls the one map of a block without gates as the one beside a gate."""
    gated = any(name.endswith("DenseReluDense.wi_0.weight") for name in found)
    return {n if gated else n.replace(".wi_1.", ".wi."): t for n, t in found.items()}


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
    **dict.fromkeys(("t5", "mt5", "umt5"), _t5),
}
