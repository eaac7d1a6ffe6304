"""Llama-shaped families with many small experts: OLMoE, dots.llm1, GLM-4.5."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key
from rbee_worker.checkpoint.names.rows import (
    BIASED,
    CHOICE_BIAS_ROW,
    DENSE_KEYS,
    EMBEDDING_ROWS,
    FURTHER_KEY,
    MLP_ROWS,
    PRE_NORM_ROWS,
    QK_NORM_ROWS,
    SMALL_EXPERT_KEYS,
    TIED_WITHOUT_OUTPUT,
    attention_rows,
    constants,
    expert_rows,
    further_rows,
    norm_rows,
    shared_expert_rows,
)

_ROWS = (
    *EMBEDDING_ROWS,
    *PRE_NORM_ROWS,
    *QK_NORM_ROWS,
    *attention_rows(),
    *expert_rows("mlp.gate", "mlp.experts"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "olmoe": Architecture(
        model_type="olmoe",
        keys=(
            *DENSE_KEYS,
            Key("expert_count", "num_experts", "count", required=True),
            Key("expert_used_count", "num_experts_per_tok", "count", required=True),
        ),
        tensors=_ROWS,
        constants=constants(hidden_act="silu", norm_topk_prob=False),
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "dots1": Architecture(
        model_type="dots1",
        keys=(
            *DENSE_KEYS,
            *SMALL_EXPERT_KEYS,
            Key("expert_gating_func", "scoring_func", "gating"),
        ),
        tensors=(
            *_ROWS,
            *MLP_ROWS,
            CHOICE_BIAS_ROW,
            *shared_expert_rows("mlp.shared_experts"),
        ),
        constants=constants(hidden_act="silu", max_window_layers=0, moe_layer_freq=1),
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "glm4moe": Architecture(
        model_type="glm4_moe",
        keys=(
            *DENSE_KEYS,
            *SMALL_EXPERT_KEYS,
            Key("expert_gating_func", "scoring_func", "gating"),
            FURTHER_KEY,
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *norm_rows({"attn_norm": "input_layernorm"}),
            *norm_rows({"post_attention_norm": "post_attention_layernorm"}),
            *QK_NORM_ROWS,
            *attention_rows(),
            *expert_rows("mlp.gate", "mlp.experts"),
            *MLP_ROWS,
            CHOICE_BIAS_ROW,
            *shared_expert_rows("mlp.shared_experts"),
            *further_rows(),
        ),
        constants=constants(hidden_act="silu"),
        present=MappingProxyType({**BIASED, "use_qk_norm": ("blk.0.attn_q_norm.weight",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
