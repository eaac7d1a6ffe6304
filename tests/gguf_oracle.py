"""HF's Llama in float32, filled from a GGUF file that the `gguf` package reads and decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from tests.archs import unpermute


def hf_llama(path: Path) -> transformers.LlamaForCausalLM:
    """The model of a `llama` GGUF file, without our code having touched a byte of it."""
    reader = gguf.GGUFReader(path)

    def key(name: str, default: Any = None) -> Any:
        field = reader.fields.get(f"llama.{name}")
        return default if field is None else field.contents()

    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    config = transformers.LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=key("attention.head_count"),
        num_key_value_heads=key("attention.head_count_kv"),
        max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": key("rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in tensors,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    state = {}
    for name in model.state_dict():
        stem, _, suffix = name.rpartition(".")
        packed = names.get_name(stem)
        if stem == "lm_head" and config.tie_word_embeddings:
            packed = "token_embd"
        value = tensors[f"{packed}.{suffix}"]
        if stem.endswith("q_proj"):
            value = unpermute(value, config.num_attention_heads)
        if stem.endswith("k_proj"):
            value = unpermute(value, config.num_key_value_heads)
        state[name] = torch.from_numpy(np.array(value, dtype=np.float32))
    model.load_state_dict(state, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # buffers are not in the state
    model.tie_weights()
    return model.eval()
