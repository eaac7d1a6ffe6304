"""GGUF in HF vocabulary: names as the gguf package maps them, rows as converters move them."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.checkpoint.names import GENERATION_KEYS, GGUF_ARCHITECTURES
from rbee_worker.checkpoint.ops import OPS
from rbee_worker.errors import CheckpointError, ModelError, UnsupportedModel
from rbee_worker.ops.reference.dequant import dequantize
from rbee_worker.params import generation_defaults

HEADS, KV_HEADS, WIDTH, DIM = 4, 2, 8, 32
KEYS: dict[str, Any] = {
    "llama.context_length": 128,
    "llama.embedding_length": DIM,
    "llama.block_count": 2,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def converted(w: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k: half-split rows become adjacent pairs."""
    return (
        w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
    )


def write(
    path: Path,
    keys: dict[str, Any] = KEYS,
    tensors: dict[str, np.ndarray] | None = None,
    **more: Any,
) -> Path:
    """more: metadata keys, `__` for `.`; None removes one."""
    keys = {**keys, **{name.replace("__", "."): value for name, value in more.items()}}
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture", None) or "llama")
    for name, value in keys.items():
        match value:
            case None:
                pass
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value) if value >= 0 else writer.add_int32(name, value)
            case float():
                writer.add_float32(name, value)
            case str():
                writer.add_string(name, value)
            case list():
                writer.add_array(name, value)
    if tensors is None:
        tensors = {"token_embd.weight": np.zeros((48, DIM), np.float32)}
    for name, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.dtype == np.uint8 else None
        writer.add_tensor(name, tensor, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def opened(tmp_path: Path, **more: Any) -> Checkpoint:
    return open_checkpoint(str(write(tmp_path / "x.gguf", **more)))


def test_config(tmp_path):
    ckpt = opened(tmp_path, tokenizer__ggml__eos_token_id=7, tokenizer__ggml__bos_token_id=1)
    assert ckpt.kind == "gguf"
    assert ckpt.arch == "llama"
    assert ckpt.notes == ()
    assert ckpt.generation == {}
    assert ckpt.config == {
        "model_type": "llama",
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": WIDTH,
        "rms_norm_eps": 1e-5,  # as it was written, not as float32 rounds it
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "vocab_size": 48,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "eos_token_id": 7,
        "bos_token_id": 1,
    }


@pytest.mark.parametrize(
    ("more", "config"),
    [
        ({"llama__attention__head_count_kv": None}, {"num_key_value_heads": HEADS}),
        ({"llama__attention__head_count_kv": [2, 2]}, {"num_key_value_heads": 2}),
        ({"llama__attention__key_length": 16}, {"head_dim": 16}),
        ({"llama__attention__value_length": WIDTH}, {"head_dim": WIDTH}),
        ({"llama__attention__value_length": 4}, {"v_head_dim": 4}),
        ({"llama__rope__freq_base": 5e5}, {"rope_theta": 5e5}),
        ({"llama__rope__dimension_count": 4}, {"partial_rotary_factor": 0.5}),
        ({"llama__vocab_size": 40}, {"vocab_size": 48}),
        ({"llama__attention__sliding_window": 64}, {"sliding_window": 64, "model_type": "mistral"}),
        ({"llama__expert_count": 8}, {"model_type": "mixtral"}),
        ({"llama__expert_count": 0}, {"model_type": "llama"}),
        (
            {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        (
            {"llama__rope__scaling__factor": 4.0},
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        (
            {"llama__rope__scale_linear": 2.0},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        ({"llama__rope__scaling__type": "none"}, {"rope_scaling": None}),
        ({"llama__rope__scaling__factor": 1.0}, {"rope_scaling": None}),
    ],
)
def test_config_variants(tmp_path, more, config):
    found = opened(tmp_path, **more).config
    assert {key: found.get(key) for key in config} == config


def test_yarn_factors(tmp_path):
    yarn = {
        "llama__rope__scaling__type": "yarn",
        "llama__rope__scaling__factor": 4.0,
        "llama__rope__scaling__original_context_length": 32,
        "llama__rope__scaling__yarn_beta_fast": 16.0,
        "llama__rope__scaling__yarn_beta_slow": 2.0,
    }
    plain = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    }
    assert opened(tmp_path, **yarn).config["rope_scaling"] == plain
    yarn["llama__rope__scaling__attn_factor"] = 0.5
    scaling = opened(tmp_path, **yarn).config["rope_scaling"]
    assert scaling.pop("attention_factor") == pytest.approx(0.5 * (0.1 * math.log(4) + 1))
    assert scaling == plain


def test_generation_and_tokenizer_keys(tmp_path):
    ckpt = opened(
        tmp_path,
        general__sampling__temp=0.6,
        general__sampling__top_k=20,
        general__sampling__top_p=0.95,
        tokenizer__chat_template="{{ messages }}",
        tokenizer__ggml__add_bos_token=False,
    )
    assert ckpt.generation == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert ckpt.tokenizer_config == {"chat_template": "{{ messages }}", "add_bos_token": False}
    assert ckpt.gguf is not None


def test_every_sampling_default_of_the_format_is_applied_or_told(tmp_path):
    """All that the gguf package can write, and one that it cannot yet."""
    theirs = {v for k, v in vars(gguf.Keys.General).items() if k.startswith("SAMPLING_")}
    assert len(theirs) > 10
    given = {key.replace(".", "__"): 2.5 for key in theirs if not key.endswith("sequence")}
    given |= {"general__sampling__top_k": 7, "general__sampling__of_tomorrow": 1}
    given["general__sampling__sequence"] = "xtc;temp"
    generation = opened(tmp_path, **given).generation
    values, notes = generation_defaults(generation)
    told = {note.split(" ")[0] for note in notes if note.startswith("general.")}
    refused = {note.split(" ")[1] for note in notes if note.startswith("generation_config")}
    names = {key.gguf: key.hf for key in GENERATION_KEYS}
    applied = {key for key in theirs if names.get(key) in {*values, *refused}}
    assert told | applied == theirs | {"general.sampling.of_tomorrow"}
    assert told & applied == set()


def test_keys_and_formats_that_nothing_reads_are_noted(tmp_path):
    ckpt = opened(tmp_path, llama__new__feature=1, llama__rope__scaling__finetuned=True)
    assert ckpt.notes == ("metadata keys that nothing reads: llama.new.feature",)


def test_names_are_those_of_the_gguf_package(tmp_path):
    """Every tensor of the architecture: the gguf package's map from HF names, inverted."""
    stems = ["model.embed_tokens", "model.norm", "lm_head"]
    for layer in (0, 11):
        prefix = f"model.layers.{layer}."
        stems += [f"{prefix}self_attn.{part}_proj" for part in "qkvo"]
        stems += [f"{prefix}mlp.{part}_proj" for part in ("gate", "up", "down")]
        stems += [f"{prefix}input_layernorm", f"{prefix}post_attention_layernorm"]
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 12)
    there = {f"{table.get_name(stem)}.weight": f"{stem}.weight" for stem in stems}
    biased = [stem for stem in stems if "_proj" in stem]
    there |= {f"{table.get_name(stem)}.bias": f"{stem}.bias" for stem in biased}
    there |= {"rope_freqs.weight": "model.rope_freqs", "blk.x.odd": "gguf:blk.x.odd"}
    tensors = {name: np.full(16, i, np.float32) for i, name in enumerate(there)}
    source = opened(tmp_path, tensors=tensors).source
    assert source.names() == [*there.values()]
    for i, name in enumerate(there.values()):
        assert source.info(name).shape == (16,)
        assert dequantize(source.read(name)).tolist() == [i] * 16


def test_what_tensors_say_about_the_config(tmp_path):
    names = ["token_embd.weight", "output.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate.bias"]
    config = opened(tmp_path, tensors={n: np.zeros((48, DIM), np.float32) for n in names}).config
    assert config["attention_bias"] is True
    assert config["mlp_bias"] is True
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_q_and_k_return_to_hf_order(tmp_path, packed):
    rng = np.random.default_rng(0)
    want, tensors = {}, {}
    for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        weight = rng.standard_normal((heads * WIDTH, DIM)).astype(np.float32)
        bias = rng.standard_normal(heads * WIDTH).astype(np.float32)
        if packed:
            raw = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
            weight = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
        else:
            raw = weight
        moved = heads if part != "v" else 0
        tensors[f"blk.0.attn_{part}.weight"] = converted(raw, moved) if moved else raw
        tensors[f"blk.0.attn_{part}.bias"] = converted(bias, moved) if moved else bias
        want[f"model.layers.0.self_attn.{part}_proj.weight"] = weight
        want[f"model.layers.0.self_attn.{part}_proj.bias"] = bias
    source = opened(tmp_path, tensors=tensors).source
    for name, tensor in want.items():
        assert np.array_equal(dequantize(source.read(name)).numpy(), tensor)
    if packed:
        assert source.read("model.layers.0.self_attn.q_proj.weight").format == "Q8_0"


def test_rows_that_are_no_heads(tmp_path):
    source = opened(
        tmp_path, tensors={"blk.0.attn_q.weight": np.zeros((6, DIM), np.float32)}
    ).source
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_q\.weight: 6 rows are not 4 heads"):
        source.read("model.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize(
    ("found", "near"), [("llamma", "nearest: llama"), ("unheard", "'unheard' is not supported")]
)
def test_an_unsupported_architecture_is_named(tmp_path, found, near):
    path = write(tmp_path / "x.gguf", general__architecture=found)
    with pytest.raises(UnsupportedModel) as caught:
        open_checkpoint(str(path))
    assert near in caught.value.message
    named = [name for name in GGUF_ARCHITECTURES if f"{name}," in caught.value.fix]
    named += [name for name in GGUF_ARCHITECTURES if f"{name} and" in caught.value.fix]
    assert len(named) > 3
    assert f"and {len(GGUF_ARCHITECTURES) - len(named)} more" in caught.value.fix
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_that_is_split_in_one_is_whole(tmp_path, count):
    assert opened(tmp_path, split__count=count).config["hidden_size"] == DIM


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"llama__block_count": None}, "llama.block_count is missing"),
        ({"llama__block_count": "two"}, "llama.block_count is 'two'"),
        ({"llama__block_count": -1}, "llama.block_count is '-1'"),
        ({"llama__block_count": True}, "llama.block_count is 'True'"),
        ({"llama__block_count": 2**31}, "llama.block_count is"),
        ({"llama__attention__head_count": 0}, "0 attention heads"),
        ({"llama__rope__freq_base": math.nan}, "llama.rope.freq_base is 'nan'"),
        ({"llama__rope__freq_base": math.inf}, "llama.rope.freq_base is 'inf'"),
        ({"llama__rope__scaling__type": 3}, "llama.rope.scaling.type is"),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path, more, says):
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, **more)
    assert says in caught.value.message
    assert caught.value.fix


