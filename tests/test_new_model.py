"""`make new-model` starts families that transformers has and we have not."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from rbee_worker.models.config import read_config
from tests.archs import ARCHS
from tests.archs.new import family_file, gguf_name, started, tensors_of, tiny_file

Module = Callable[[str], Any]
SIZES = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize("model_type", ["arcee", "apertus", "hunyuan_v1_dense", "glm4_moe"])
def test_a_started_family_has_the_defaults_of_transformers(model_type: str, module: Module) -> None:
    kind = CONFIG_MAPPING[model_type]
    config = module(family_file(model_type, kind)).Config
    found, unread = read_config(config, SIZES, where="")
    assert unread == []
    theirs = kind(**SIZES)
    for f in dataclasses.fields(found):
        mine = getattr(found, f.name)
        if mine is not None and hasattr(theirs, f.name):
            assert mine == getattr(theirs, f.name), f.name
    rotary = theirs.rope_parameters
    assert found.rope_theta == rotary["rope_theta"]
    assert found.partial_rotary_factor == rotary.get("partial_rotary_factor", 1.0)


@pytest.mark.parametrize("model_type", ["arcee", "hunyuan_v1_dense"])
def test_its_tiny_configs_make_models(model_type: str, module: Module) -> None:
    kind = CONFIG_MAPPING[model_type]
    archs = module(tiny_file(model_type, kind, MODEL_FOR_CAUSAL_LM_MAPPING[kind].__name__)).ARCHS
    widths = []
    for arch in archs:
        with torch.device("meta"):
            config = arch.model(arch.config()).config
        assert config.model_type == model_type
        widths.append(config.head_dim)
    assert widths == [32, 16]


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("arcee", "ARCEE"),
        ("qwen3_moe", "QWEN3MOE"),
        ("hunyuan_v1_dense", "HUNYUAN_DENSE"),
        ("deepseek_v3", None),  # DEEPSEEK is the first; the third is called DEEPSEEK2
        ("helium", None),
    ],
)
def test_what_gguf_calls_it(model_type: str, name: str | None) -> None:
    assert gguf_name(model_type) == name


def test_its_tensors_are_held_against_those_of_llama() -> None:
    found = tensors_of(next(a for a in ARCHS if a.id == "hunyuan-dense"))
    at = "model.layers.{}.self_attn"
    assert (" ", f"{at}.q_proj.weight", "blk.{}.attn_q.weight") in found
    assert [f for f in found if f[0] == "+"] == [
        ("+", f"{at}.query_layernorm.weight", "blk.{}.attn_q_norm.weight"),
        ("+", f"{at}.key_layernorm.weight", "blk.{}.attn_k_norm.weight"),
    ]
    plain = tensors_of(next(a for a in ARCHS if a.id == "arcee"))
    assert [f for f in plain if f[0] != " "] == [("-", "model.layers.{}.mlp.gate_proj.weight", "")]


@pytest.mark.parametrize(("name", "says"), [("llama", "is there"), ("no-such", "no model_type")])
def test_what_cannot_be_started(name: str, says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        started(name)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    """A module of this text."""

    def made(text: str) -> Any:
        found = types.ModuleType("written")
        monkeypatch.setitem(sys.modules, "written", found)  # where dataclasses look
        exec(compile(text, "written.py", "exec"), found.__dict__)
        return found

    return made
