"""GPT-OSS: attention sinks, and experts with biases."""

from __future__ import annotations

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    BIASED,
    DENSE_KEYS,
    EMBEDDING_ROWS,
    TIED_WITHOUT_OUTPUT,
    WINDOWS_KEY,
    attention_rows,
    constants,
    expert_rows,
    norm_rows,
)

_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
}

ARCHITECTURES: dict[str, Architecture] = {
    "gpt-oss": Architecture(
        model_type="gpt_oss",
        keys=(
            *DENSE_KEYS,
            WINDOWS_KEY,
            # YaRN's ramp is not rounded to whole columns. No file says so, but all are meant so.
            Key("rope.scaling.truncate", "rope_scaling.truncate", "flag", default=False),
            Key("expert_count", "num_local_experts", "count", required=True),
            Key("expert_used_count", "num_experts_per_tok", "count", required=True),
            Key("expert_feed_forward_length", "intermediate_size", "count", required=True),
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *attention_rows(),
            Row("blk.{}.attn_sinks.weight", "model.layers.{}.self_attn.sinks"),
            *norm_rows(_NORMS),
            *expert_rows("mlp.router", "mlp.experts", "weight", "bias"),
        ),
        constants=constants(hidden_act="silu", swiglu_alpha=1.702, swiglu_limit=7.0),
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