def test_values_that_differ_by_layer(tmp_path):
    with pytest.raises(UnsupportedModel, match="differs from layer to layer"):
        opened(tmp_path, llama__attention__head_count_kv=[2, 1])


@pytest.mark.parametrize("bad", [[96, -1], [96.0, 2.5], [[96], [192]]])
def test_lists_of_what_is_no_count(tmp_path, bad):
    keys = {name.replace("llama", "gemma4"): value for name, value in KEYS.items()}
    keys |= {"general.architecture": "gemma4", "gemma4.feed_forward_length": bad}
    with pytest.raises(CheckpointError, match="feed_forward_length is"):
        open_checkpoint(str(write(tmp_path / "x.gguf", keys)))


def test_a_file_that_names_no_architecture(tmp_path):
    path = write(tmp_path / "x.gguf")
    path.write_bytes(path.read_bytes().replace(b"general.architecture", b"general.architectury"))
    with pytest.raises(CheckpointError, match=r"no general\.architecture"):
        open_checkpoint(str(path))


def test_tables_name_operations_that_exist():
    others = [other for arch in GGUF_ARCHITECTURES.values() for _, other in arch.instead]
    for arch in (*GGUF_ARCHITECTURES.values(), *others):
        assert {row.op for row in arch.tensors} <= {None, *OPS}
        assert len({row.gguf for row in arch.tensors}) == len(arch.tensors)
        assert len({row.hf for row in arch.tensors}) == len(arch.tensors)


