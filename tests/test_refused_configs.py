"""What a family cannot compute is refused by name, before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import T5Config, T5EncoderModel

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.errors import CheckpointError, ModelError, UnsupportedModel
from tests.archs import ARCHS, write_checkpoint
from tests.encoders import sentence_files
from tests.outlines import planned_model

BY_ID = {arch.id: arch for arch in ARCHS}
FULL, SLIDING = "full_attention", "sliding_attention"

CASES: list[tuple[str, dict[str, Any], type[ModelError], str]] = [
    ("llama", {"partial_rotary_factor": 0.5}, UnsupportedModel, "rotates whole heads"),
    ("llama", {"num_hidden_layers": 0}, CheckpointError, "layers = 0"),
    ("llama", {"hidden_act": "swoosh"}, UnsupportedModel, "hidden_act 'swoosh'"),
    ("llama", {"is_causal": False}, UnsupportedModel, "is_causal is false: tokens of this model"),
    ("mamba", {"is_causal": False}, UnsupportedModel, "is_causal is false: tokens of this model"),
    ("mistral-window", {"sliding_window": -1}, CheckpointError, "sliding_window = -1"),
    ("granite", {"logits_scaling": 0}, CheckpointError, "logits_scaling is 0"),
    ("smollm3", {"no_rope_layers": [1, 0]}, CheckpointError, "no_rope_layers names 2 layers"),
    ("qwen2-window", {"layer_types": [FULL]}, CheckpointError, "layer_types names 1 layers"),
    (
        "qwen2-window",
        {"layer_types": [FULL, SLIDING, "chunked_attention"]},
        UnsupportedModel,
        "layer_types has chunked_attention",
    ),
    ("gemma3", {"sliding_window": None}, CheckpointError, "sliding_window is not set"),
    ("gemma2", {"use_bidirectional_attention": True}, UnsupportedModel, "encodes text"),
    (
        "gemma3",
        {"use_bidirectional_attention": True, "vision_config": {}},
        UnsupportedModel,
        "vectors of texts and pictures",
    ),
    (
        "exaone4",
        {"sliding_window_pattern": None, "layer_types": None},
        CheckpointError,
        "pattern = 0",
    ),
    (
        "gemma3",
        {"sliding_window_pattern": 0, "_sliding_window_pattern": 0, "layer_types": None},
        CheckpointError,
        "pattern = 0",
    ),
    (
        "gemma3",
        {"rope_parameters": {"full_attention": {}, "other": 3}},
        CheckpointError,
        "rope_parameters has 'other'",
    ),
    (
        "gemma3",
        {"rope_parameters": {"full_attention": {"rope_theta": "big"}}},
        CheckpointError,
        "a rope_theta of 'big'",
    ),
    (
        "phi3-long",
        {"rope_parameters": None, "rope_scaling": {"type": "su", "short_factor": [1.0]}},
        CheckpointError,
        "short_factor has 1 values, but 8 pairs rotate",
    ),
    (
        "phi3-long",
        {"rope_parameters": None, "rope_scaling": {"type": "su", "long_factor": [1.0]}},
        CheckpointError,
        "has no 'short_factor'",
    ),
    ("hunyuan-dense", {"use_cla": True}, UnsupportedModel, "not supported: use_cla"),
    ("hunyuan-dense", {"attention_head_dim": 8}, CheckpointError, "attention_head_dim is 8"),
    (
        "hunyuan-dense-alpha",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": -1.0}},
        CheckpointError,
        "an alpha of -1.0",
    ),
    ("mamba", {"rms_norm": False}, UnsupportedModel, "rms_norm is False"),
    ("mamba", {"d_model": 65}, CheckpointError, "d_model"),
    ("mamba", {"conv_kernel": 1}, UnsupportedModel, "conv_kernel is 1"),
    ("mamba", {"time_step_rank": "some"}, CheckpointError, "time_step_rank is 'some'"),
    ("mamba", {"time_step_rank": 0}, CheckpointError, "time_step_rank = 0"),
    ("mamba", {"state_size": 0}, CheckpointError, "state = 0"),
    ("mamba", {"hidden_act": "swoosh"}, UnsupportedModel, "hidden_act 'swoosh'"),
    ("mamba2", {"num_heads": 0}, CheckpointError, "heads = 0"),
    ("mamba2", {"n_groups": 0}, CheckpointError, "groups = 0"),
    ("mamba2", {"n_groups": 3}, CheckpointError, "8 heads do not make 3 equal groups"),
    ("mamba2", {"head_dim": 8}, CheckpointError, "8 heads of 8 columns do not make the 128"),
    ("mamba2", {"time_step_limit": [0.0, 0.1]}, UnsupportedModel, "limit is [0.0, 0.1]"),
    ("granite4", {"mamba_d_head": "some"}, CheckpointError, "mamba_d_head is 'some'"),
    ("granite4", {"mamba_n_heads": 0}, CheckpointError, "heads = 0"),
    ("granite4", {"mamba_expand": 3}, CheckpointError, "8 heads of 16 columns do not make the 192"),
    ("granite4", {"mamba_d_conv": 1}, UnsupportedModel, "conv_kernel is 1"),
    ("granite4", {"layer_types": [FULL, "moe", FULL]}, UnsupportedModel, "layer_types has moe"),
    ("granite4", {"num_experts_per_tok": 7}, CheckpointError, "num_experts_per_tok is 7"),
    ("granite4", {"shared_intermediate_size": 0}, CheckpointError, "shared_intermediate_size = 0"),
    ("bamba", {"attn_rotary_emb": 16}, UnsupportedModel, "attn_rotary_emb is 16, but 8 columns"),
    ("falcon-h1", {"ssm_multipliers": [1.0]}, CheckpointError, "ssm_multipliers is [1.0], not 5"),
    ("falcon-h1", {"mlp_multipliers": [1.0, "x"]}, CheckpointError, "mlp_multipliers is [1.0, "),
    ("nemotron-h", {"layers_block_type": ["mlp", "x"]}, UnsupportedModel, "layer_types has x"),
    ("nemotron-h", {"num_hidden_layers": 3}, CheckpointError, "of 7 layers are given"),
    ("nemotron-h", {"attention_bias": True}, UnsupportedModel, "attention_bias is True"),
    ("nemotron-h", {"n_shared_experts": 2}, UnsupportedModel, "n_shared_experts is 2"),
    ("nemotron-h", {"mamba_num_heads": 0}, CheckpointError, "mamba_num_heads = 0"),
    ("nemotron-h-moe", {"n_group": 3}, CheckpointError, "8 experts in 3 groups"),
    ("nemotron-h-moe", {"n_routed_experts": 0}, CheckpointError, "n_routed_experts = 0"),
    ("lfm2", {"conv_L_cache": 1}, UnsupportedModel, "conv_kernel is 1"),
    ("lfm2", {"block_multiple_of": 0}, CheckpointError, "block_multiple_of = 0"),
    ("lfm2", {"use_pos_enc": False}, UnsupportedModel, "use_pos_enc is False"),
    ("lfm2", {"conv_dim": 32}, CheckpointError, "conv_dim"),
    ("lfm2-moe", {"num_dense_layers": -1}, CheckpointError, "num_dense_layers is -1"),
    ("lfm2-moe", {"scoring_func": "softmax"}, UnsupportedModel, "scoring_func is 'softmax'"),
    ("jamba", {"attn_layer_period": 0}, CheckpointError, "attn_layer_period 0"),
    ("jamba", {"attn_layer_offset": 3}, CheckpointError, "attn_layer_offset is 3, attn_layer_p"),
    ("jamba", {"mamba_dt_rank": "some"}, CheckpointError, "mamba_dt_rank is 'some'"),
    ("jamba", {"mamba_inner_layernorms": False}, UnsupportedModel, "inner_layernorms is False"),
    (
        "qwen3-next",
        {"linear_num_key_heads": 3},
        CheckpointError,
        "64 columns in 4 heads in 3 groups",
    ),
    ("qwen3-next", {"linear_num_value_heads": 0}, CheckpointError, "linear_num_value_heads = 0"),
    ("qwen3-next", {"layer_types": [FULL] * 3}, CheckpointError, "layer_types names 3 layers"),
    ("recurrent-gemma", {"lru_width": 62}, CheckpointError, "lru_width is 62, not 4 equal parts"),
    ("recurrent-gemma", {"block_types": ["x"]}, UnsupportedModel, "layer_types has x"),
    ("recurrent-gemma", {"logits_soft_cap": 0.0}, CheckpointError, "logits_soft_cap is 0.0"),
    ("based", {"mixer": None}, UnsupportedModel, "mixer is null, which is not supported in Based"),
    ("based", {"alt_mixer": {"_target_": "a.Hedgehog"}}, UnsupportedModel, "is 'a.Hedgehog'"),
    ("based", {"alt_mixer": {"temperature": 2}}, UnsupportedModel, "alt_mixer.temperature is 2"),
    (
        "based",
        {"alt_mixer": {"feature_map": {"input_dim": 4}}},
        UnsupportedModel,
        "alt_mixer.feature_map.input_dim is 4",
    ),
    ("based", {"alt_mixer_2": {"num_heads": 8}}, UnsupportedModel, "alt_mixer_2.num_heads is 8"),
    ("based", {"alt_mixer_layers": [1, 9]}, CheckpointError, "alt_mixer_layers has 9, which is no"),
    ("based", {"alt_mixer": {"num_heads": 3}}, CheckpointError, "do not make 3 heads of linear"),
    ("based", {"mixer": {"kernel_size": 1}}, UnsupportedModel, "conv_kernel is 1"),
    ("based", {"rms_norm": False}, UnsupportedModel, "rms_norm is False"),
    ("rwkv5", {"head_size": 0}, CheckpointError, "head_size = 0"),
    ("rwkv6", {"head_size": 24}, CheckpointError, "64 columns do not make heads of head_size 24"),
    ("rwkv7", {"head_dim": 24}, CheckpointError, "64 columns do not make heads of 24"),
    ("rwkv7", {"value_dim": 128}, UnsupportedModel, "value_dim is 128"),
    ("rwkv7", {"attn": {"layers": [1]}}, UnsupportedModel, "attn gives some layers attention"),
    ("rwkv7", {"hidden_act": "silu"}, UnsupportedModel, "hidden_act is 'silu'"),
    ("phimoe", {"num_experts_per_tok": 1}, UnsupportedModel, "1 of 4 experts"),
    ("starcoder2", {"norm_type": "rms_norm"}, UnsupportedModel, "norm_type is 'rms_norm'"),
    (
        "falcon-40b",
        {"parallel_attn": False},
        UnsupportedModel,
        "new_decoder_architecture without parallel_attn",
    ),
    ("mpt", {"attn_config": {"qk_gn": True}}, UnsupportedModel, "attn_config.qk_gn"),
    ("mpt", {"attn_config": {"rope": True}}, UnsupportedModel, "attn_config.rope"),
    ("mpt", {"attn_config": {"alibi_bias_max": 0.0}}, UnsupportedModel, "config.alibi_bias_max"),
    ("mpt", {"attn_config": {"alibi": False}}, UnsupportedModel, "attn_config.alibi"),
    ("mpt", {"no_bias": False, "logit_scale": 0.5}, UnsupportedModel, "no_bias, logit_scale"),
    ("mixtral", {"num_experts_per_tok": 7}, CheckpointError, "is 7, but there are 6 experts"),
    ("qwen3-moe", {"num_local_experts": 0}, CheckpointError, "experts = 0"),
    ("chatglm", {"add_bias_linear": True}, UnsupportedModel, "add_bias_linear is True"),
    ("qwen1", {"rotary_pct": 0.5}, UnsupportedModel, "rotary_pct is 0.5"),
    ("gemma3-with-images", {"text_config": 3}, CheckpointError, "text_config is not an object"),
    ("deepseek-v2-lite", {"topk_method": "noaux_tc"}, UnsupportedModel, "'noaux_tc' of 'softmax'"),
    ("deepseek-v2-groups", {"n_group": 3}, CheckpointError, "8 experts in 3 groups"),
    ("deepseek-v3", {"num_experts_per_tok": 5}, CheckpointError, "5 of 8 experts in 4 groups, 2"),
    ("deepseek-v3", {"qk_nope_head_dim": 0, "qk_head_dim": 16}, CheckpointError, "nope_head_dim"),
    ("gpt-oss", {"swiglu_alpha": 1.5}, UnsupportedModel, "swiglu_alpha is 1.5"),
    ("gpt-oss", {"experts_per_token": 3}, CheckpointError, "experts_per_token 3"),
    ("llama4", {"num_experts_per_tok": 2}, UnsupportedModel, "2 experts for a token"),
    ("llama4-chunks", {"layer_types": [FULL, SLIDING]}, UnsupportedModel, "has sliding_attention"),
    ("llama4-chunks", {"no_rope_layers": [1]}, CheckpointError, "no_rope_layers names 1"),
    ("gemma4-experts", {"num_kv_shared_layers": 6}, CheckpointError, "shared_layers is 6"),
    ("gemma4-experts", {"num_kv_shared_layers": 5}, CheckpointError, "layer 1 shares keys"),
    (
        "gemma4-experts",
        {"per_layer_config": {"1": {"hidden_size": 8}}},
        UnsupportedModel,
        "per_layer_config of layer 1",
    ),
    (
        "gemma4-experts",
        {"per_layer_config": {"1": {"num_key_value_heads": 3}}},
        CheckpointError,
        "heads of layer 1",
    ),
]


@pytest.mark.parametrize(("arch", "changes", "kind", "says"), CASES)
def test_a_config_that_cannot_work(
    arch: str, changes: dict[str, Any], kind: type[ModelError], says: str, tmp_path: Path
) -> None:
    path = write_checkpoint(BY_ID[arch], tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(kind) as caught:
        planned_model(open_checkpoint(str(path)), "f32")
    assert says in caught.value.message
    assert type(caught.value) is kind


def test_vectors_that_code_of_the_authors_makes(tmp_path: Path) -> None:
    """Such a decoder's tokens see later ones, as a rule; where the code only writes text, it is not
    needed."""
    path = write_checkpoint(BY_ID["qwen2"], tmp_path)
    for name, content in sentence_files(way="lasttoken").items():
        at = path / f"{name.replace('__', '/')}.json"
        at.parent.mkdir(exist_ok=True)
        at.write_text(json.dumps(content))
    planned_model(open_checkpoint(str(path)), "f32")
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_qwen.Qwen2Model"}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=r"makes this model's vectors \(modeling_qwen"):
        planned_model(open_checkpoint(str(path)), "f32")
    (path / "modules.json").unlink()
    planned_model(open_checkpoint(str(path)), "f32")


def test_decoders_with_heads_that_are_not_served(tmp_path: Path) -> None:
    """No damaged files of models that generate."""
    folder = write_checkpoint(BY_ID["qwen3"], tmp_path / "tokens")
    change(folder, architectures=["Qwen3ForTokenClassification"])
    with pytest.raises(UnsupportedModel, match=r"classes of each token are not supported"):
        planned_model(open_checkpoint(str(folder)), "f32")
    folder = write_checkpoint(BY_ID["gemma3"], tmp_path / "later")
    name = "Gemma3TextForSequenceClassification"
    change(folder, architectures=[name], use_bidirectional_attention=True)
    with pytest.raises(UnsupportedModel, match=rf"{name}: .* whose tokens see later ones"):
        planned_model(open_checkpoint(str(folder)), "f32")


def change(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


def test_the_encoder_of_a_pair_alone(tmp_path: Path) -> None:
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    T5EncoderModel(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="T5EncoderModel: encoders without their decoder"):
        planned_model(open_checkpoint(str(tmp_path)), "f32")
