"""What `inspect` plans against what the engine then takes."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.inspect import rows
from rbee_worker.cli.report import memory_plan, report
from rbee_worker.cli.terminal import size
from rbee_worker.config import Settings
from rbee_worker.errors import CheckpointError, UsageError
from rbee_worker.loading.preflight import preflight
from rbee_worker.model_info import ModelInfo
from rbee_worker.session.client import EngineClient
from tests import tiny
from tests.archs import ARCHS
from tests.encoders import ROWS, sentence_files, write, write_dense
from tests.llamacpp.files import write_with_tokenizer


def engine_says(settings: Settings) -> ModelInfo:
    async def ask() -> ModelInfo:
        client = await EngineClient.start(settings, in_process=True)
        try:
            return await client.ready()
        finally:
            await client.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_plan_is_what_the_engine_takes(tmp_path: Path, dtype: str) -> None:
    folder = tiny.write_safetensors(tmp_path / "m")
    settings = Settings(
        model=str(folder), dtype=dtype, kv_tokens=512, threads=1, backend="reference"
    )
    planned, taken = report(settings), engine_says(settings)
    memory = planned["memory"]
    assert (memory["weights"], memory["cache"]) == (taken.weight_bytes, taken.kv_bytes)
    assert (memory["cache_tokens"], memory["context"]) == (taken.kv_tokens, taken.context)
    assert (planned["dtype"], planned["kv_dtype"]) == (taken.dtype, taken.kv_dtype)
    assert planned["parameters"] == taken.n_parameters


def test_a_model_too_large_for_this_machine_is_said_to_be(tmp_path: Path) -> None:
    settings = Settings(model=str(tiny.write_gguf(tmp_path / "m.gguf")))
    ahead = preflight(open_checkpoint(settings.model), settings)
    plan, [trouble] = memory_plan(ahead, settings, free_bytes=1000)
    assert plan["cache"] is None
    assert f"{ahead.weight_bytes:,}" in trouble
    assert "1,000" in trouble


def test_a_window_bounds_what_a_sequence_needs(tmp_path: Path) -> None:
    folder = tiny.write_safetensors(tmp_path / "m", model_type="mistral", sliding_window=40)
    memory = report(Settings(model=str(folder)))["memory"]
    assert memory["kv_context"] == memory["kv_per_token"] * 40
    [state] = memory["state"]
    assert (state["kind"], state["window"]) == ("windowed", 40)
    assert state["per_context"] == memory["kv_context"]


def test_recurrent_state_is_said_not_to_grow(tmp_path: Path) -> None:
    """The same bytes at any context, and what the engine then takes."""
    arch = next(a for a in ARCHS if a.id == "mamba")
    folder = str(write_with_tokenizer(arch, tmp_path / "m"))
    each = 3 * (3 * 128 + 16 * 128) * 4  # layers: rows of a convolution, and 16 states
    for ctx in (100, 10_000):
        settings = Settings(model=folder, backend="reference", max_seqs=3, ctx=ctx, threads=1)
        found = report(settings)
        memory = found["memory"]
        assert (memory["kv_per_token"], memory["kv_context"]) == (0, each)
        assert (memory["sequences"], memory["snapshots"]) == (3, 3)
        assert memory["cache"] == (3 + 3 + 1) * each == engine_says(settings).kv_bytes
        said = "\n".join(text for _, text in rows(found))
        assert f"cache {size(each)} a sequence, however long it gets" in said
        assert "recurrent: 3 layers * (3*128 + 8*16*16) * 4 bytes a sequence" in said
        assert f"for 3 sequences and 3 snapshots, sequences up to {ctx:,};" in said


def test_a_hybrid_is_said_to_keep_both(tmp_path: Path) -> None:
    """Keys and values for each token; beside them, what does not grow."""
    arch = next(a for a in ARCHS if a.id == "granite4")
    folder = str(write_with_tokenizer(arch, tmp_path / "m"))
    token = 1 * 2 * 2 * 16 * 4  # layers, heads, keys and values, a head's width, bytes
    fixed = 2 * (3 * (128 + 2 * 2 * 16) + 16 * 128) * 4
    for ctx in (128, 512):
        settings = Settings(model=folder, backend="reference", max_seqs=3, ctx=ctx, threads=1)
        found = report(settings)
        memory = found["memory"]
        assert memory["kv_per_token"] == token
        assert memory["kv_context"] == token * ctx + fixed
        assert memory["cache"] == engine_says(settings).kv_bytes
        said = "\n".join(text for _, text in rows(found))
        assert f"cache {size(token)} a token and {size(fixed)} a sequence, however long" in said
        assert "recurrent: 2 layers * (3*192 + 8*16*16) * 4 bytes a sequence" in said
        assert f"tokens, 3 sequences and 3 snapshots, sequences up to {ctx:,};" in said


def test_every_fact_is_shown(tmp_path: Path) -> None:
    found = report(Settings(model=str(tiny.write_gguf(tmp_path / "m.gguf"))))
    shown = list(rows(found))
    labels = [label for label, _ in shown if label]
    assert labels == [
        "model",
        "file",
        "architecture",
        "made for",
        "parameters",
        "context",
        "compute",
        "in the file",
        "held as",
        "memory",
        "ends at",
        "chat template",
        "tokenizer",
        "kernels",
        *(["warning"] if found["warnings"] else []),
    ]
    assert json.dumps(found)
    said = [text for _, text in shown if text.startswith("  grouped: ")]
    assert said == ["  grouped: 2 layers * 2 heads * 2 * 8*4 bytes a token = 256 B"]
    assert dict(shown)["chat template"] == "yes, with <|im_start|> <|im_end|>"


def test_what_activations_are_rounded_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the options for it change, or that they change nothing."""
    packed = str(tiny.write_packed_gguf(tmp_path / "m.gguf", ["Q4_0"]))
    floats = str(tiny.write_safetensors(tmp_path / "floats"))
    short = shutil.copytree(floats, tmp_path / "short")
    tensors = load_file(short / "model.safetensors")
    save_file({n: t.to(torch.bfloat16) for n, t in tensors.items()}, short / "model.safetensors")
    exact, bf16 = {"exact_activations": True}, {"bf16_activations": True}
    rounded: list[tuple[str, dict[str, bool], str, str]] = [
        (packed, {}, "f32, activations rounded to 8 bits, cache f16", ""),
        (packed, exact, "f32, cache f16", ""),
        (packed, bf16, "f32, activations rounded to 8 bits, cache f16", "--bf16"),
        (floats, {}, "f32, cache f32", ""),
        (floats, exact, "f32, cache f32", "--exact"),
        (floats, bf16, "f32, cache f32", "--bf16"),
        (str(short), bf16, "f32, activations rounded to bf16, cache f32", ""),
    ]
    for model, options, said, idle in rounded:
        found = report(Settings(model=model, backend="cpu", **options))
        assert dict(rows(found))["compute"] == said, (model, options)
        notes = [note for note in found["warnings"] if "changes nothing here" in note]
        assert [note.partition("-activations")[0] for note in notes] == [idle][: bool(idle)]
    monkeypatch.setenv("RBEE_CPU_ISA", "portable")
    assert dict(rows(report(Settings(model=floats, backend="cpu"))))["kernels"].startswith(
        "cpu (portable): "
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_formats_are_held_as(tmp_path: Path, backend: str) -> None:
    """By each format: how many, how large in the file, how large here."""
    path = tiny.write_packed_gguf(tmp_path / "m.gguf", ["IQ2_XS", "TQ1_0"])
    found = report(Settings(model=str(path), backend=backend))
    shown = list(rows(found))
    start = [label for label, _ in shown].index("held as")
    said = [text for _, text in shown[start : start + 3]]
    blocks, held = 261 + 2304, found["held"]  # of 256 values, in each: the vocabulary, the layers
    if backend == "cpu":
        assert held == {"iq2": 2576 * 114, "q2_k": 2576 * 84, "f32": 5 * 1024}  # rows by 16
        names = ("iq2", "q2_k", "f32")
    else:
        assert held == {"f32": 4 * 256 * (2 * blocks + 5)}
        names = ("f32", "f32", "f32")
    assert [text.split(",")[0] for text in said] == [
        f"{names[0]}: 8 of IQ2_XS", f"{names[1]}: 8 of TQ1_0", f"{names[2]}: 5 of F32"
    ]  # fmt: skip
    sizes = {t["file"]: (t["file_bytes"], t["held_bytes"]) for t in found["tensors"]}
    assert sizes["F32"] == (5 * 1024, 5 * 1024)
    assert sizes["IQ2_XS"][0] == blocks * 74
    assert sizes["TQ1_0"][0] == blocks * 54
    assert sum(there for _, there in sizes.values()) == sum(held.values())
    assert found["memory"]["weights"] == sum(held.values())


def test_an_8_bit_cache_is_the_cpu_backends(tmp_path: Path) -> None:
    folder = str(tiny.write_safetensors(tmp_path / "m"))
    with pytest.raises(UsageError) as caught:
        report(Settings(model=folder, kv_dtype="i8", backend="reference"))
    assert "--kv-dtype i8" in str(caught.value)
    assert "--backend cpu" in caught.value.fix
    kept = report(Settings(model=folder, backend="cpu", kv_dtype="i8"))
    assert kept["memory"]["kv_per_token"] == 2 * 2 * 2 * (8 + 4)


def test_a_backend_that_is_not_the_fast_one_is_told(tmp_path: Path) -> None:
    folder = str(tiny.write_safetensors(tmp_path / "m"))
    (said,) = report(Settings(model=folder, dtype="bf16"))["warnings"]
    assert "not in bf16" in said
    assert report(Settings(model=folder))["warnings"] == []


def test_dense_maps_are_told(tmp_path: Path) -> None:
    """Their sizes, the length of a vector behind them, and what they add to the weights."""
    path = write(ROWS[0], tmp_path / "m", **sentence_files())
    plain = report(Settings(model=str(path)))
    write_dense(path, 2, torch.nn.Linear(64, 96), torch.nn.Tanh())
    write_dense(path, 3, torch.nn.Linear(96, 24, bias=False), torch.nn.Identity())
    (path / "modules.json").write_text(json.dumps(sentence_files(dense=2)["modules"]))
    found = report(Settings(model=str(path)))
    said = [text for _, text in rows(found)]
    assert (
        "vectors of 24 numbers, pooled by mean, mapped to 96 and to 24 and normalized "
        "(1_Pooling/config.json)"
    ) in said
    more = 65 * 96 + 96 * 24
    assert found["parameters"] == plain["parameters"] + more
    assert found["memory"]["weights"] == plain["memory"]["weights"] + 4 * more
    write_dense(path, 4, torch.nn.Linear(25, 3), torch.nn.Tanh())
    (path / "modules.json").write_text(json.dumps(sentence_files(dense=3)["modules"]))
    with pytest.raises(CheckpointError, match=r"4_Dense: takes vectors of 25 numbers, but gets 24"):
        report(Settings(model=str(path)))


def test_an_encoder_is_told_with_its_prompts(tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "Q: "}, "default_prompt_name": "query"}
    files = {**sentence_files(way="cls_token", longest=40), "config_sentence_transformers": prompts}
    found = report(Settings(model=str(write(ROWS[0], tmp_path, **files))))
    said = [text for _, text in rows(found)]
    assert "vectors of 64 numbers, pooled by cls and normalized (1_Pooling/config.json)" in said
    assert "texts of up to 40 tokens" in said
    assert "prompt query, the default: 'Q: '" in said
    assert "  step: 1 layer at a time * 4 heads * 2 * 16*4 bytes a token = 512 B" in said
    assert found["purpose"]["task"] == "embed"
