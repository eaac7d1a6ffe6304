"""Tiny models with a layer that predicts further tokens (MTP), and what it computes, in float64.

The layer's formula is that of DeepSeek-V3 (DeepSeek-AI 2024), section 2.2, in torch; its block is
transformers' own layer class, which makes no such predictions itself.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tests import tiny

LAYERS = 2
_SHAPE: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS + 1,  # the last one is the block of the layer in question
    "num_attention_heads": 4,
    "max_position_embeddings": tiny.CONTEXT,
    "eos_token_id": tiny.VOCAB - 1,
    "tie_word_embeddings": False,
}
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
    "n_group": 4,
    "topk_group": 2,
}
_EXPERTS: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}


DEEPSEEK = "model.layers.2."  # where the layer's block lies, and its other weights
NAMES = {name: DEEPSEEK + name for name in ("enorm", "hnorm", "eh_proj", "shared_head.norm")}
QWEN = {
    "enorm": "mtp.pre_fc_norm_embedding",
    "hnorm": "mtp.pre_fc_norm_hidden",
    "eh_proj": "mtp.fc",
    "shared_head.norm": "mtp.norm",
}


@dataclass(frozen=True)
class Further:
    """A model whose last layer is the block of the layer in question, and that layer's other
    weights by the names that DeepSeek gives them. block: where the checkpoint has the block; names:
    its names of the others. centre: what norms add to their weights."""

    model: PreTrainedModel
    norms: dict[str, Tensor]
    join: Tensor
    block: str = DEEPSEEK
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    centre: float = 0.0

    def tensors(self, folder: Path) -> dict[str, Tensor]:
        """As such a checkpoint is published; folder: for transformers to write to."""
        self.model.save_pretrained(folder)
        found = {
            name.replace(DEEPSEEK, self.block): value
            for name, value in load_file(folder / "model.safetensors").items()
        }
        found |= {f"{self.names[name]}.weight": value for name, value in self.norms.items()}
        found[f"{self.names['eh_proj']}.weight"] = self.join
        if self.block == DEEPSEEK:  # these are there twice
            found[DEEPSEEK + "embed_tokens.weight"] = found["model.embed_tokens.weight"].clone()
            found[DEEPSEEK + "shared_head.head.weight"] = found["lm_head.weight"].clone()
        return found

    def save(self, folder: Path) -> Path:
        """The checkpoint, with a tokenizer."""
        tensors = self.tensors(folder)
        config = json.loads((folder / "config.json").read_text())
        tiny.write_safetensors(folder)
        config["num_hidden_layers"] = LAYERS
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:LAYERS]
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def hidden(self, tokens: list[int]) -> Tensor:
        """The model's hidden states, [n, dim], without its last layer, in float64."""
        whole = copy.deepcopy(self.model).double()
        whole.model.layers = whole.model.layers[:LAYERS]
        whole.config.num_hidden_layers = LAYERS
        with torch.inference_mode():
            found = whole.model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
        assert isinstance(found, Tensor)
        return found

    def rows(self, hidden: Tensor, following: list[int]) -> Tensor:
        """What the layer makes of these hidden states [n, dim] and the tokens after them, in
        float64."""
        whole = copy.deepcopy(self.model).double()
        with torch.inference_mode():
            embedded = whole.model.embed_tokens(torch.tensor(following))
            parts = [self._normed("enorm", embedded), self._normed("hnorm", hidden)]
            x = (torch.cat(parts, -1) @ self.join.double().T)[None]
            places = torch.arange(len(following))[None]
            n = len(following)
            found = whole.model.layers[LAYERS](
                x,
                position_embeddings=whole.model.rotary_emb(x, places),
                position_ids=places,
                attention_mask=torch.full((n, n), -torch.inf, dtype=torch.float64).triu(1)[
                    None, None
                ],
            )
        found = found[0] if isinstance(found, tuple) else found
        return self._normed("shared_head.norm", found.reshape(n, -1))

    def logits(self, rows: Tensor) -> Tensor:
        """The logits of rows of the layer."""
        return rows @ self.model.lm_head.weight.detach().double().T

    def _normed(self, name: str, x: Tensor) -> Tensor:
        weight, eps = self.norms[name].double() + self.centre, self.model.config.rms_norm_eps
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def deepseek(*, right: float = 0.0, seed: int = 3) -> Further:
    """DeepSeek V3. right: how much of the joined row is the embedding; the more, the more often the
    layer predicts what this model draws, which follows mostly from the last token."""
    config = transformers.DeepseekV3Config(
        **_SHAPE, **_LATENT, **_EXPERTS, rope_parameters=dict(_ROPE)
    )
    return _random(transformers.DeepseekV3ForCausalLM, config, right, seed)


