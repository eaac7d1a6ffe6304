"""The commands with the default model, fetched as a person's first command fetches it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.process.host import ProcessHost
from rbee_worker.session.client import EngineClient
from rbee_worker.types import Request
from tests.cli.pseudo import CTRL_D, ENTER, Terminal

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PARIS = ["--chat", "What is the capital of France?", "--temperature", "0", "--max-tokens", "32"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache into which `pull` fetches the alias."""
    cache = tmp_path_factory.mktemp("cache")
    lines = run(cache, "pull").splitlines()
    assert Path(lines[0]).is_relative_to(cache)
    assert re.match(r"sha256:[0-9a-f]{64} +98\.4 MB  SmolLM2-135M-Instruct\.Q4_1\.gguf", lines[1])
    return cache


def run(cache: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rbee_worker", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RBEE_CACHE_DIR": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pulled_model_is_listed_by_its_alias(cache: Path) -> None:
    [line] = run(cache, "models").splitlines()
    assert line.startswith("smollm2 ")


def test_it_knows_paris(cache: Path) -> None:
    assert "Paris" in run(cache, "generate", *PARIS)


def test_json_of_the_same_answer(cache: Path) -> None:
    found: dict[str, Any] = json.loads(run(cache, "generate", *PARIS, "--json"))
    assert "Paris" in found["text"]
    assert (found["stop"]["rule"], found["stop"]["token_text"]) == ("EOS", "<|im_end|>")
    assert "gguf:tokenizer.ggml.eos_token_id" in found["stop"]["origin"]
    assert found["sampling"]["temperature"] == {"value": 0.0, "origin": "request"}


def test_inspect(cache: Path) -> None:
    found: dict[str, Any] = json.loads(run(cache, "inspect", "--json"))
    assert found["parameters"] == 134_515_008
    assert {k: v["tensors"] for k, v in found["formats"].items()} == {
        "Q4_1": 210,
        "Q8_0": 1,
        "F32": 61,
    }
    assert (found["architecture"], found["layers"], found["context"]) == ("llama", 30, 8192)
    assert set(found["held"]) == {"q4_1", "q8_0", "f32"}  # as in the file; norms expanded
    assert found["held"]["q4_1"] == (134_515_008 - 576 * (49_152 + 61)) * 20 // 32
    expanded = json.loads(run(cache, "inspect", "--json", "--backend", "reference"))
    assert expanded["held"] == {"f32": 4 * 134_515_008}
    assert (
        found["memory"]["kv_per_token"] == 30 * 2 * 3 * 64 * 2
    )  # layers, k and v, heads, dim, f16
    assert [e["text"] for e in found["eos"]] == ["<|endoftext|>", "<|im_end|>"]
    assert found["tokenizer"]["kind"] == "GGUF gpt2, split as smollm"
    assert found["warnings"] == []


def test_a_conversation(cache: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from rbee_worker.cli.main import main; "
        "sys.argv = ['rbee-worker', 'chat', '--temperature', '0']; main()"
    )
    environ = {"PYTHONPATH": str(ROOT), "RBEE_CACHE_DIR": str(cache)}
    with Terminal(code, tmp_path, **environ) as talk:
        talk.wait_for("Ctrl-D leaves")
        talk.prompt()
        talk.send("What is the capital of France?" + ENTER)
        talk.wait_for("Paris")
        talk.wait_for("stopped: end token <|im_end|>")
        talk.prompt()
        talk.send("/set max_tokens 5" + ENTER)
        talk.wait_for("max_tokens = 5")
        talk.prompt()
        talk.send("And of Italy?" + ENTER)
        talk.wait_for("cached)")  # the conversation so far is not computed again
        talk.prompt()
        talk.send(CTRL_D)
        assert talk.leave() == 0


def test_memory_stays_within_the_plan(cache: Path) -> None:
    settings = Settings(model="smollm2", cache_dir=str(cache), kv_tokens=4096)
    memory = report(settings)["memory"]
    planned = memory["weights"] + memory["cache"] + memory["workspace"]
    assert asyncio.run(_peak_bytes(settings)) <= planned


async def _peak_bytes(settings: Settings) -> int:
    """Most memory the engine process ever had: a long prompt, then 64 at once."""
    client = await EngineClient.start(settings)
    try:
        await client.ready()
        host = client._engine.host
        assert isinstance(host, ProcessHost)
        await _finish(client, "long", "word " * 600)
        await asyncio.gather(*(_finish(client, f"r{n}", "word " * 30) for n in range(64)))
        status = Path(f"/proc/{host.pid}/status").read_text()
    finally:
        await client.close()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def _finish(client: EngineClient, name: str, prompt: str) -> None:
    params = {"max_tokens": 2, "ignore_eos": True}
    events = [e async for e in client.generate(Request(id=name, prompt=prompt, params=params))]
    assert events[-1].__class__.__name__ == "End"


def test_gemma_3_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "rbee_worker", "generate", "--model", "gemma3-270m"),
            *("--temperature", "0", "--max-tokens", "8", "The capital of France is"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    # What transformers decodes from the same weights; the model is small and knows no better.
    assert "the capital of the country of France" in done.stdout
