"""config.json in canonical form; transformers says what old and new files mean."""

import copy
import json
import warnings

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.hf_config import canonical, read_config
from rbee_worker.checkpoint.reading import read_json
from rbee_worker.errors import CheckpointError, UnsupportedModel
from tests.checkpoint.limits import refusal

SHAPE = {"max_position_embeddings": 65536, "model_type": "llama"}
SCALINGS = {
    "none": None,
    "default": {"rope_type": "default"},
    "linear": {"type": "linear", "factor": 2.0},
    "dynamic": {"type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
def test_old_and_new_files_become_one_form(name, tmp_path):
    old = {**SHAPE, "rope_theta": 500000.0, "rope_scaling": SCALINGS[name]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = transformers.LlamaConfig(**copy.deepcopy(old))
    oracle.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in written
    _, new, _ = read_config(tmp_path / "config.json")
    from_old = canonical(old, "x")
    for found in (new, from_old):
        assert "rope_parameters" not in found
        assert found["rope_theta"] == 500000.0
        ours = found.get("rope_scaling") or {"rope_type": "default"}
        meant = {k: v for k, v in oracle.rope_parameters.items() if k not in ("rope_theta", "type")}
        assert ours == meant
    if name in ("none", "default"):  # transformers 5 writes it out
        assert new["rope_scaling"] is None
    assert ("rope_scaling" in from_old) == (name != "none")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {}),
        ({"rope_theta": 10000}, {"rope_theta": 10000.0}),
        # Nothing, null and {} say nothing of scaling; a kind of "default" says that there is none.
        ({"rope_scaling": {}}, {}),
        ({"rope_scaling": None}, {}),
        ({"rope_parameters": None}, {"rope_parameters": None}),
        ({"rope_scaling": {"type": "none"}}, {"rope_scaling": None}),
        ({"rope_parameters": {"rope_type": "default"}}, {"rope_scaling": None}),
        (
            {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
            {"rope_scaling": None, "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        ),
        # A share of the head's own width, which need not be hidden_size / heads.
        (
            {"rotary_dim": 8, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 32},
            {
                "hidden_size": 64,
                "num_attention_heads": 4,
                "head_dim": 32,
                "partial_rotary_factor": 0.25,
            },
        ),
        (
            {"rotary_dim": 8, "hidden_size": 64, "num_attention_heads": 4, "head_dim": None},
            {
                "hidden_size": 64,
                "num_attention_heads": 4,
                "head_dim": None,
                "partial_rotary_factor": 0.5,
            },
        ),
        (
            {"rope_scaling": {"type": "su", "long_factor": [1.0]}},
            {"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}},
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        ),
        ({"anything": [1, {"a": None}]}, {"anything": [1, {"a": None}]}),
    ],
)
def test_canonical(given, found):
    before = json.dumps(given)
    assert canonical(given, "x") == found
    assert json.dumps(given) == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rope_scaling": 4}, "rope_scaling is '4'"),
        ({"rope_scaling": {"factor": 2.0}}, "no rope_type"),
        ({"rope_scaling": {"type": None, "factor": 2.0}}, "no rope_type"),
        ({"rope_theta": "big"}, "rope_theta is not a number"),
        ({"rope_theta": [1]}, "rope_theta is not a number"),
    ],
)
def test_rotary_keys_that_make_no_sense(given, says):
    assert says in refusal(lambda: canonical(given, "x")).message


def test_model_type(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "Yi"}')
    assert read_config(path)[0] == "llama"
    path.write_text('{"model_type": "falcon"}')
    assert read_config(path)[0] == "falcon"
    path.write_text('{"architectures": ["XForCausalLM"]}')
    with pytest.raises(
        UnsupportedModel, match=r"no model_type \(architectures: \['XForCausalLM'\]"
    ):
        read_config(path)


def test_old_keys_become_those_of_today(tmp_path):
    path = tmp_path / "config.json"
    old = {"model_type": "chatglm", "num_layers": 2, "rope_ratio": 500, "rmsnorm": True, "x": 1}
    path.write_text(json.dumps(old | {"vocab_size": 7, "padded_vocab_size": 8}))
    arch, config, dialect = read_config(path)
    assert arch == "glm"
    assert dialect is not None
    assert config == {
        "model_type": "glm",
        "hidden_act": "silu",
        "num_hidden_layers": 2,
        "rope_theta": 5e6,
        "vocab_size": 8,
        "x": 1,
    }
    path.write_text(json.dumps({**old, "rmsnorm": False}))
    with pytest.raises(UnsupportedModel, match="rmsnorm is False"):
        read_config(path)


def test_two_tensors_cannot_get_one_name(model):
    """The old name and today's in one checkpoint."""
    old = {"model_type": "chatglm", "num_layers": 1, "x": 1}
    (model / "config.json").write_text(json.dumps(old))
    same = {
        n: np.ones(2, np.float32) for n in ("lm_head.weight", "transformer.output_layer.weight")
    }
    save_file(same, model / "model.safetensors")
    message = refusal(lambda: open_checkpoint(str(model))).message
    assert "'lm_head.weight' and 'transformer.output_layer.weight' would both be named" in message


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000, b" " * (5 << 20)],
)
def test_damaged_files_are_refused_cheaply(tmp_path, raw):
    path = tmp_path / "config.json"
    path.write_bytes(raw)
    assert str(path) in refusal(lambda: read_json(path)).message


def test_a_missing_file_is_named(tmp_path):
    assert "config.json" in refusal(lambda: read_json(tmp_path / "config.json")).message


@pytest.fixture
def model(tmp_path):
    """A directory as HF writes it."""
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=[2, 3],
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_directory_opens(model):
    (model / "tokenizer.json").write_text("{}")
    (model / "tokenizer_config.json").write_text('{"bos_token": "<s>", "chat_template": "old"}')
    ckpt = open_checkpoint(str(model))
    assert (ckpt.kind, ckpt.arch, ckpt.gguf, ckpt.notes) == ("safetensors", "llama", None, ())
    assert ckpt.path == model
    assert ckpt.config["hidden_size"] == 8
    assert ckpt.generation["eos_token_id"] == [2, 3]
    assert ckpt.tokenizer_config == {"bos_token": "<s>", "chat_template": "old"}
    assert ckpt.files == {
        "tokenizer.json": model / "tokenizer.json",
        "tokenizer_config.json": model / "tokenizer_config.json",
    }
    assert ckpt.source.info("model.embed_tokens.weight").shape == (32, 8)


def test_a_template_file_wins(model):
    (model / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    (model / "chat_template.jinja").write_text("new é", encoding="utf-8")
    assert open_checkpoint(str(model)).tokenizer_config == {"chat_template": "new é"}
    (model / "chat_template.jinja").write_bytes(b"\xff")
    assert "chat_template.jinja" in refusal(lambda: open_checkpoint(str(model))).message


def test_a_directory_without_config(model):
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(str(model))


def test_a_directory_without_extras(model):
    (model / "generation_config.json").unlink()
    ckpt = open_checkpoint(str(model))
    assert (ckpt.generation, ckpt.tokenizer_config, ckpt.files) == ({}, {}, {})
