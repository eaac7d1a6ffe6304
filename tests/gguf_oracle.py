"""HF's models in float32, filled from a GGUF file that the `gguf` package reads and decodes.

None of our code has touched a byte of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from tests.archs import unpermute

Keys = Callable[..., Any]  # a metadata key without its architecture, default -> its value
Undo = Callable[[str, np.ndarray], np.ndarray]  # HF's stem, the file's values -> HF's values


def hf_llama(path: Path) -> PreTrainedModel:
    """The model of a `llama` file."""
    key, tensors = _read(path, "llama")
    config = transformers.LlamaConfig(
        **_shape(key, tensors),
        rope_parameters={"rope_type": "default", "rope_theta": key("rope.freq_base", 10000.0)},
    )

    def undo(stem: str, value: np.ndarray) -> np.ndarray:
        if stem.endswith("q_proj"):
            return unpermute(value, config.num_attention_heads)
        if stem.endswith("k_proj"):
            return unpermute(value, config.num_key_value_heads)
        return value

    return _filled(transformers.LlamaForCausalLM, config, gguf.MODEL_ARCH.LLAMA, tensors, undo)


def hf_gemma3(path: Path) -> PreTrainedModel:
    """The model of a `gemma3` file of text alone; its norms hold 1 + w."""
    key, tensors = _read(path, "gemma3")
    config = transformers.Gemma3TextConfig(
        **_shape(key, tensors),
        head_dim=key("attention.key_length"),
        query_pre_attn_scalar=key("attention.key_length"),
        sliding_window=key("attention.sliding_window"),
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": key("rope.freq_base")},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )

    def undo(stem: str, value: np.ndarray) -> np.ndarray:
        return value - np.float32(1) if stem.endswith("norm") else value

    return _filled(transformers.Gemma3ForCausalLM, config, gguf.MODEL_ARCH.GEMMA3, tensors, undo)


def greedy(hf: PreTrainedModel, ids: list[int], count: int) -> list[int]:
    """The `count` tokens that HF decodes after `ids`, end tokens or not."""
    with torch.inference_mode():
        full = hf.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return full[0, len(ids) :].tolist()


def _read(path: Path, arch: str) -> tuple[Keys, dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)

    def key(name: str, default: Any = None) -> Any:
        field = reader.fields.get(f"{arch}.{name}")
        return default if field is None else field.contents()

    return key, {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def _shape(key: Keys, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": key("embedding_length"),
        "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": key("attention.head_count"),
        "num_key_value_heads": key("attention.head_count_kv"),
        "max_position_embeddings": key("context_length"),
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _filled(
    kind: type[PreTrainedModel],
    config: PretrainedConfig,
    arch: int,
    tensors: dict[str, np.ndarray],
    undo: Undo,
) -> PreTrainedModel:
    with torch.device("meta"):
        model = kind(config)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    state = {}
    for name in model.state_dict():
        stem, _, suffix = name.rpartition(".")
        packed = names.get_name(stem)
        if stem == "lm_head" and config.tie_word_embeddings:
            packed = "token_embd"
        value = undo(stem, tensors[f"{packed}.{suffix}"])
        state[name] = torch.from_numpy(np.array(value, dtype=np.float32))
    model.load_state_dict(state, assign=True)
    # Buffers are not in the state.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    if hasattr(model.model.embed_tokens, "embed_scale"):
        model.model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)
    model.tie_weights()
    return model.eval()
