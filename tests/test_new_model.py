"""`make new-model` starts families that transformers has and we have not."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from rbee_worker.models.config import read_config
from tests.archs.new import family_file, started, tiny_file

Module = Callable[[str], Any]
SIZES = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize("model_type", ["arcee", "apertus", "seed_oss", "glm4_moe"])
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


def test_its_tiny_configs_are_of_its_type(module: Module) -> None:
    archs = module(tiny_file("arcee", "ArceeConfig", "ArceeForCausalLM")).ARCHS
    assert [a.config().model_type for a in archs] == ["arcee", "arcee"]


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
