"""Llama 4. Rotary pairs are laid out as in Hugging Face's files. The chunk size and the layers
without positions are those of the published sizes: no metadata key gives them.
"""

from __future__ import annotations

from rbee_worker.checkpoint.names.architecture import Architecture, Key
from rbee_worker.checkpoint.names.rows import (
    BIASED,
    DENSE_KEYS,
    EMBEDDING_ROWS,
    PRE_NORM_ROWS,
    ROPE_ROWS,
    TIED_WITHOUT_OUTPUT,
    attention_rows,
    constants,
    expert_rows,
    mlp_rows,
    shared_expert_rows,
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama4": Architecture(
        model_type="llama4_text",
        keys=(
            *(key for key in DENSE_KEYS if key.hf != "intermediate_size"),
            Key("feed_forward_length", "intermediate_size_mlp", "count", required=True),
            Key("expert_feed_forward_length", "intermediate_size", "count", required=True),
            Key("expert_count", "num_local_experts", "count", required=True),
            Key("expert_used_count", "num_experts_per_tok", "count", required=True),
            Key("interleave_moe_layer_step", "interleave_moe_layer_step", "count", required=True),
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *ROPE_ROWS,
            *PRE_NORM_ROWS,
            *attention_rows(),
            *mlp_rows("feed_forward", "weight"),
            *shared_expert_rows("feed_forward.shared_expert"),
            *expert_rows("feed_forward.router", "feed_forward.experts"),
        ),
        constants=constants(
            hidden_act="silu",
            attention_chunk_size=8192,
            no_rope_layer_interval=4,
            attn_temperature_tuning=True,
            floor_scale=8192,
            attn_scale=0.1,
        ),
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
