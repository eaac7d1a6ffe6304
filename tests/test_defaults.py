"""What an absent key means, and what null means: as transformers' config classes have it.

Two configs of each type are compared: one of nothing but sizes, and the one that transformers makes
of it, every key written out. They must come to the same numbers, windows, heads and mixtures.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import CONFIG_MAPPING, PretrainedConfig

from rbee_worker.checkpoint.hf_config import canonical
from rbee_worker.checkpoint.names import DIALECTS
from rbee_worker.checkpoint.renamed import renamed_config
from rbee_worker.errors import CheckpointError
from rbee_worker.models import ARCHITECTURES
from rbee_worker.models.config import StackConfig, read_config
from rbee_worker.models.inert_keys import INERT
from rbee_worker.verify import based, rwkv

# Sizes, by the names of `StackConfig`; those that follow from others must follow here as well.
SIZES: dict[str, dict[str, Any]] = {
    "their own": {},
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 13,
        "num_attention_heads": 8,
        "num_heads": 12,  # of Mamba 2, whose heads have 64 columns
    },
    "with windows": {
        "num_hidden_layers": 13,
        "use_sliding_window": True,
        "sliding_window": 24,
        "max_window_layers": 5,
    },
}
# What a property of the config says of these fields is compared in their stead: a list that
# transformers writes out, a number that it derives.
RESOLVED = {
    "full_attn_idxs",  # kinds
    "head_dim",  # width
    "layer_types",  # kinds
    "layers_block_type",  # kinds
    "mamba_d_head",  # columns
    "mamba_dt_rank",  # sizes
    "moe_layers",  # mixtures
    "no_rope_layers",  # rotates
    "num_key_value_heads",  # kv_heads
    "sliding_window",  # the lengths of the kinds in use
    "per_layer_config",  # heads
    "time_step_rank",  # rank
}
# (type, field): why transformers' class is no measure of it.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("bamba", "attn_rotary_emb"): "of published files; the class rotates half of each head",
    ("bamba", "layer_types"): "of GGUF files",
    ("bamba", "mamba_d_ssm"): "of GGUF files",
    ("bamba", "position_embedding_type"): "of GGUF files",
    ("bamba", "time_step_limit"): "the class writes what its absence means",
    ("deepseek_v2", "moe_layer_freq"): "of the model's own code",
    ("deepseek_v2", "num_nextn_predict_layers"): "of the model's own code",
    ("deepseek_v2", "qk_head_dim"): "the two parts together: GGUF files say it",
    ("deepseek_v2", "rope_interleave"): "the class always has neighbours for pairs",
    ("deepseek_v2", "scoring_func"): "of the model's own code",
    ("deepseek_v3", "moe_layer_freq"): "of the model's own code",
    ("deepseek_v3", "qk_head_dim"): "the two parts together: GGUF files say it",
    ("deepseek_v3", "scoring_func"): "of the model's own code",
    ("deepseek_v3", "topk_method"): "of the model's own code",
    ("based", "hidden_act"): "no file says it: an activation other than swiglu is refused",
    ("based", "max_position_embeddings"): "the class has no such key",
    ("dots1", "moe_layer_freq"): "of the model's own code",
    ("dots1", "scoring_func"): "of the model's own code",
    ("glm4_moe", "scoring_func"): "of GGUF files",
    ("falcon", "intermediate_size"): "0 is four times the width, which the class writes out",
    ("falcon", "qkv_grouped"): "of GGUF files",
    ("gemma", "hidden_activation"): "of early files, which say the activation twice",
    ("gemma2", "hidden_act"): "early files have it beside hidden_activation; nothing reads it",
    **{
        ("gemma3_text", key): "of the model with a tower; the class is of its text model alone"
        for key in ("vision_config", "mm_tokens_per_image", "image_mean", "image_std")
    },
    ("gemma3_text", "hidden_act"): "early files have it beside hidden_activation; nothing reads it",
    ("gemma4_text", "hidden_act"): "nothing reads it: the family's key is hidden_activation",
    ("gemma4_text", "per_layer_config"): "the class makes it, of keys that it does not keep",
    ("mpt", "hidden_act"): "no file says it",
    ("gemma4_text", "global_head_dim"): "the class writes per_layer_config in its stead",
    ("gemma4_text", "num_global_key_value_heads"): "the class writes per_layer_config instead",
    ("gemma4_text", "rope_parameters"): "the class writes what its absence means",
    ("gpt_bigcode", "intermediate_size"): "0 is four times the width, as null is there",
    ("gpt_oss", "experts_per_token"): "published files have it beside num_experts_per_tok",
    ("gpt_oss", "initial_context_length"): "published files have it; nothing reads it",
    ("falcon_h1", "mlp_multipliers"): "the class writes what its absence means",
    ("falcon_h1", "ssm_multipliers"): "the class writes what its absence means",
    ("falcon_h1", "time_step_limit"): "the class writes what its absence means",
    ("falcon_mamba", "intermediate_size"): "0 is expand times the width, which the class writes",
    ("falcon_mamba", "max_position_embeddings"): "no file says it: there is no limit",
    ("granitemoehybrid", "mamba_d_ssm"): "of GGUF files",
    ("granitemoehybrid", "time_step_limit"): "the class writes what its absence means",
    ("mamba", "intermediate_size"): "0 is expand times the width, which the class writes",
    ("mamba", "max_position_embeddings"): "no file says it: there is no limit",
    ("mamba2", "intermediate_size"): "0 is expand times the width; the class has no such key",
    ("mamba2", "max_position_embeddings"): "no file says it: there is no limit",
    ("mamba2", "time_step_limit"): "the class writes what its absence means",
    ("hunyuan_v1_dense", "attention_head_dim"): "of the model's own code",
    ("hunyuan_v1_dense", "mlp_bias"): "of the model's own code",
    ("hunyuan_v1_dense", "norm_type"): "of the model's own code",
    ("hunyuan_v1_dense", "use_cla"): "of the model's own code",
    ("hunyuan_v1_dense", "use_qk_norm"): "of the model's own code",
    ("hunyuan_v1_dense", "use_rotary_pos_emb"): "of the model's own code",
    ("nemotron_h", "hidden_act"): "no file says it: the family has mlp_hidden_act",
    ("nemotron_h", "hybrid_override_pattern"): "of published files; the class writes a list",
    ("nemotron_h", "layer_types"): "of GGUF files",
    ("nemotron_h", "mamba_inner_size"): "of GGUF files",
    ("nemotron_h", "num_hidden_layers"): "layers_block_type says it",
    ("nemotron_h", "time_step_limit"): "the class writes what its absence means",
    ("jamba", "layer_types"): "of GGUF files",
    ("jamba", "mamba_d_inner"): "of GGUF files",
    ("lfm2", "hidden_act"): "no file says it",
    ("lfm2_moe", "hidden_act"): "no file says it",
    ("lfm2_moe", "scoring_func"): "of GGUF files",
    ("mpt", "attn_config"): "the class writes what its absence means",
    ("mpt", "intermediate_size"): "0 is expansion_ratio times the width",
    ("olmo", "layer_norm_eps"): "of GGUF files; the class of the norm has it",
    ("olmo3", "rope_parameters"): "the class writes what its absence means",
    ("phi3", "rope_magnitude"): "of GGUF files",
    (
        "phimoe",
        "original_max_position_embeddings",
    ): "published files have it outside of the scaling",
    ("phimoe", "rope_magnitude"): "of GGUF files",
    ("qwen2_moe", "mlp_only_layers"): "the class writes [] for null",
    ("qwen3_moe", "mlp_only_layers"): "the class writes [] for null",
    ("qwen3_next", "full_attention_interval"): "the class writes layer_types in its stead",
    ("qwen3_next", "num_nextn_predict_layers"): "of GGUF files",
    ("qwen3_next", "linear_inner_size"): "of GGUF files",
    ("qwen3_next", "mlp_only_layers"): "the class writes [] for null",
    ("recurrent_gemma", "block_types"): "the class writes what its absence means",
    ("recurrent_gemma", "hidden_act"): "no file says it: the family's key is hidden_activation",
    ("recurrent_gemma", "lru_width"): "the class writes what its absence means",
    ("recurrent_gemma", "max_position_embeddings"): "no file says it: there is no limit",
    **{
        (kind, field): why
        for kind in ("rwkv5", "rwkv6")
        for field, why in {
            "final_norm_epsilon": "of GGUF files",
            "halved_every": "of GGUF files",
            "hidden_act": "no file says it",
            "max_position_embeddings": "no file says it: there is no limit",
        }.items()
    },
    ("rwkv6", "time_decay_extra_dim"): "of GGUF files",
    ("rwkv6", "time_mix_extra_dim"): "of GGUF files",
    ("rwkv7", "head_norm_eps"): "of GGUF files",
    ("rwkv7", "max_position_embeddings"): "the class has a limit that its model does not use",
    ("smollm3", "max_window_layers"): "published files have it; nothing reads it",
    ("starcoder2", "activation_function"): "of the model's own code",
    ("starcoder2", "mlp_type"): "of the model's own code",
    ("starcoder2", "norm_type"): "of the model's own code",
    ("gemma3_text", "rope_local_base_freq"): "the class writes rope_parameters in its stead",
    ("gemma3_text", "rope_parameters"): "the class writes what its absence means",
    ("gemma3_text", "rope_theta"): "the class writes rope_parameters in its stead",
}


def named(model_type: str, config: dict[str, Any]) -> dict[str, Any]:
    """A config.json as it is read: in the names of today, in canonical form."""
    dialect = DIALECTS.get(model_type)
    renamed = renamed_config(dialect, config, "here") if dialect else dict(config)
    return canonical(renamed, "here")


def their_names(model_type: str) -> dict[str, str]:
    """Our names of keys -> transformers', where they differ."""
    kind, dialect = CONFIG_MAPPING[model_type], DIALECTS.get(model_type)
    known = {f.name for f in dataclasses.fields(kind)}
    both = [(ours, old) for old, ours in (dialect.keys if dialect else {}).items()]
    both += [(new, old) for old, new in kind.attribute_map.items()]
    return {ours: old for ours, old in both if old in known and ours not in known}