@pytest.fixture(scope="module")
def damage(tmp_path_factory):
    rng = np.random.default_rng(0)
    tensors = {
        "token_embd.weight": rng.standard_normal((48, DIM)).astype(np.float32),
        "blk.0.attn_q.weight": rng.standard_normal((DIM, DIM)).astype(np.float16),
        "blk.0.attn_k.bias": rng.standard_normal(KV_HEADS * WIDTH).astype(np.float32),
    }
    more = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}
    path = tmp_path_factory.mktemp("fuzz") / "x.gguf"
    raw = write(path, {**KEYS, **more}, tensors).read_bytes()
    return raw, raw.index(b"token_embd"), path


@settings(max_examples=200, deadline=None)
@given(
    flips=st.lists(
        st.tuples(
            st.integers(0, 1500), st.sampled_from([0, 1, 4, 8, 9, 255]) | st.integers(0, 255)
        ),
        min_size=1,
        max_size=3,
    )
)
def test_damage_gives_an_error_or_a_model_that_reads(damage, flips):
    """Values and types of metadata change as well; nothing else than a clear error may come."""
    raw, header, path = bytearray(damage[0]), damage[1] + 200, damage[2]
    for at, value in flips:
        raw[at % header] = value
    path.write_bytes(raw)
    try:
        ckpt = open_checkpoint(str(path))
        for name in ckpt.source.names():
            ckpt.source.read(name)
    except ModelError:
        pass