def glm(*, right: float = 0.0, seed: int = 4) -> Further:
    """GLM-4.5; see `deepseek`."""
    config = transformers.Glm4MoeConfig(
        **_SHAPE,
        **_EXPERTS,
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
        use_qk_norm=True,
        rope_parameters={**_ROPE, "partial_rotary_factor": 0.5},
    )
    return _random(transformers.Glm4MoeForCausalLM, config, right, seed)


def qwen(*, right: float = 0.0, seed: int = 5) -> Further:
    """Qwen3-Next, whose first layer is recurrent; see `deepseek`."""
    config = transformers.Qwen3NextConfig(
        **_SHAPE,
        layer_types=["linear_attention", "full_attention", "full_attention"],
        num_key_value_heads=2,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=64,
        rope_parameters={**_ROPE, "partial_rotary_factor": 0.25},
    )
    found = _random(transformers.Qwen3NextForCausalLM, config, right, seed, centre=1.0)
    return replace(found, centre=1.0, block="mtp.layers.0.", names=QWEN)


def _random(
    make: Callable[[PretrainedConfig], PreTrainedModel],
    config: PretrainedConfig,
    right: float,
    seed: int,
    *,
    centre: float = 0.0,
) -> Further:
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model, dim = make(config).float().eval(), config.hidden_size
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("A_log", "dt_bias", "conv1d.weight")):
                continue
            if p.ndim == 1:
                mean = 0.0 if "norm" not in name else 1.0 if "linear_attn" in name else 1.0 - centre
                p.copy_(torch.randn_like(p) * 0.1 + mean)
            else:
                p.copy_(torch.randn_like(p) * (0.06 if right else 0.2))
        model.model.embed_tokens.weight.copy_(torch.randn(config.vocab_size, dim))
        model.lm_head.weight.copy_(torch.randn(config.vocab_size, dim) * 0.5)
        for name, bias in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias.copy_(torch.randn_like(bias) * 0.3)
    norms = {
        name: torch.randn(dim) * 0.1 + 1 - centre for name in ("enorm", "hnorm", "shared_head.norm")
    }
    join = torch.randn(dim, 2 * dim) * 0.1
    if right:
        join = join * 0.3
        join[:, :dim] += right * torch.eye(dim)
        norms["shared_head.norm"] = model.model.norm.weight.detach().clone()
    return Further(model, norms, join)


def write_gguf(oracle: Further, path: Path, directory: Path) -> Path:
    """GLM-4.5's file as llama.cpp's converter writes it, with the tensors of `directory`."""
    tensors = {n: v.numpy() for n, v in load_file(directory / "model.safetensors").items()}
    config, arch = oracle.model.config, gguf.MODEL_ARCH.GLM4_MOE
    w = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    w.add_block_count(LAYERS + 1)
    w.add_nextn_predict_layers(1)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_key_length(config.head_dim)
    w.add_value_length(config.head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(config.head_dim // 2)
    w.add_vocab_size(config.vocab_size)
    w.add_leading_dense_block_count(config.first_k_dense_replace)
    w.add_expert_count(config.n_routed_experts)
    w.add_expert_used_count(config.num_experts_per_tok)
    w.add_expert_shared_count(config.n_shared_experts)
    w.add_expert_feed_forward_length(config.moe_intermediate_size)
    w.add_expert_weights_scale(config.routed_scaling_factor)
    w.add_expert_weights_norm(config.norm_topk_prob)
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    names = gguf.get_tensor_name_map(arch, LAYERS + 1)
    experts: dict[str, list[np.ndarray]] = {}
    for name, value in sorted(tensors.items(), key=lambda item: _numbers(item[0])):
        found = re.fullmatch(r"(.*\.experts)\.\d+\.(\w+)\.weight", name)
        if found is not None:
            experts.setdefault(f"{found[1]}.{found[2]}.weight", []).append(value)
            continue
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        stem, _, suffix = name.rpartition(".")
        w.add_tensor(f"{names.get_name(stem)}.{suffix}", value)
    for name, parts in experts.items():
        w.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", np.stack(parts))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _numbers(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]
