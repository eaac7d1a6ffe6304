"""Config keys without effect on a forward pass here: names, training, generation,
serialisation."""

INERT = frozenset(
    [
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "is_causal",  # false is refused
        "label2id",
        "model_type",
        "model_max_length",
        "tokenizer_name",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "attn_pdrop",  # dropouts
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        "classifier_dropout",
        "mlp_dropout",
        "gradient_checkpointing",
        "initializer_cutoff_factor",
        "reference_compile",  # HF's choice of code
        "repad_logits_with_grad",
        "deterministic_flash_attn",
        "sparse_prediction",  # training
        "sparse_pred_ignore_index",
        "decoder_bias",  # of a head that predicts masked words
        "cls_token_id",  # tokens
        "embd_pdrop",
        "emb_pdrop",
        "embedding_dropout",
        "residual_dropout",
        "resid_pdrop",
        "init_device",
        "init_config",
        "embedding_fraction",  # scales a gradient
        "attention_softmax_in_fp32",  # always true here
        "scale_attention_softmax_in_fp32",
        "apply_query_key_layer_scaling",  # divides the scores, then multiplies them by the same
        "cache_implementation",
        "output_router_logits",  # used in training
        "router_aux_loss_coef",
        "aux_loss_alpha",
        "seq_aux",
        "for_llm_compressor",
        "ep_size",  # the number of machines that shared the experts
        "input_jitter_noise",
        "eod_token_id",  # tokens
        "im_start_id",
        "im_end_id",
        "im_newline_id",
        "mask_init_id",
        "pad_id",
        "sep_token_id",
        "text_start_id",
        "text_end_id",
        "org_vocab_size",
        "dense_list",  # of a head that sorts texts into classes
        "pool_type",
        "cla_share_factor",  # idle without use_cla, which is refused
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
        "rope_interleaved",
        "is_llama_config",
        "quantization_version",
        "time_step_scale",  # the initial weights of Mamba, and HF's choice of code for it
        "time_step_min",
        "time_step_max",
        "time_step_floor",
        "time_step_init_scheme",
        "rescale_prenorm_residual",
        "mamba_chunk_size",  # how many rows HF's scan computes at once
        "use_mamba_kernels",
        "num_logits_to_keep",  # of generation
        "z_loss_coefficient",
        "use_mambapy",
        "use_falcon_mambapy",
        "use_associative_scan",
    ]
)
