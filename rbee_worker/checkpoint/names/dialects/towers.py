"""Models with towers, whose config has the text model in an object of its own."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Row
from rbee_worker.checkpoint.names.dialects.dialect import Dialect, weight_and_bias
from rbee_worker.checkpoint.names.dialects.gpt import around_phi, phi_rows

_VISUAL = "vision_encoder.encoder.model.visual"  # Moondream's tower


def _visual(old: str, new: str) -> tuple[Row, ...]:
    return weight_and_bias(f"{_VISUAL}.{old}", f"vision_tower.{new}")


def _sizes(vocab: int, dim: int, inner: int, layers: int, heads: int) -> MappingProxyType[str, int]:
    """What transformers' class of a text model assumes for the sizes that have no default here."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    sizes = zip((*names, "num_attention_heads"), (vocab, dim, inner, layers, heads), strict=True)
    return MappingProxyType(dict(sizes))


DIALECTS = MappingProxyType(
    {
        **{
            name: Dialect(
                name,
                prefixes=MappingProxyType(
                    {
                        "model.text_model.": "model.",
                        "model.vision_model.": "vision_model.",
                        "model.connector.": "connector.",
                    }
                ),
                inside=("text_config",),
                text=("llama",),
                assumed=_sizes(32000, 4096, 11008, 32, 32),
                beside=("vision_config", "scale_factor", "image_token_id"),
                ignored=("use_cache", "image_seq_len", "_pad_token_id"),
            )
            for name in ("idefics3", "smolvlm")
        },
        "gemma3": Dialect(
            "gemma3_text",
            prefixes=MappingProxyType(
                {
                    "language_model.model.": "model.",
                    "language_model.lm_head.": "lm_head.",
                    "model.language_model.": "model.",
                    "model.vision_tower.vision_model.": "vision_tower.",
                    "vision_tower.vision_model.": "vision_tower.",
                    "model.vision_tower.": "vision_tower.",
                    "model.multi_modal_projector.": "multi_modal_projector.",
                }
            ),
            inside=("text_config",),
            text=("gemma3_text",),
            assumed=_sizes(262208, 2304, 9216, 26, 8),
            beside=("vision_config", "mm_tokens_per_image"),
            ignored=("boi_token_index", "eoi_token_index", "image_token_index"),
        ),
        "moondream1": Dialect(
            "moondream1",
            tensors=(
                *phi_rows("text_model.transformer.h.{}"),
                *around_phi("text_model."),
                *_visual("patch_embed.linear", "embeddings.patch_embedding"),
                Row(f"{_VISUAL}.pos_embed", "vision_tower.embeddings.position_embedding.weight"),
                *_visual("blocks.{}.norm1", "encoder.layers.{}.layer_norm1"),
                *_visual("blocks.{}.attn.qkv", "encoder.layers.{}.self_attn.qkv_proj"),
                *_visual("blocks.{}.attn.proj", "encoder.layers.{}.self_attn.out_proj"),
                *_visual("blocks.{}.norm2", "encoder.layers.{}.layer_norm2"),
                *_visual("blocks.{}.mlp.fc1", "encoder.layers.{}.mlp.fc1"),
                *_visual("blocks.{}.mlp.fc2", "encoder.layers.{}.mlp.fc2"),
                *_visual("norm", "post_layernorm"),
            ),
            prefixes=MappingProxyType({"vision_encoder.projection.": "projection."}),
            inside=("phi_config", "text_config"),
            text=("phi",),
            beside=("vision_config",),
        ),
        "gemma4": Dialect(
            "gemma4_text",
            prefixes=MappingProxyType(
                {
                    "model.language_model.": "model.",
                    **{
                        f"model.{part}.": f"{part}."
                        for part in ("vision_tower", "audio_tower", "embed_vision", "embed_audio")
                    },
                }
            ),
            inside=("text_config",),
            assumed=_sizes(262144, 2304, 9216, 30, 8),
            ignored=(
                *("vision_config", "audio_config", "vision_soft_tokens_per_image"),
                *(f"{x}_token_{y}" for x in ("image", "audio", "video") for y in ("id", "index")),
                *(f"{x}_token_{y}" for x in ("boi", "eoi", "boa", "eoa") for y in ("id", "index")),
            ),
        ),
        "llama4": Dialect(
            "llama4_text",
            prefixes=MappingProxyType({"language_model.": ""}),
            inside=("text_config",),
            assumed=_sizes(202048, 5120, 8192, 48, 40),
            ignored=("vision_config", "boi_token_index", "eoi_token_index", "image_token_index"),
        ),
    }
)
