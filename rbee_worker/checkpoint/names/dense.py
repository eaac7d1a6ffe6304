"""Families with tensors or keys of their own: Phi, GLM, OLMo, StableLM, StarCoder2, Nemotron,
EXAONE 4, Cohere."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import (
    ATTENTION_KEYS,
    BIASED,
    DECODER_KEYS,
    DENSE_KEYS,
    EMBEDDING_ROWS,
    MLP_ROWS,
    POST_NORMS,
    PRE_NORM_ROWS,
    PRE_NORMS,
    QK_NORM_ROWS,
    QK_NORMS,
    ROPE_KEYS,
    ROPE_ROWS,
    TIED_WITHOUT_OUTPUT,
    TOKEN_KEYS,
    WINDOWS_KEY,
    attention_rows,
    constants,
    embedding_rows,
    expert_rows,
    norm_rows,
    rows,
)
from rbee_worker.checkpoint.names.rows import layer_rows as _layer


def _eps(hf: str) -> Key:
    return Key("attention.layer_norm_epsilon", hf, "number", required=True)


_SILU = constants(hidden_act="silu")
_NORM_KEYS = DECODER_KEYS + ATTENTION_KEYS + ROPE_KEYS + TOKEN_KEYS  # to be combined with _eps
_NORM_BIASES = (*norm_rows(PRE_NORMS, "bias"), *rows("output_norm", "model.norm", "bias"))
_FUSED_MLP = _layer("ffn_up", "mlp.gate_up_proj") + _layer("ffn_down", "mlp.down_proj")
_FUSED_QKV = _layer("attn_qkv", "self_attn.qkv_proj")
_FUSED = (
    EMBEDDING_ROWS
    + ROPE_ROWS
    + PRE_NORM_ROWS
    + attention_rows()  # some converters split the joined q, k and v
    + _FUSED_QKV
    + _FUSED_MLP
)

_LONG_KEYS = (
    *(k for k in DENSE_KEYS if not k.hf.startswith("rope_scaling.")),
    Key("rope.scaling.original_context_length", "original_max_position_embeddings", "count"),
    Key("rope.scaling.attn_factor", "rope_magnitude", "number"),
)
_GLM = MappingProxyType({"attention_bias": ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias")})
_LONG_ROWS = (
    Row("rope_factors_long.weight", "model.rope_factors_long"),
    Row("rope_factors_short.weight", "model.rope_factors_short"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "phi2": Architecture(
        model_type="phi",
        keys=(*_NORM_KEYS, _eps("layer_norm_eps")),
        tensors=(
            *rows("token_embd", "model.embed_tokens", "weight"),
            *rows("output_norm", "model.final_layernorm"),
            *rows("output", "lm_head"),
            *_layer("attn_norm", "input_layernorm"),
            *(row for p in "qkv" for row in _layer(f"attn_{p}", f"self_attn.{p}_proj")),
            *_FUSED_QKV,
            *_layer("attn_output", "self_attn.dense"),
            *_layer("ffn_up", "mlp.fc1"),
            *_layer("ffn_down", "mlp.fc2"),
        ),
        constants=constants(hidden_act="gelu_new", qk_layernorm=False),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "phi3": Architecture(
        model_type="phi3",
        keys=_LONG_KEYS,
        tensors=_FUSED + _LONG_ROWS,
        constants=_SILU,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "phimoe": Architecture(
        model_type="phimoe",
        keys=(
            *_LONG_KEYS,
            Key("expert_count", "num_local_experts", "count", required=True),
            Key("expert_used_count", "num_experts_per_tok", "count", required=True),
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *PRE_NORM_ROWS,
            *_NORM_BIASES,
            *attention_rows(),
            *_LONG_ROWS,
            *expert_rows(
                "block_sparse_moe.gate", "block_sparse_moe.experts", names=("w1", "w3", "w2")
            ),
        ),
        constants=constants(hidden_act="silu", router_jitter_noise=0.01),
        present=MappingProxyType({**BIASED, "lm_head_bias": ("output.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "chatglm": Architecture(
        model_type="glm",
        keys=DENSE_KEYS,
        tensors=_FUSED,
        constants=_SILU,
        present=_GLM,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "glm4": Architecture(
        model_type="glm4",
        keys=DENSE_KEYS,
        tensors=(
            *_FUSED,
            *_layer("post_attention_norm", "post_self_attn_layernorm", "weight"),
            *_layer("post_ffw_norm", "post_mlp_layernorm", "weight"),
        ),
        constants=_SILU,
        present=_GLM,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "olmo": Architecture(
        model_type="olmo",
        keys=(
            *_NORM_KEYS,
            _eps("layer_norm_eps"),
            Key("attention.clamp_kqv", "clip_qkv", "number"),
        ),
        tensors=EMBEDDING_ROWS + attention_rows("half_split_q", "half_split_k") + MLP_ROWS,
        constants=_SILU,
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "olmo2": Architecture(
        model_type="olmo2",
        variants=(("attention.sliding_window", "olmo3"),),
        keys=(
            *DENSE_KEYS,
            WINDOWS_KEY,
            Key("rope.freq_base_swa", "rope_parameters.sliding_attention.rope_theta", "number"),
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *attention_rows(),
            *MLP_ROWS,
            *norm_rows(QK_NORMS | POST_NORMS),
        ),
        constants=_SILU,
        present=BIASED,
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "exaone4": Architecture(
        model_type="exaone4",
        keys=(*DENSE_KEYS, WINDOWS_KEY),
        tensors=(
            *EMBEDDING_ROWS,
            *ROPE_ROWS,
            *attention_rows(),
            *MLP_ROWS,
            *norm_rows(QK_NORMS | POST_NORMS),
        ),
        constants=constants(hidden_act="silu", sliding_window_pattern=4),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "stablelm": Architecture(
        model_type="stablelm",
        keys=(*_NORM_KEYS, _eps("layer_norm_eps")),
        tensors=(
            *EMBEDDING_ROWS,
            *PRE_NORM_ROWS,
            *_NORM_BIASES,
            *attention_rows(),
            *MLP_ROWS,
            *norm_rows({f"attn_{p}_norm": f"self_attn.{p}_layernorm" for p in "qk"}),
        ),
        constants=_SILU,
        present=MappingProxyType(
            {
                "use_qkv_bias": ("blk.0.attn_q.bias",),
                "qk_layernorm": ("blk.0.attn_q_norm.weight",),
            }
        ),
        absent=MappingProxyType(
            {**TIED_WITHOUT_OUTPUT, "use_parallel_residual": "blk.0.ffn_norm.weight"}
        ),
    ),
    "starcoder2": Architecture(
        model_type="starcoder2",
        keys=(*_NORM_KEYS, _eps("norm_epsilon")),
        tensors=(
            *EMBEDDING_ROWS,
            *PRE_NORM_ROWS,
            *_NORM_BIASES,
            *attention_rows(),
            *_layer("ffn_up", "mlp.c_fc"),
            *_layer("ffn_down", "mlp.c_proj"),
        ),
        constants=constants(
            hidden_act="gelu_pytorch_tanh",
            activation_function="gelu",
            norm_type="layer_norm",
            mlp_type="default",
        ),
        present=MappingProxyType({"use_bias": ("blk.0.attn_q.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "nemotron": Architecture(
        model_type="nemotron",
        keys=(
            *_NORM_KEYS,
            _eps("norm_eps"),
            # Both keys hold the same number: llama.cpp's converter writes it under either name.
            Key("attention.layer_norm_rms_epsilon", "norm_eps", "number"),
        ),
        tensors=(
            *embedding_rows("sub_one"),
            *rows("output_norm", "model.norm", "bias"),
            *norm_rows(PRE_NORMS, op="sub_one"),
            *norm_rows(PRE_NORMS, "bias"),
            *attention_rows(),
            *MLP_ROWS,
        ),
        constants=constants(hidden_act="relu2"),
        present=MappingProxyType({**BIASED, "mlp_bias": ("blk.0.ffn_up.bias",)}),
        absent=TIED_WITHOUT_OUTPUT,
    ),
    "command-r": Architecture(
        model_type="cohere",
        keys=(
            *_NORM_KEYS,
            _eps("layer_norm_eps"),
            Key("logit_scale", "logit_scale", "number", default=1.0),
        ),
        tensors=(
            *EMBEDDING_ROWS,
            *_layer("attn_norm", "input_layernorm", "weight"),
            *attention_rows(),
            *MLP_ROWS,
            *QK_NORM_ROWS,
        ),
        constants=_SILU,
        present=MappingProxyType(
            {
                **BIASED,
                "use_qk_norm": ("blk.0.attn_q_norm.weight",),
            }
        ),
        absent=TIED_WITHOUT_OUTPUT,
    ),
}
