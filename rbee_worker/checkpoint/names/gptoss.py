"""GPT-OSS: sinks beside the heads, experts with biases."""

from __future__ import annotations

from rbee_worker.checkpoint.names.rows import (
    DENSE_KEYS,
    EMBEDDING_ROWS,
    TIED_WITHOUT_OUTPUT,
    Architecture,
    Key,
    Row,
    attention_rows,
    constants,
    expert_rows,
)

ARCHITECTURES: dict[str, Architecture] = {
    "gpt-oss": Architecture(
        model_type="gpt_oss",
        keys=(
            *DENSE_KEYS,
            Key("expert_count", "num_local_experts", "count", required=True),
            Key("expert_used_count", "num_experts_per_tok", "count", required=True),
            Key("expert_feed_forward_length", "intermediate_size", "count"),
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *attention_rows(),
            Row("blk.{}.attn_sinks.weight", "model.layers.{}.self_attn.sinks"),
            Row("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
            Row(
                "blk.{}.post_attention_norm.weight",
                "model.layers.{}.post_attention_layernorm.weight",
            ),
            *expert_rows("mlp.router", "mlp.experts", ("gate_proj", "up_proj", "down_proj")),
            Row("blk.{}.ffn_gate_inp.bias", "model.layers.{}.mlp.router.bias"),
            *(
                Row(
                    f"blk.{{}}.ffn_{part}_exps.bias",
                    f"model.layers.{{}}.mlp.experts.{part}_proj.bias",
                )
                for part in ("gate", "up", "down")
            ),
        ),
        constants=constants(hidden_act="silu"),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
