"""Where nothing can be kept the worker works all the same, and says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_worker.checkpoint.cache import cache_root
from rbee_worker.checkpoint.hf_cache import cache_root as hub_root
from rbee_worker.machine import user_cache
from rbee_worker.ops.cpu.runtime import kernel_cache
from rbee_worker.ops.cpu.shared import isa
from tests import tiny
from tests.server.spawned import Spawned

NOTE = "compiled CPU kernels cannot be kept in "
WHY = "Not a directory. This process compiled them for itself"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's cache directory would lie below a file."""
    (tmp_path / "file").write_text("")
    for name in [n for n in os.environ if n.startswith("RBEE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("RBEE_THREADS", "1")
    return tmp_path / "file"


def run(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rbee_worker", *args],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    return done


def noted(texts: list[str], cache: Path) -> list[str]:
    return [t for t in texts if f"{NOTE}{cache}" in t and WHY in t]


@pytest.mark.slow
@pytest.mark.kernels
def test_commands_go_on_with_compiled_kernels_and_say_so(model: Path, cache: Path) -> None:
    """Not one of them falls to another backend."""
    done = run("generate", "a", "--model", str(model), "--json", "--max-tokens", "1")
    assert len(noted(json.loads(done.stdout)["warnings"], cache)) == 1
    assert len(noted(done.stderr.splitlines(), cache)) == 1
    found = json.loads(run("bench", str(model), "--json", "--kv-tokens", "600").stdout)
    assert found["backend"] == "cpu"
    assert len(noted(found["notes"], cache)) == 1


@pytest.mark.slow
@pytest.mark.kernels
def test_a_server_goes_on_and_says_so(model: Path, cache: Path) -> None:
    with Spawned.daemon("--model", str(model), "--local-mode", "--port", "0") as worker:
        worker.ready(120)
        info = worker.http.get("/info").json()
        assert info["backend"] == "cpu"
        assert len(noted(info["notes"], cache)) == 1
        body = {"prompt": "a", "max_tokens": 1}
        assert len(noted(worker.http.post("/v1/infer", json=body).json()["warnings"], cache)) == 1


def test_warmup_has_nothing_to_do_there(model: Path, cache: Path) -> None:
    said = run("warmup", str(model), code=3).stderr
    assert said.startswith(f"error: {NOTE}{cache}")
    assert said.endswith("Fix: make it writable, or choose another --cache-dir.\n")


def test_users_without_a_home_have_a_path_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nothing is known
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_cache() == Path("/nonexistent/.cache")
    assert cache_root() == Path("/nonexistent/.cache/rbee-worker/models")
    assert hub_root() == Path("/nonexistent/.cache/huggingface/hub")
    folder = kernel_cache.folder(isa.choose())
    assert folder.parent == Path("/nonexistent/.cache/rbee-worker/kernels")


def test_a_relative_cache_directory_is_ignored_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG specification wants it: models and kernels lie together."""
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/person")
    assert user_cache() == Path("/home/person/.cache")
    assert cache_root().parent == kernel_cache.folder(isa.choose()).parents[1]