def theirs(model_type: str, **keys: Any) -> PretrainedConfig:
    """transformers' config of these keys, which have our names."""
    rwkv.register()
    based.register()
    names = their_names(model_type)
    return CONFIG_MAPPING[model_type](**{names.get(k, k): v for k, v in keys.items()})


def written(model_type: str, keys: dict[str, Any]) -> dict[str, Any] | None:
    """All keys that transformers makes of these; None where it refuses them."""
    try:
        return named(model_type, theirs(model_type, **keys).to_dict())
    except StrictDataclassFieldValidationError:
        return None


def read(model_type: str, config: dict[str, Any]) -> StackConfig:
    found, _ = read_config(ARCHITECTURES[model_type].config, config, where="here")
    assert isinstance(found, StackConfig)
    return found


def meaning(c: StackConfig) -> dict[str, Any]:
    """Every field but those that a property resolves, and every property."""
    fields = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in RESOLVED}
    properties = {
        name: getattr(c, name)
        for name, _ in inspect.getmembers(type(c), lambda m: isinstance(m, property))
        if name not in ("lengths", "pattern", "window")
    }
    properties = {k: list(v) if isinstance(v, range) else v for k, v in properties.items()}
    seen = {kind: c.lengths.get(kind) for kind in c.kinds}
    turns = [bool(x) for x in c.rotates]
    return fields | properties | {"kinds": list(c.kinds), "rotates": turns, "lengths": seen}


