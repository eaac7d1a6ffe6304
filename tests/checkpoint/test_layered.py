"""What GGUF files say layer by layer, in the keys that transformers' configs have for it."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from rbee_worker.checkpoint.layered import FULL, by_layers
from rbee_worker.errors import UnsupportedModel

TYPES = ["sliding_attention", "full_attention"] * 2


def _config(**more: Any) -> dict[str, Any]:
    """As read from the keys of a file with four layers."""
    return {
        "num_hidden_layers": 4,
        "layer_types": list(TYPES),
        "head_dim": 16,
        "unwindowed": {"head_dim": 32, "v_head_dim": 32, "rotary_dim": 32},
        "intermediate_size": 96,
        "num_key_value_heads": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
        **more,
    }


def test_heads_are_those_of_transformers_own_config() -> None:
    config = _config(num_key_value_heads=[2, 1, 2, 1])
    by_layers(config, "x")
    assert config["num_key_value_heads"] == 2
    theirs = transformers.Gemma4TextConfig(
        **{k: v for k, v in _config().items() if k != "unwindowed"},
        global_head_dim=32,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
    )
    ours = transformers.Gemma4TextConfig(**config)
    for layer in range(4):
        for key in ("head_dim", "num_key_value_heads"):
            want = getattr(theirs.per_layer_config[layer], key)
            assert getattr(ours.per_layer_config[layer], key) == want


def test_one_value_for_all_layers() -> None:
    config = _config(unwindowed={"head_dim": 32, "v_head_dim": 8})
    by_layers(config, "x")
    values = {"head_dim": 32, "v_head_dim": 8}  # which a family refuses
    assert config["per_layer_config"] == {"1": values, "3": values}
    plain = {"num_hidden_layers": 2**31 - 1, "num_key_value_heads": 2}
    by_layers(plain, "x")
    assert plain == {"num_hidden_layers": 2**31 - 1, "num_key_value_heads": 2}


def test_blocks_twice_as_wide_where_keys_are_shared() -> None:
    config = _config(intermediate_size=[96, 96, 96, 192], num_kv_shared_layers=1)
    by_layers(config, "x")
    assert config["intermediate_size"] == 96
    assert config["use_double_wide_mlp"] is True


@pytest.mark.parametrize(
    ("heads", "count", "kinds"),
    [
        ([0, 2, 0, 2], 2, ["conv", "full_attention"] * 2),
        (2, 2, ["full_attention"] * 4),
        (0, 4, ["conv"] * 4),  # as many as of queries, where nothing reads it
    ],
)
def test_layers_without_key_heads(heads: Any, count: int, kinds: list[str]) -> None:
    config = {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "key_heads": {"conv": heads},
    }
    by_layers(config, "x")
    assert config == {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": count,
        "layer_types": kinds,
    }


def test_layers_behind_the_last_are_not_counted() -> None:
    """Qwen3-Next's one that predicts a further token."""
    types = ["linear_attention", FULL, "linear_attention", FULL]
    config = {"num_hidden_layers": 4, "layer_types": types, "num_nextn_predict_layers": 1}
    by_layers(config, "x")
    assert config == {
        "num_hidden_layers": 3,
        "layer_types": types[:3],
        "num_nextn_predict_layers": 1,
    }


def test_layers_that_are_feed_forward_blocks() -> None:
    config = {
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "key_heads": {"linear_attention": [0, 2, 0, 0]},
        "inner_widths": {"moe": [0, 0, 32, 0]},
    }
    by_layers(config, "x")
    assert config["layer_types"] == ["linear_attention", FULL, "moe", "linear_attention"]
    assert config["intermediate_size"] == 32


def test_a_layer_that_predicts_further_tokens_is_refused() -> None:
    config = {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "key_heads": {"linear_attention": [0, 0, 2]},
        "inner_widths": {"moe": [0, 32, 32]},
    }
    with pytest.raises(UnsupportedModel, match="layer 2 has attention and a feed-forward block"):
        by_layers(config, "x")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"key_heads": {"conv": [2, 0, 1, 0]}}, "attention.head_count_kv differs from layer to"),
        ({"key_heads": {"conv": [2, 0]}}, "attention.head_count_kv has 2 values for 4 layers"),
        ({"num_key_value_heads": [2, 1]}, "attention.head_count_kv has 2 values for 4 layers"),
        ({"intermediate_size": [96, 192]}, "feed_forward_length has 2 values for 4 layers"),
        ({"intermediate_size": [96, 96, 192, 192]}, "feed_forward_length differs from layer to"),
        (
            {"intermediate_size": [96, 96, 144, 144], "num_kv_shared_layers": 2},
            "feed_forward_length differs from layer to",
        ),
    ],
)
def test_lists_that_have_no_key(more: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedModel, match=says) as caught:
        by_layers(_config(**more), "x")
    assert caught.value.fix
