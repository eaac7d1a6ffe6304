"""Two spellings in one config: read as transformers reads them, or refused with both values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from rbee_worker.checkpoint.hf_config import read_config
from rbee_worker.checkpoint.names import DIALECTS
from rbee_worker.errors import CheckpointError
from rbee_worker.models import ARCHITECTURES, SEEING
from rbee_worker.models.config import read_config as model_config

LINEAR = {"rope_type": "linear", "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
SIZES = {"hidden_size": 64, "num_attention_heads": 4}


def read(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(config))
    return read_config(folder / "config.json")[1]


DIFFERENT: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "scaling beside parameters": (
        "llama",
        {"rope_scaling": LINEAR, "rope_parameters": {**DYNAMIC, "rope_theta": 1e6}},
        ("linear", "dynamic"),
    ),
    "scaling beside none": (
        "llama",
        {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        ("linear", "default"),
    ),
    "another factor": (
        "llama",
        {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "factor": 8.0}},
        ("4.0", "8.0"),
    ),
    "a base that transformers loses": (
        "llama",
        {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "rope_theta": 1e6}},
        ("None", "1000000.0"),
    ),
    "another base": (
        "llama",
        {
            "rope_scaling": {**LINEAR, "rope_theta": 5.0},
            "rope_parameters": {**LINEAR, "rope_theta": 7.0},
        },
        ("5.0", "7.0"),
    ),
    "scaling beside layer types": (
        "gemma3_text",
        {
            "rope_scaling": LINEAR,
            "rope_parameters": {
                "full_attention": {"rope_type": "default"},
                "sliding_attention": {"rope_type": "default"},
            },
        },
        ("linear", "default"),
    ),
    "the length before stretching": (
        "phi3",
        {
            "original_max_position_embeddings": 8,
            "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 16},
        },
        ("8", "16"),
    ),
    "patterns": (
        "gemma3_text",
        {"sliding_window_pattern": 2, "_sliding_window_pattern": 3},
        ("2", "3"),
    ),
    "experts": ("mixtral", {"num_experts": 3, "num_local_experts": 5}, ("3", "5")),
    "experts of Qwen": ("qwen3_moe", {"num_experts": 3, "num_local_experts": 5}, ("3", "5")),
    "experts of DeepSeek": ("deepseek_v3", {"n_routed_experts": 3, "num_experts": 5}, ("3", "5")),
    "widths of StarCoder": ("gpt_bigcode", {"n_embd": 8, "hidden_size": 16}, ("8", "16")),
    "heads of Falcon": ("falcon", {"n_head": 3, "num_attention_heads": 4}, ("3", "4")),
    "widths of MPT": ("mpt", {"d_model": 8, "hidden_size": 16}, ("8", "16")),
    "rotary columns": (
        "llama",
        {**SIZES, "rotary_dim": 16, "partial_rotary_factor": 0.25},
        ("16", "0.25"),
    ),
    "ties": (
        "gemma3",
        {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}},
        ("True", "False"),
    ),
    "inside": (
        "gemma3",
        {"text_config": {"rope_scaling": LINEAR, "rope_parameters": DYNAMIC}},
        ("linear", "dynamic"),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_values_are_refused_with_both(name: str, tmp_path: Path) -> None:
    model_type, config, says = DIFFERENT[name]
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, {"model_type": model_type, **config})
    assert [word for word in says if word not in caught.value.message] == []
    assert "config.json" in caught.value.message
    assert caught.value.fix


OLD_KEYS_THAT_WIN = (
    *("padded_vocab_size", "seq_length", "ffn_hidden_size"),
    *("block_ff_dim", "tie_embedding"),
)


@pytest.mark.parametrize("model_type", DIALECTS)
def test_every_renamed_key_is_held_against_its_new_name(model_type: str, tmp_path: Path) -> None:
    dialect = DIALECTS[model_type]
    sound = {"model_type": model_type, **dialect.only}
    for old, new in dialect.keys.items():
        both = {**sound, old: 3, new: 3}
        assert read(tmp_path, both)[new] == 3
        if old in OLD_KEYS_THAT_WIN:
            # its own code reads the old one; so does transformers, of LFM2's
            assert read(tmp_path, {**both, new: 2})[new] == 3
            continue
        with pytest.raises(CheckpointError, match=f"{new} is 2, but {old} is 3"):
            read(tmp_path, {**both, new: 2})


SAME: dict[str, dict[str, Any]] = {
    "equal": {"rope_scaling": LINEAR, "rope_parameters": LINEAR},
    "old names": {
        "rope_scaling": {"type": "linear", "factor": 4.0, "rope_theta": 1e6},
        "rope_parameters": {**LINEAR, "rope_theta": 1e6},
    },
    "a base for both": {"rope_scaling": LINEAR, "rope_parameters": LINEAR, "rope_theta": 1e6},
    "null": {"rope_scaling": None, "rope_parameters": {**LINEAR, "rope_theta": 1e6}},
    "empty": {"rope_scaling": LINEAR, "rope_parameters": {}},
    "a base outside": {"rope_theta": 5.0, "rope_parameters": {**LINEAR, "rope_theta": 7.0}},
    "a base in the old one": {"rope_theta": 5.0, "rope_scaling": {**LINEAR, "rope_theta": 7.0}},
    "old names in the new key": {"rope_parameters": {"type": "linear", "factor": 4.0}},
    "two kinds": {"rope_scaling": {"type": "linear", **DYNAMIC}},
}


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_read_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    config = {"model_type": "llama", "max_position_embeddings": 64, **SAME[name]}
    ours = read(tmp_path, config)
    hf = transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert ours.get("rope_theta", 10000.0) == hf["rope_theta"]
    assert ours["rope_scaling"]["rope_type"] == hf["rope_type"]
    assert ours["rope_scaling"]["factor"] == hf["factor"]


def test_the_text_model_has_a_config_of_its_own(tmp_path: Path) -> None:
    """As transformers reads it; a key outside that only looks like one is told as unread."""
    config = {
        "model_type": "gemma3",
        "eos_token_id": [1, 106],
        "hidden_size": 8,
        "rope_theta": 5.0,
        "vocab_size": 64,
        "text_config": {"hidden_size": 16, "vocab_size": 64, "eos_token_id": 1},
    }
    ours = read(tmp_path, config)
    hf = transformers.AutoConfig.from_pretrained(tmp_path)
    assert ours["hidden_size"] == hf.text_config.hidden_size == 16
    assert ours["eos_token_id"] == hf.eos_token_id == [1, 106]
    assert ours.get("rope_theta") is None
    assert hf.text_config.rope_parameters["full_attention"]["rope_theta"] != 5.0
    assert ours["rope_theta (outside the text model's config)"] == 5.0
    assert ours["hidden_size (outside the text model's config)"] == 8
    assert "vocab_size (outside the text model's config)" not in ours


@pytest.mark.parametrize(
    ("model_type", "text"),
    [
        ("gemma3", {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}),
        ("smolvlm", {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24}),
        ("idefics3", {"vocab_size": 128259, "intermediate_size": 14336}),
        ("llama4", {"num_hidden_layers": 3}),
        ("gemma4", {}),
    ],
)
def test_what_a_text_config_leaves_out(
    model_type: str, text: dict[str, Any], tmp_path: Path
) -> None:
    """transformers writes into it what differs from its class, as in the files of Gemma 3 4B and
    SmolVLM2; what is left out is what the class says."""
    ours = read(tmp_path, {"model_type": model_type, "text_config": text})
    kind = ARCHITECTURES.get(str(ours["model_type"])) or SEEING[str(ours["model_type"])]
    config, _ = model_config(kind.config, ours, where="here")
    hf = transformers.AutoConfig.from_pretrained(tmp_path).text_config
    for name in (*SIZES, "vocab_size", "intermediate_size", "num_hidden_layers"):
        assert getattr(config, name) == getattr(hf, name), name
    assert config.kv_heads == hf.num_key_value_heads
    if model_type != "gemma4":  # whose heads are of two widths
        assert config.width == hf.head_dim
    assert config.rms_norm_eps == hf.rms_norm_eps
    assert config.max_position_embeddings == hf.max_position_embeddings


def test_old_keys_of_lfm2_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    both = {"model_type": "lfm2", "block_ff_dim": 12288, "intermediate_size": 8192}
    both |= {"tie_embedding": False, "tie_word_embeddings": True}
    hf, ours = transformers.Lfm2Config(**both), read(tmp_path, both)
    assert ours["intermediate_size"] == hf.intermediate_size == 12288
    assert ours["tie_word_embeddings"] is hf.tie_word_embeddings is False
