"""Models with recurrent layers, hybrids included."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.dialects.dialect import Dialect
from rbee_worker.checkpoint.names.dialects.gpt import ACTIVATION, GPT_KEYS

DIALECTS = MappingProxyType(
    {
        # The rest chooses how the authors' code computes and trains; no mixer of theirs decays.
        "based": Dialect(
            "based",
            {
                **{k: v for k, v in GPT_KEYS.items() if k not in ("n_positions", ACTIVATION)},
                "rotary_emb_base": "rope_theta",
                "rotary_emb_fraction": "partial_rotary_factor",
            },
            prefixes=MappingProxyType(
                {"model.transformer.": "transformer.", "model.lm_head.": "lm_head."}
            ),
            only=MappingProxyType(
                {
                    ACTIVATION: "swiglu",
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
                    **more,
                    "block_dim": "hidden_size",
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
            for kind, more in (("lfm2", {"block_ff_dim": "intermediate_size"}), ("lfm2_moe", {}))
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
    }
)
