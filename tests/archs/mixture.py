"""Mixtures of experts in Llama's shape: Mixtral, Qwen, Granite."""

from __future__ import annotations

import gguf
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, configured, permuted, rope
from tests.archs.relatives import MUP, MUP_KEYS

M, CM = transformers.MixtralForCausalLM, transformers.MixtralConfig
Q2, CQ2 = transformers.Qwen2MoeForCausalLM, transformers.Qwen2MoeConfig
Q3, CQ3 = transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig
G, CG = transformers.GraniteMoeForCausalLM, transformers.GraniteMoeConfig
S, CS = transformers.GraniteMoeSharedForCausalLM, transformers.GraniteMoeSharedConfig
A = gguf.MODEL_ARCH


def halves(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: gate and up apart, stacked over the experts; a gate of one row is a
    vector. HF's fused names become those that the gguf package knows."""
    out = {}
    for name, array in tensors.items():
        name = name.replace("block_sparse_moe.", "mlp.").replace("mlp.router.", "mlp.gate.")
        stem = name.removesuffix(".weight")
        if stem.endswith(("experts.gate_up_proj", "shared_mlp.input_linear")):
            at = stem.replace("shared_mlp.input_linear", "mlp.shared_expert.")
            at = at.removesuffix("gate_up_proj")
            half = array.shape[-2] // 2
            out[f"{at}gate_proj.weight"] = array[..., :half, :]
            out[f"{at}up_proj.weight"] = array[..., half:, :]
        elif stem.endswith("experts.down_proj"):
            out[f"{stem}.weight"] = array
        elif stem.endswith("shared_mlp.output_linear"):
            out[name.replace("shared_mlp.output_linear", "mlp.shared_expert.down_proj")] = array
        elif stem.endswith("shared_expert_gate"):
            out[name] = array[0]
        else:
            out[name] = array
    return out


def permuted_halves(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """The same for the llama family."""
    return permuted(halves(tensors, config), config)


def one_by_one(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter of 2023: a tensor for each matrix of each expert."""
    out = {}
    for name, array in permuted_halves(tensors, config).items():
        at, found, part = name.partition(".experts.")
        if not found:
            out[name] = array
            continue
        for number, one in enumerate(array):
            kind = part.replace("_proj", f".{number}")
            out[f"blk.{at.split('.')[2]}.ffn_{kind}"] = one
    return out


_QWEN = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
_QWEN_KEYS = {"expert_count": 6, "expert_used_count": 3, "expert_feed_forward_length": 32}
_SHARED = {"shared_expert_intermediate_size": 64}
_FEW = {"num_local_experts": 6, "num_experts_per_tok": 2}
_FEW_KEYS = {"expert_count": 6, "expert_used_count": 2}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "mixtral",
        M,
        configured(CM, **_FEW),
        A.LLAMA,
        permuted_halves,
        {**_FEW_KEYS, "rope.freq_base": 1e6},
    ),
    Arch(
        "mixtral-2023",
        M,
        configured(CM, **_FEW),
        A.LLAMA,
        one_by_one,
        {**_FEW_KEYS, "rope.freq_base": 1e6},
    ),
    Arch(
        "mixtral-window",
        M,
        configured(CM, num_local_experts=4, num_experts_per_tok=1, sliding_window=24, head_dim=24),
    ),
    Arch(
        "qwen2-moe",
        Q2,
        configured(CQ2, **_QWEN, **_SHARED),
        A.QWEN2MOE,
        halves,
        {**_QWEN_KEYS, "expert_shared_feed_forward_length": 64},
    ),
    Arch(
        "qwen2-moe-mixed",
        Q2,
        configured(
            CQ2,
            **_QWEN,
            **_SHARED,
            norm_topk_prob=True,
            decoder_sparse_step=2,
            num_hidden_layers=4,
            mlp_only_layers=[3],
            qkv_bias=False,
            tie_word_embeddings=True,
        ),
    ),
    # Every second of the first three layers sees 24 tokens, the others all.
    Arch(
        "qwen2-moe-window",
        Q2,
        configured(
            CQ2,
            **_QWEN,
            **_SHARED,
            use_sliding_window=True,
            sliding_window=24,
            max_window_layers=3,
            num_hidden_layers=5,
        ),
    ),
    Arch(
        "qwen3-moe",
        Q3,
        configured(
            CQ3, **_QWEN, norm_topk_prob=True, head_dim=32, rope_parameters=rope("default", 1e6)
        ),
        A.QWEN3MOE,
        halves,
        {**_QWEN_KEYS, "rope.freq_base": 1e6},
    ),
    Arch(
        "qwen3-moe-window",
        Q3,
        configured(
            CQ3,
            **_QWEN,
            norm_topk_prob=False,
            head_dim=16,
            use_sliding_window=True,
            sliding_window=24,
            attention_bias=True,
        ),
    ),
    Arch(
        "granitemoe",
        G,
        configured(CG, **_FEW, **MUP),
        A.GRANITE_MOE,
        permuted_halves,
        _FEW_KEYS | MUP_KEYS,
    ),
    Arch(
        "granitemoe-tied",
        G,
        configured(CG, **MUP, num_local_experts=4, num_experts_per_tok=3, tie_word_embeddings=True),
        A.GRANITE_MOE,
        permuted_halves,
        {"expert_count": 4, "expert_used_count": 3, **MUP_KEYS},
    ),
    Arch(
        "granitemoeshared",
        S,
        configured(CS, **_FEW, **MUP, shared_intermediate_size=64),
        A.GRANITE_MOE,
        permuted_halves,
        {**_FEW_KEYS, **MUP_KEYS, "expert_shared_feed_forward_length": 64},
    ),
)
