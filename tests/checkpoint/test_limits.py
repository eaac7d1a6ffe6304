"""No number of a config is believed: floats have ranges, counts are held against the tensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from rbee_worker.checkpoint import limits, open_checkpoint
from rbee_worker.checkpoint.limits import RANGES, check_counts, check_ranges
from rbee_worker.errors import CheckpointError, ModelError
from rbee_worker.models import ARCHITECTURES
from tests import tiny
from tests.checkpoint.limits import refusal
from tests.outlines import planned_model

NAN, INF = float("nan"), float("inf")
# Integers of configs of which no list is made and no size: distances, intervals, switches.
NO_COUNTS = {
    *("max_position_embeddings", "original_max_position_embeddings", "initial_context_length"),
    *("sliding_window", "sliding_window_pattern", "attention_chunk_size", "floor_scale"),
    *("max_window_layers", "no_rope_layer_interval", "decoder_sparse_step", "moe_layer_freq"),
    *("first_k_dense_replace", "interleave_moe_layer_step", "attn_temperature_tuning"),
    *("num_ln_in_parallel_attn", "expansion_ratio"),
    *("attention_window_size", "attn_rotary_emb", "full_attention_interval"),
    *("attn_layer_offset", "attn_layer_period", "expert_layer_offset", "expert_layer_period"),
    *("pad_vocab_size_multiple", "mm_tokens_per_image"),
}


def fields(kind: str) -> set[str]:
    """Fields of that type in the configs of all families."""
    return {
        f.name
        for row in ARCHITECTURES.values()
        for f in dataclasses.fields(row.config)
        if kind in str(f.type) and "list" not in str(f.type) and "dict" not in str(f.type)
    }


def test_every_fraction_of_every_family_has_a_range() -> None:
    assert fields("float") - set(RANGES) == set()


def test_every_count_of_every_family_is_held_against_the_tensors() -> None:
    known = {*limits._LAYERS, *limits._LISTED, *limits._WIDTHS}
    assert fields("int") - known - NO_COUNTS == set()


@pytest.mark.parametrize("key", RANGES)
def test_what_cannot_be_is_refused(key: str) -> None:
    allowed = RANGES[key]
    inside = allowed.high if allowed.above else allowed.low
    check_ranges({key: inside, "rope_scaling": {key: inside}}, "x")
    for value in (NAN, INF, -INF, -1, -1e-5, allowed.high * 2, 10**400):
        for config in (
            {key: value},
            {"rope_scaling": {key: value}},
            {"a": {"b": [1, {key: [value]}]}},
        ):
            with pytest.raises(CheckpointError, match=key):
                check_ranges(config, "x")
    if allowed.above:
        with pytest.raises(CheckpointError, match=f"{key} is 0"):
            check_ranges({key: 0}, "x")


def test_a_number_of_an_unknown_key_is_finite_too() -> None:
    check_ranges({"of_tomorrow": -5.0, "n": -(10**400), "flag": True, "deep": [[[[]]]]}, "x")
    with pytest.raises(CheckpointError, match=r"of_tomorrow\.a is nan"):
        check_ranges({"of_tomorrow": {"a": NAN}}, "x")


def test_infinity_is_a_limit_that_is_none() -> None:
    check_ranges({"time_step_limit": [0.0, INF]}, "x")
    for value in (NAN, -INF):
        with pytest.raises(CheckpointError, match="time_step_limit is"):
            check_ranges({"time_step_limit": [0.0, value]}, "x")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "0", "0.0", "-1e-5"])
def test_a_file_says_it_in_json(text: str, tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "m")
    sound = (folder / "config.json").read_text()
    for key in ("rms_norm_eps", "rope_theta"):
        config = json.loads(sound)
        (folder / "config.json").write_text(
            json.dumps({k: v for k, v in config.items() if k != key})[:-1] + f', "{key}": {text}}}'
        )
        error = refusal(lambda: open_checkpoint(str(folder)))
        assert key in error.message


@pytest.mark.parametrize("value", [NAN, INF, 0.0, -1.0])
@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("llama.attention.layer_norm_rms_epsilon", "rms"),
        ("llama.rope.freq_base", "rope"),
        ("llama.rope.scaling.factor", "factor"),
    ],
)
def test_a_file_of_the_other_kind_says_it(
    key: str, named: str, value: float, tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    floats = {"llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 1e4}
    counts = ("context_length", "embedding_length", "block_count", "feed_forward_length")
    for name in (*counts, "attention.head_count"):
        writer.add_uint32(f"llama.{name}", 8)
    writer.add_string("llama.rope.scaling.type", "linear")
    for name, number in {**floats, key: value}.items():
        writer.add_float32(name, number)
    tiny._written(writer, tmp_path / "m.gguf")
    assert named in refusal(lambda: open_checkpoint(str(tmp_path / "m.gguf"))).message


COUNTS = (*limits._LAYERS, *limits._LISTED, *limits._WIDTHS)


@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize("value", [2**31, 2**31 - 1, 10**30])
def test_counts_of_billions_are_refused_at_once(key: str, value: int, tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "m", **{key: value})
    said = refusal(lambda: planned_model(open_checkpoint(str(folder)), "f32")).message
    assert key in said or (key == "rotary_dim" and "partial_rotary_factor" in said)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_family_makes_anything_of_a_count_of_billions(arch: str, tmp_path: Path) -> None:
    """Every integer of its config at once, then each alone."""
    names = [
        f.name
        for f in dataclasses.fields(ARCHITECTURES[arch].config)
        if "int" in str(f.type) and "list" not in str(f.type)
    ]
    folder = tiny.write_safetensors(tmp_path / "m", model_type=arch)
    ckpt = open_checkpoint(str(folder))
    for changes in (dict.fromkeys(names, 2**31 - 1), *({n: 2**31 - 1} for n in names)):
        changed: dict[str, Any] = {**ckpt.config, **changes}
        try:
            refusal(lambda c=changed: planned_model(dataclasses.replace(ckpt, config=c), "f32"))
        except BaseException as e:  # accepted, or refused as something else
            if not isinstance(e.__cause__ or e, ModelError) and "DID NOT RAISE" not in str(e):
                raise


def test_counts_that_the_tensors_bear_out(tmp_path: Path) -> None:
    ckpt = open_checkpoint(str(tiny.write_safetensors(tmp_path / "m")))
    check_counts(ckpt.config, ckpt.source, "x")
    check_counts({"num_hidden_layers": "x", "hidden_size": True}, ckpt.source, "x")
