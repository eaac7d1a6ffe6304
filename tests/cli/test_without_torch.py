"""Where torch is not installed every command but `verify` works, and no process asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.absent import Absence, without
from tests.cli.pseudo import CTRL_D, ENTER, Terminal
from tests.server.spawned import Spawned

pytestmark = pytest.mark.slow
TEXT = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
# What a request may ask for beyond the likeliest token.
ASKED = (
    {"prompt": "the cat", **TEXT},
    {"prompt": "the cat", **TEXT, "temperature": 1, "top_p": 0.9, "top_k": 9, "seed": 3},
    {"prompt": "the cat", **TEXT, "min_p": 0.1, "repetition_penalty": 1.2, "logit_bias": {"65": 3}},
    {"prompt": "the cat", **TEXT, "frequency_penalty": 0.5, "presence_penalty": 0.5, "n": 2},
    {"prompt": "the cat", **TEXT, "logprobs": 2, "echo": True, "stop": ["zzz"]},
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels compiled in one test serve the next; the first finds none."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def absent(tmp_path: Path, cache: Path) -> Iterator[Absence]:
    """An environment without torch; no process that is started in it tries to import torch."""
    made = without(["torch", "transformers", "safetensors"], tmp_path / "absent")
    more = {"RBEE_CACHE_DIR": str(cache), "RBEE_THREADS": "1"}
    absence = Absence({**made.environ, **more}, made.log)
    yield absence
    assert absence.processes()
    assert absence.imported() == []


@pytest.fixture(params=["safetensors", "gguf"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "safetensors":
        return tiny.write_safetensors(tmp_path / "tiny")
    return tiny.write_gguf(tmp_path / "tiny.gguf")


def run(absence: Absence, *args: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rbee_worker", *args],
        env=absence.environ,
        cwd=Path(absence.log).parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_commands(absent: Absence, model: Path) -> None:
    run(absent, "warmup", str(model))
    found = json.loads(run(absent, "inspect", str(model), "--json"))
    assert found["architecture"] == "llama"
    for options in ([], ["--exact-activations"], ["--kv-dtype", "i8"]):
        asked = ["--model", str(model), "--max-tokens", "5", "--ignore-eos", *options]
        said = run(absent, "generate", "the cat", "--json", "--temperature", "0", *asked)
        assert len(json.loads(said)["token_ids"]) == 5
    found = json.loads(run(absent, "bench", str(model), "--json", "--kv-tokens", "600"))
    assert found["backend"] == "cpu"
    assert any("rbee_worker.process.main" in p for p in absent.processes())


def test_compiling(absent: Absence, tmp_path: Path) -> None:
    model = tiny.write_gguf(tmp_path / "tiny.gguf")
    run(absent, "warmup", str(model), "--cache-dir", str(tmp_path / "empty"))
    assert any("rbee_worker.ops.cpu.compiler" in p for p in absent.processes())


def test_bench_of_random_weights(absent: Absence, tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "tiny")
    shape = ("--random", str(model / "config.json"), "--kv-tokens", "600")
    found = json.loads(run(absent, "bench", "--json", *shape, "--random-format", "q8_0"))
    assert found["backend"] == "cpu"


def test_chat(absent: Absence, tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "tiny")
    code = (
        f"import sys; sys.argv = ['rbee-worker', 'chat', '--model', {str(model)!r}, "
        "'--max-tokens', '4', '--ignore-eos']\nfrom rbee_worker.cli.main import main\nmain()"
    )
    terminal = Terminal(code, tmp_path, **absent.environ)
    terminal.prompt(120)
    terminal.send("hello" + ENTER)
    terminal.wait_for("tok/s")
    terminal.prompt(60)
    terminal.send(CTRL_D)
    assert terminal.leave() == 0


def test_serve(absent: Absence, model: Path) -> None:
    command = ("--local-mode", "--port", "0", "--model-ref", str(model))
    with Spawned.daemon(*command, env=dict(absent.environ)) as worker:
        worker.ready(120)
        name = worker.http.get("/v1/models").json()["data"][0]["id"]
        for body in ASKED:
            said = worker.http.post("/v1/completions", json={"model": name, **body}).json()
            assert said["choices"][0]["finish_reason"] == "length", said
        message = {"role": "user", "content": "hi"}
        body = {"model": name, "messages": [message], **TEXT}
        said = worker.http.post("/v1/chat/completions", json=body).json()
        assert said["choices"][0]["finish_reason"] == "length", said
        worker.signal()
        assert worker.wait() == 0


def test_the_default_model_answers(absent: Absence, tmp_path: Path) -> None:
    """With the model that other tests have fetched; kernels come from where it is."""
    environ = {k: v for k, v in absent.environ.items() if k != "RBEE_CACHE_DIR"}
    asked = ("--chat", "What is the capital of France?", "--temperature", "0")
    assert "Paris" in run(Absence(environ, absent.log), "generate", *asked)


def test_the_hook_sees_an_import(tmp_path: Path) -> None:
    """And asking whether torch is there is none."""
    made = without(["torch"], tmp_path / "absent")
    code = (
        "from importlib.util import find_spec\nassert find_spec('torch') is None\nimport torch.nn"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=made.environ, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'torch'\n")
    assert [module for _, module in made.imported()] == ["torch"]
