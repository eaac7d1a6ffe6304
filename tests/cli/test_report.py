"""What `inspect` plans against what the engine then takes."""

import asyncio
import json
from pathlib import Path

import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.inspect import rows
from rbee_worker.cli.report import memory_plan, report
from rbee_worker.config import Settings
from rbee_worker.engine.client import EngineClient
from rbee_worker.engine.preflight import preflight
from rbee_worker.errors import UsageError
from rbee_worker.types import ModelInfo
from tests import tiny


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


def test_every_fact_is_shown(tmp_path: Path) -> None:
    found = report(Settings(model=str(tiny.write_gguf(tmp_path / "m.gguf"))))
    shown = list(rows(found))
    labels = [label for label, _ in shown if label]
    assert labels == [
        "model",
        "file",
        "architecture",
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


def test_an_8_bit_cache_is_the_cpu_backends(tmp_path: Path) -> None:
    folder = str(tiny.write_safetensors(tmp_path / "m"))
    with pytest.raises(UsageError) as caught:
        report(Settings(model=folder, kv_dtype="i8", backend="reference"))
    assert "--kv-dtype i8" in str(caught.value)
    assert "--backend cpu" in caught.value.fix
    kept = report(Settings(model=folder, backend="cpu", kv_dtype="i8"))
    assert kept["memory"]["kv_per_token"] == 2 * 2 * 2 * (8 + 4)
