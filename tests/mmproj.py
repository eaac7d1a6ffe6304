"""mmproj files of tests/seeing.py's models, as llama.cpp's converter writes them, beside a file of
the text model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests import seeing
from tests.moondream import Moondream, close

KINDS = {
    "idefics3": "idefics3",
    "smolvlm": "idefics3",
    "gemma3": "gemma3",
    "gemma3-near": "gemma3",
    "moondream": "mlp",
    "moondream-1": "mlp",
}


def write(name: str, folder: Path, **changes: Any) -> tuple[Path, Path]:
    """(the text model's file, the tower's). changes: of keys of the tower's file."""
    model = seeing.oracle(name)
    text, tower = folder / "model.gguf", folder / "mmproj-model-f32.gguf"
    if isinstance(model, Moondream):
        model.write_text(text)
        model.write_tower(tower, changes)
    else:
        _write_text(name, model, text)
        _write_tower(name, model, tower, changes)
    return text, tower


def _write_tower(name: str, model: Any, file: Path, changes: dict[str, Any]) -> None:
    c, kind = model.config.vision_config, KINDS[name]
    w = gguf.GGUFWriter(file, "clip")
    w.add_clip_has_vision_encoder(True)
    w.add_vision_projection_dim(changes.get("projection_dim", model.config.text_config.hidden_size))
    w.add_vision_image_size(c.image_size)
    w.add_vision_patch_size(c.patch_size)
    w.add_vision_embedding_length(c.hidden_size)
    w.add_vision_feed_forward_length(c.intermediate_size)
    w.add_vision_block_count(c.num_hidden_layers)
    w.add_vision_head_count(c.num_attention_heads)
    w.add_vision_image_mean([0.5, 0.5, 0.5])
    w.add_vision_image_std([0.5, 0.5, 0.5])
    w.add_clip_projector_type(changes.get("projector", kind))
    w.add_vision_attention_layernorm_eps(c.layer_norm_eps)
    w.add_vision_use_gelu(True)
    merge = model.config.scale_factor if kind == "idefics3" else _merge(model)
    w.add_vision_projector_scale_factor(merge)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, c.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if not any(
            part in key for part in ("vision_model.", "vision_tower.", "connector", "multi_")
        ):
            continue
        if ".head." in key:
            continue
        key = key.replace("model.vision_tower.", "vision_tower.vision_model.")
        key = key.replace("model.multi_modal", "multi_modal").replace("_weight", ".weight")
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert found is not None, key
        value = tensor.detach().numpy()
        w.add_tensor(found, value + np.float32(1) if "soft_emb_norm" in key else value)
    close(w)


def _merge(model: Any) -> int:
    c = model.config
    return int(
        c.vision_config.image_size // c.vision_config.patch_size // c.mm_tokens_per_image**0.5
    )


def _write_text(name: str, model: Any, file: Path) -> None:
    c = model.config.text_config
    gemma = KINDS[name] == "gemma3"
    arch = gguf.MODEL_ARCH.GEMMA3 if gemma else gguf.MODEL_ARCH.LLAMA
    w = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    w.add_vocab_size(c.vocab_size)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(1e6 if gemma else 10000.0)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    if gemma:
        w.add_sliding_window(c.sliding_window)
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        key = key.replace("model.text_model.", "model.").replace("model.language_model.", "model.")
        found = names.get_name(key, try_suffixes=(".weight",))
        if found is None or "vision" in key or (found == "output.weight" and c.tie_word_embeddings):
            continue
        value = tensor.detach().numpy()
        if gemma and "norm" in key:
            value = value + np.float32(1)
        if not gemma and key.endswith(("q_proj.weight", "k_proj.weight")):
            heads = c.num_attention_heads if "q_proj" in key else c.num_key_value_heads
            halves = value.reshape(heads, 2, -1, value.shape[1])
            value = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(value.shape)
        w.add_tensor(found, value)
    close(w)
