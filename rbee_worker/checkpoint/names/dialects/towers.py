"""Models with towers, whose config has the text model in an object of its own."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.dialects.dialect import Dialect

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
                inside="text_config",
                text=("llama",),
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
            inside="text_config",
            text=("gemma3_text",),
            beside=("vision_config", "mm_tokens_per_image"),
            ignored=("boi_token_index", "eoi_token_index", "image_token_index"),
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
            inside="text_config",
            ignored=(
                *("vision_config", "audio_config", "vision_soft_tokens_per_image"),
                *(f"{x}_token_{y}" for x in ("image", "audio", "video") for y in ("id", "index")),
                *(f"{x}_token_{y}" for x in ("boi", "eoi", "boa", "eoa") for y in ("id", "index")),
            ),
        ),
        "llama4": Dialect(
            "llama4_text",
            prefixes=MappingProxyType({"language_model.": ""}),
            inside="text_config",
            ignored=("vision_config", "boi_token_index", "eoi_token_index", "image_token_index"),
        ),
    }
)