def sizes(model_type: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The sizes that a config must say, those of transformers' class where `changes` has none."""
    whole = named(model_type, theirs(model_type).to_dict()) | changes
    has = {f.name for f in dataclasses.fields(ARCHITECTURES[model_type].config)}
    return {key: whole[key] for key in {*required(model_type), *changes} & has}


def required(model_type: str) -> list[str]:
    """The fields without a default."""
    fields = dataclasses.fields(ARCHITECTURES[model_type].config)
    return [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]


def differing(model_type: str, mine: StackConfig, full: StackConfig) -> dict[str, Any]:
    a, b = meaning(mine), meaning(full)
    known = {field for kind, field in EXCEPTIONS if kind == model_type}
    return {k: (a[k], b[k]) for k in a if a[k] != b[k] and k not in known}


@pytest.mark.parametrize("changes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_an_absent_key_means(model_type: str, changes: dict[str, Any]) -> None:
    said = sizes(model_type, changes)
    full = written(model_type, said)
    assert full is not None
    differ = differing(model_type, read(model_type, said), read(model_type, full))
    assert not differ, f"{model_type}: (ours, transformers') of absent keys: {differ}"


# Where null is taken though transformers refuses it or fails: what a GGUF file without it means.
LENIENT: dict[tuple[str, str], str] = {
    ("bamba", "mamba_d_head"): "what mamba_n_heads leave of the columns",
    ("deepseek_v2", "n_routed_experts"): "no layer is a mixture",
    ("deepseek_v2", "n_shared_experts"): "nothing is shared",
    ("deepseek_v2", "qk_nope_head_dim"): "what qk_head_dim leaves",
    ("deepseek_v3", "n_routed_experts"): "no layer is a mixture",
    ("deepseek_v3", "n_shared_experts"): "nothing is shared",
    ("deepseek_v3", "qk_nope_head_dim"): "what qk_head_dim leaves",
    ("glm4_moe", "n_routed_experts"): "no layer is a mixture",
    ("glm4_moe", "n_shared_experts"): "nothing is shared",
    ("glm4_moe", "n_group"): "one group",
    ("glm4_moe", "topk_group"): "one group",
    ("glm4_moe", "norm_topk_prob"): "weights are as they are",
    ("exaone4", "sliding_window"): "every layer sees all keys, and has positions",
    ("exaone4", "sliding_window_pattern"): "refused unless layer_types or no window make it idle",
    ("falcon_h1", "mamba_d_head"): "what mamba_n_heads leave of the columns",
    ("falcon_mamba", "mixer_rms_eps"): "that of the other norms",
    ("gemma2", "query_pre_attn_scalar"): "a head's width",
    ("gemma3_text", "query_pre_attn_scalar"): "a head's width",
    ("gemma3_text", "sliding_window"): "every layer sees all keys",
    ("granite", "attention_multiplier"): "one over the root of a head's width",
    ("granitemoe", "attention_multiplier"): "one over the root of a head's width",
    ("granitemoehybrid", "attention_multiplier"): "one over the root of a head's width",
    ("granitemoehybrid", "mamba_d_head"): "what mamba_n_heads leave of the columns",
    ("granitemoeshared", "attention_multiplier"): "one over the root of a head's width",
    ("mamba2", "head_dim"): "what num_heads leave of the columns",
    ("jamba", "expert_layer_period"): "tensors show which layers are mixtures",
    ("nemotron_h", "mamba_head_dim"): "what the heads leave of the columns, which a file then says",
    ("llama4_text", "use_qk_norm"): "as the published size with so many experts",
    ("seed_oss", "head_dim"): "the width that sizes give, which is odd for those of the class",
    ("phi3", "original_max_position_embeddings"): "max_position_embeddings",
}
# Where null is refused though transformers' config takes it: its model then fails.
_HEADED = ("bamba", "falcon_h1", "granitemoehybrid")
_FACTORS = (*("embedding", "lm_head", "key", "attention_in", "attention_out", "ssm_in", "ssm_out"),)
_MAMBA = ("n_heads", "n_groups", "d_state", "d_conv", "expand", "conv_bias", "proj_bias")
STRICT = {
    *((kind, f"mamba_{what}") for kind in _HEADED for what in _MAMBA),
    *(("falcon_h1", f"{what}_multiplier") for what in _FACTORS),
    *(("falcon_h1", what) for what in ("mamba_rms_norm", "mamba_norm_before_gate")),
    ("falcon_h1", "projectors_bias"),
    ("gemma3_text", "sliding_window_pattern"),
    ("cohere", "layer_norm_eps"),
    ("cohere", "logit_scale"),
    ("deepseek_v3", "v_head_dim"),
    ("dots1", "max_window_layers"),
    ("falcon", "layer_norm_epsilon"),
    *(
        (kind, f"{what}")
        for kind in ("granitemoe", "granitemoehybrid", "granitemoeshared")
        for what in (
            "embedding_multiplier",
            "residual_multiplier",
            "logits_scaling",
            "num_local_experts",
            "num_experts_per_tok",
        )
    ),
}


def nulls() -> Iterator[tuple[str, str]]:
    rotary = ("rope_scaling", "rope_theta", "partial_rotary_factor")  # tests/checkpoint has them
    for model_type, row in ARCHITECTURES.items():
        for field in dataclasses.fields(row.config):
            key = (model_type, field.name)
            if field.name not in rotary and key not in EXCEPTIONS:
                yield key


@pytest.mark.parametrize(("model_type", "field"), nulls())
def test_what_null_means(model_type: str, field: str) -> None:
    """Refused where transformers refuses it, and else what transformers makes of it."""
    key, said = (model_type, field), sizes(model_type, {})
    name = their_names(model_type).get(field, field)
    others = {k: v for k, v in said.items() if k != field}
    mine = named(model_type, {**others, name: None})
    fields = {f.name for f in dataclasses.fields(CONFIG_MAPPING[model_type])}
    if key in LENIENT:
        read(model_type, mine)
    elif name not in fields and key not in STRICT:
        assert field in ("head_dim", "num_key_value_heads"), (
            f"transformers' class has no {name!r}: name {key} in EXCEPTIONS, with its origin"
        )
        assert differing(model_type, read(model_type, mine), read(model_type, said)) == {}
    elif key in STRICT or (full := written(model_type, {**said, field: None})) is None:
        if name == field or field in required(
            model_type
        ):  # an old key of null is dropped: see `renamed`
            with pytest.raises(CheckpointError, match=f"{field} is (null|missing)"):
                read(model_type, mine)
    else:
        differ = differing(model_type, read(model_type, mine), read(model_type, full))
        assert not differ, f"{model_type}: (ours, transformers') of null: {differ}"


def test_the_exceptions_are_needed() -> None:
    """Each names a field that is there, and that transformers' class does not have as it is."""
    for model_type, field in EXCEPTIONS:
        config = ARCHITECTURES[model_type].config
        assert field in {f.name for f in dataclasses.fields(config)}
        said = sizes(model_type, {})
        full = written(model_type, said)
        assert full is not None
        a, b = getattr(read(model_type, said), field), getattr(read(model_type, full), field)
        assert field not in full or a != b, (model_type, field)
    assert not {field for _, field in EXCEPTIONS} & INERT
