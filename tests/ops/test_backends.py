"""Which backend a worker gets, and that it is said where `auto` is not the fast one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.ops.backends import backend as named
from rbee_worker.ops.backends import backend_notes, choose_backend
from rbee_worker.ops.cuda import backend as cuda
from tests import tiny


def test_auto_is_the_compiled_backend_where_it_can_be_had() -> None:
    assert choose_backend(Settings()).name == "cpu"
    assert backend_notes(Settings()) == ()
    assert choose_backend(Settings(backend="reference")).name == "reference"


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"dtype": "bf16"}, "not in bf16"), ({"block_size": 24}, "--block-size 24")],
)
def test_auto_falls_back_aloud_and_cpu_refuses(settings: dict[str, object], words: str) -> None:
    assert choose_backend(Settings(**settings)).name == "reference"
    assert words in backend_notes(Settings(**settings))[0]
    assert backend_notes(Settings(backend="reference", **settings)) == ()
    with pytest.raises(UsageError, match=words):
        choose_backend(Settings(backend="cpu", **settings))


def test_without_its_compiler_auto_is_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    hidden = {"llvmlite"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in hidden else real(name, *a)
    )
    assert choose_backend(Settings()).name == "reference"
    assert "llvmlite is not installed" in backend_notes(Settings())[0]
    hidden.add("torch")  # and where the second choice cannot be had either
    with pytest.raises(UsageError, match="llvmlite is not installed"):
        choose_backend(Settings())
    with pytest.raises(UsageError, match=r"torch is not installed.*rbee-worker\[torch\]"):
        choose_backend(Settings(backend="reference"))


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"attention": "flash"}, "--attention flash"), ({"quantize": "fp8"}, "--quantize fp8")],
)
def test_what_only_a_gpu_has_is_refused_without_one(
    backend: str, settings: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "DEVICES", ())
    with pytest.raises(UsageError, match=f"{words}: only the cuda backend has it"):
        choose_backend(Settings(backend=backend, **settings))


def test_what_only_compiled_kernels_have_is_refused_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounding = {"bf16_activations": True}
    monkeypatch.setattr(cuda, "DEVICES", ("null",))
    for backend in ("reference", "cuda"):
        with pytest.raises(UsageError, match="--bf16-activations: only the cpu backend has it"):
            choose_backend(Settings(backend=backend, **rounding))
    assert choose_backend(Settings(backend="cpu", **rounding)).name == "cpu"
    with pytest.raises(UsageError, match=r"--exact-activations does not\..*give one of them"):
        choose_backend(Settings(backend="cpu", exact_activations=True, **rounding))


def test_without_a_gpu_cuda_is_refused_and_auto_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "DEVICES", ())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UsageError, match="no NVIDIA GPU is visible here"):
        choose_backend(Settings(backend="cuda"))
    assert choose_backend(Settings()).name == "cpu"
    assert backend_notes(Settings()) == ()


def test_with_a_gpu_auto_is_cuda_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DEVICES", ("null",))
    assert choose_backend(Settings()).name == "cuda"
    assert choose_backend(Settings(quantize="fp8", kv_dtype="f8")).name == "cuda"
    real = importlib.util.find_spec
    hidden = {"triton"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in hidden else real(name, *a)
    )
    assert choose_backend(Settings()).name == "cpu"
    (note,) = backend_notes(Settings())
    assert "not cuda: triton is not installed" in note
    assert "pip install 'rbee-worker[cuda]'" in note


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_on_other_systems_auto_is_reference(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert choose_backend(Settings()).name == "reference"
    (note,) = backend_notes(Settings())
    assert f"not cpu: the cpu backend's threads need Linux, this is {system}." in note
    with pytest.raises(UsageError, match=f"the cpu backend.* this is {system}"):
        choose_backend(Settings(backend="cpu"))


WITHOUT = """
import importlib.abc, sys

class Nowhere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llvmlite":
            raise ModuleNotFoundError(name)
        return None

sys.meta_path.insert(0, Nowhere())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "llvmlite" else real(name, *a)

from rbee_worker.config import Settings
from rbee_worker.loading.load import load_engine
from rbee_worker.engine.messages import Submit
from rbee_worker.types import SamplingParams

engine, info = load_engine(Settings(model=sys.argv[1]), lambda told: None)
params = SamplingParams(max_tokens=3, ignore_eos=True)
engine.submit(Submit(seq="a", prompt_ids=(5, 6), params=params))
tokens = sum(len(engine.step()) for _ in range(9))
print(tokens > 0, [note for note in info.notes if "llvmlite" in note])
"""


def test_an_engine_runs_without_the_compiler(tmp_path: Path) -> None:
    """In a process where nothing can import it."""
    model = tiny.write_safetensors(tmp_path / "tiny")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(model)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True [")
    assert "backend reference (plain torch operations, slow), not cpu: llvmlite" in done.stdout


@pytest.mark.parametrize("name", ["auto", "cpu", "reference"])
def test_more_threads_than_cores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are obeyed, and a line says how many cores there are. By what the system says of this
    process, not by what the machine has."""
    one = {min(os.sched_getaffinity(0))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: one)
    for threads in (0, 1):
        assert not [
            note
            for note in backend_notes(Settings(backend=name, threads=threads))  # type: ignore[arg-type]
            if "--threads" in note
        ]
    note = backend_notes(Settings(backend=name, threads=3))[-1]  # type: ignore[arg-type]
    assert "--threads 3 is more than the 1 core that this process may use" in note
    assert "Fix: --threads 1," in note


def test_the_gpu_computes_without_threads() -> None:
    assert not named("cuda").threaded
