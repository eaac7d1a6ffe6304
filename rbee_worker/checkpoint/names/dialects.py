"""Dialects: older names that a model's own code had for configs and tensors of today's families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rbee_worker.checkpoint.names.rows import Row, constants

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Dialect:
    """One `model_type` that is another one under older names.

    model_type: today's. keys: old config key -> today's; constants: config values that hold for
    every such checkpoint; factors: config key -> (today's key, factor to multiply the value with).
    tensors: rows whose `gguf` side is the old name (empty: the names are today's); after: rows that
    replace these for the number right after the last layer; prefixes: beginning of an old name ->
    today's. only: config key -> the one value that is supported. inside: the config's object that
    describes the text model, whose model_type must be among `text`; beside: keys beside that object
    that are read; ignored: config keys that have no effect here.
    """

    model_type: str
    keys: Mapping[str, str] = field(default_factory=lambda: _NONE)
    constants: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    factors: Mapping[str, tuple[str, float]] = field(default_factory=lambda: MappingProxyType({}))
    tensors: tuple[Row, ...] = ()
    after: tuple[Row, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=lambda: _NONE)
    only: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    inside: str = ""
    text: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


_FALCON_KEYS = {
    "n_embed": "hidden_size",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads",
    "n_layer": "num_hidden_layers",
    "ffn_hidden_size": "intermediate_size",
    "activation": "hidden_act",
}
_ACTIVATION = "activation_function"
_GPT_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    _ACTIVATION: "hidden_act",
}
_T5_KEYS = {
    "d_model": "hidden_size",
    "d_kv": "head_dim",
    "d_ff": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
_PHI_KEYS = _GPT_KEYS | {"layer_norm_epsilon": "layer_norm_eps"}


def _both(old: str, new: str, shift: int = 0) -> tuple[Row, ...]:
    """A weight and its bias."""
    return tuple(Row(f"{old}.{k}", f"{new}.{k}", shift=shift) for k in ("weight", "bias"))


def _phi_rows(layer: str, shift: int = 0) -> tuple[Row, ...]:
    """The tensors inside Phi's layers; q, k and v are one matrix."""
    parts = {
        "ln": "input_layernorm",
        "mixer.Wqkv": "self_attn.qkv_proj",
        "mixer.out_proj": "self_attn.dense",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    inv_freq = Row(
        f"{layer}.mixer.rotary_emb.inv_freq",
        "model.layers.{}.self_attn.rotary_emb.inv_freq",
        shift=shift,
    )
    rows = (_both(f"{layer}.{o}", f"model.layers.{{}}.{n}", shift) for o, n in parts.items())
    return (inv_freq, *(row for pair in rows for row in pair))


_CHATGLM_LAYER = "transformer.encoder.layers.{}"
_CHATGLM_ROWS = (
    Row("transformer.embedding.word_embeddings.weight", "model.embed_tokens.weight"),
    Row("transformer.rotary_pos_emb.inv_freq", "model.rotary_emb.inv_freq"),
    Row("transformer.encoder.final_layernorm.weight", "model.norm.weight"),
    Row("transformer.output_layer.weight", "lm_head.weight"),
    *(
        Row(f"{_CHATGLM_LAYER}.{old}", f"model.layers.{{}}.{new}")
        for old, new in {
            "input_layernorm.weight": "input_layernorm.weight",
            "post_attention_layernorm.weight": "post_attention_layernorm.weight",
            "self_attention.query_key_value.weight": "self_attn.qkv_proj.weight",
            "self_attention.query_key_value.bias": "self_attn.qkv_proj.bias",
            "self_attention.dense.weight": "self_attn.o_proj.weight",
            "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
            "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
        }.items()
    ),
)

_QWEN_LAYER = "transformer.h.{}"
_QWEN_ROWS = (
    Row("transformer.wte.weight", "model.embed_tokens.weight"),
    Row("transformer.ln_f.weight", "model.norm.weight"),
    *_both(f"{_QWEN_LAYER}.attn.c_attn", "model.layers.{}.self_attn.qkv_proj"),
    *(
        Row(f"{_QWEN_LAYER}.{old}.weight", f"model.layers.{{}}.{new}.weight")
        for old, new in {
            "ln_1": "input_layernorm",
            "attn.c_proj": "self_attn.o_proj",
            "ln_2": "post_attention_layernorm",
            "mlp.w1": "mlp.up_proj",
            "mlp.w2": "mlp.gate_proj",
            "mlp.c_proj": "mlp.down_proj",
        }.items()
    ),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "Yi": Dialect("llama"),
        "falcon": Dialect("falcon", _FALCON_KEYS),
        "RefinedWeb": Dialect("falcon", _FALCON_KEYS, constants(new_decoder_architecture=True)),
        "RefinedWebModel": Dialect("falcon", _FALCON_KEYS),
        # Qwen 1 scales positions and scores beyond seq_length; here seq_length is the context.
        "qwen": Dialect(
            "qwen2",
            {
                "layer_norm_epsilon": "rms_norm_eps",
                "rotary_emb_base": "rope_theta",
                "kv_channels": "head_dim",
                "seq_length": "max_position_embeddings",
            },
            constants(hidden_act="silu", num_key_value_heads=None),
            factors=MappingProxyType({"intermediate_size": ("intermediate_size", 0.5)}),
            tensors=_QWEN_ROWS,
            only=MappingProxyType({"no_bias": True, "rotary_pct": 1.0, "scale_attn_weights": True}),
            ignored=(
                "use_dynamic_ntk",
                "use_logn_attn",
                "attn_dropout_prob",
                "emb_dropout_prob",
                "onnx_safe",
                "use_flash_attn",
                "fp16",
                "bf16",
                "fp32",
                "tokenizer_type",
                "tokenizer_class",
            ),
        ),
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
        # transformers 5 writes another key than the published files have.
        "qwen2_moe": Dialect("qwen2_moe", {"num_local_experts": "num_experts"}),
        "qwen3_moe": Dialect("qwen3_moe", {"num_local_experts": "num_experts"}),
        "gpt_bigcode": Dialect("gpt_bigcode", _GPT_KEYS),
        # The rest chooses how the authors' code computes and trains; no mixer of theirs decays.
        "based": Dialect(
            "based",
            {
                **{k: v for k, v in _GPT_KEYS.items() if k not in ("n_positions", _ACTIVATION)},
                "rotary_emb_base": "rope_theta",
                "rotary_emb_fraction": "partial_rotary_factor",
            },
            prefixes=MappingProxyType(
                {"model.transformer.": "transformer.", "model.lm_head.": "lm_head."}
            ),
            only=MappingProxyType(
                {
                    _ACTIVATION: "swiglu",
                    **dict.fromkeys(("rms_norm", "prenorm", "scale_attn_weights"), True),
                    **dict.fromkeys(("mlp_fc1_bias", "mlp_fc2_bias", "lm_head_bias"), False),
                    **dict.fromkeys(("qkv_proj_bias", "out_proj_bias", "attn_dwconv"), False),
                    **dict.fromkeys(("parallel_block", "scale_attn_by_inverse_layer_idx"), False),
                    **dict.fromkeys(("rotary_emb_scale_base", "word_embed_proj_dim"), None),
                    "mlp_type": "base",
                }
            ),
            ignored=(
                *("n_positions", "fixed_decay", "decay_const", "decay_denom", "ff_mult"),
                *("fused_mlp", "fused_bias_fc", "fused_dropout_add_ln", "use_flash_attn"),
                *("residual_in_fp32", "reorder_and_upcast_attn", "special_initializer"),
                *("summary_type", "summary_use_proj", "summary_activation", "_target_"),
                *("summary_proj_to_labels", "summary_first_dropout", "use_weight_init"),
            ),
        ),
        # Published files also have the keys of the authors' own code.
        "mamba": Dialect(
            "mamba",
            {
                "d_model": "hidden_size",
                "d_inner": "intermediate_size",
                "n_layer": "num_hidden_layers",
            },
            prefixes=MappingProxyType({"backbone.embedding.": "backbone.embeddings."}),
            only=MappingProxyType({"rms_norm": True}),
            ignored=("ssm_cfg", "fused_add_norm", "pad_vocab_size_multiple"),
        ),
        # Codestral Mamba has norm_before_gate, which HF's class ignores: the norm follows the gate.
        # chunk_size belongs to HF's way of computing, time_step_rank to Mamba 1.
        "mamba2": Dialect(
            "mamba2",
            prefixes=MappingProxyType(
                {
                    "model.backbone.": "backbone.",
                    "model.lm_head.": "lm_head.",
                    "backbone.embedding.": "backbone.embeddings.",
                }
            ),
            only=MappingProxyType({"rms_norm": True}),
            ignored=("chunk_size", "time_step_rank", "norm_before_gate"),
        ),
        # rescale_every halves numbers that overflow in 16 bits, and changes no result. The number
        # of heads follows from head_size; files say another one.
        **{
            name: Dialect(name, ignored=("rescale_every", "num_attention_heads"))
            for name in ("rwkv5", "rwkv6")
        },
        # Nothing depends on a longest sequence; the others choose how fla computes and trains.
        # BERT's key; positions of ModernBERT are rotary.
        **{
            name: Dialect(
                name,
                _T5_KEYS,
                ignored=(
                    *("dropout_rate", "initializer_factor", "dense_act_fn"),
                    *("task_specific_params", "scalable_attention", "output_past"),
                ),
            )
            for name in ("t5", "mt5", "umt5")
        },
        "modernbert": Dialect("modernbert", ignored=("position_embedding_type",)),
        "rwkv7": Dialect(
            "rwkv7",
            ignored=(
                *("max_position_embeddings", "attn_mode", "fuse_norm", "fuse_cross_entropy"),
                *("fuse_linear_cross_entropy", "use_l2warp"),
            ),
        ),
        "falcon_h1": Dialect(
            "falcon_h1",
            only=MappingProxyType({"mamba_use_mlp": True, "attn_layer_indices": None}),
            ignored=("mlp_expansion_factor",),
        ),
        # Published files also have the keys of the authors' own code.
        **{
            kind: Dialect(
                kind,
                {
                    "block_dim": "hidden_size",
                    "block_ff_dim": "intermediate_size",
                    "block_norm_eps": "norm_eps",
                    "conv_dim": "hidden_size",
                    "conv_dim_out": "hidden_size",
                    "num_heads": "num_attention_heads",
                    "theta": "rope_theta",
                    "tie_embedding": "tie_word_embeddings",
                },
                only=MappingProxyType({"block_use_swiglu": True, "use_pos_enc": True}),
                ignored=(
                    *("block_mlp_init_scale", "block_out_init_scale"),
                    *("block_use_xavier_init", "conv_use_xavier_init"),
                ),
            )
            for kind in ("lfm2", "lfm2_moe")
        },
        "jamba": Dialect(
            "jamba",
            {"num_local_experts": "num_experts"},
            only=MappingProxyType({"mamba_inner_layernorms": True, "sliding_window": None}),
            ignored=("calc_logits_for_entire_prompt", "n_ctx"),
        ),
        "recurrent_gemma": Dialect(
            "recurrent_gemma",
            {"_block_types": "block_types", "sliding_window": "attention_window_size"},
            only=MappingProxyType({"embeddings_scale_by_sqrt_dim": True}),
            ignored=("w_init_variance_scale", "final_w_init_variance_scale"),
        ),
        # What HF's class renames, and what it has for other code or for training.
        "nemotron_h": Dialect(
            "nemotron_h",
            {
                "attention_head_dim": "head_dim",
                "mamba_n_groups": "n_groups",
                "mamba_d_conv": "conv_kernel",
                "mamba_conv_bias": "use_conv_bias",
                "mamba_dt_limit": "time_step_limit",
            },
            ignored=(
                *("chunk_size", "expand", "mamba_expand", "rms_norm_eps", "mamba_ssm_cache_dtype"),
                *("moe_shared_expert_overlap", "mtp_layers_block_type", "num_nextn_predict_layers"),
                *("mamba_dt_min", "mamba_dt_max", "mamba_dt_init_floor", "hidden_act"),
                *("mtp_hybrid_override_pattern", "norm_eps"),
            ),
        ),
        "mpt": Dialect(
            "mpt",
            {
                "d_model": "hidden_size",
                "n_heads": "num_attention_heads",
                "n_layers": "num_hidden_layers",
                "max_seq_len": "max_position_embeddings",
            },
        ),
        "chatglm": Dialect(
            "glm",
            {
                "num_layers": "num_hidden_layers",
                "ffn_hidden_size": "intermediate_size",
                "kv_channels": "head_dim",
                "multi_query_group_num": "num_key_value_heads",
                "padded_vocab_size": "vocab_size",
                "seq_length": "max_position_embeddings",
                "layernorm_epsilon": "rms_norm_eps",
                "add_qkv_bias": "attention_bias",
            },
            constants(hidden_act="silu"),
            factors=MappingProxyType({"rope_ratio": ("rope_theta", 10000.0)}),
            tensors=_CHATGLM_ROWS,
            only=MappingProxyType(
                {
                    "multi_query_attention": True,
                    "add_bias_linear": False,
                    "rmsnorm": True,
                    "post_layer_norm": True,
                    "apply_residual_connection_post_layernorm": False,
                    "original_rope": True,
                }
            ),
        ),
        "mixformer-sequential": Dialect(
            "phi",
            _PHI_KEYS,
            tensors=(
                Row("layers.0.wte.weight", "model.embed_tokens.weight"),
                *_phi_rows("layers.{}", shift=-1),
                *_both("layers.{}.linear", "lm_head"),
            ),
            after=_both("layers.{}.ln", "model.final_layernorm"),
        ),
        "phi-msft": Dialect(
            "phi",
            _PHI_KEYS,
            tensors=(
                Row("transformer.embd.wte.weight", "model.embed_tokens.weight"),
                *_phi_rows("transformer.h.{}"),
                *_both("lm_head.ln", "model.final_layernorm"),
                *_both("lm_head.linear", "lm_head"),
            ),
        ),
    }
)
