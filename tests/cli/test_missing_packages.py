"""A package that is not installed is one line with what needs it and the fix, whoever misses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.absent import without

GENERATE = ("generate", "--model", "MODEL", "hi", "--max-tokens", "1", "--threads", "1")
SERVE = ("serve", "--local-mode", "--port", "0", "--model", "MODEL")
INCOMPLETE = "pip install --force-reinstall 'rbee-worker'."
REFERENCE = "torch is not installed; --backend reference and verify compute with it."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("model") / "tiny")


def error_without(package: str, command: tuple[str, ...], model: Path, tmp_path: Path) -> str:
    """The one line that a command leaves with, exit code 2."""
    words = [str(model) if word == "MODEL" else word for word in command]
    done = subprocess.run(
        [sys.executable, "-m", "rbee_worker", *words],
        env={**without([package], tmp_path / "absent").environ, "RBEE_CACHE_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert (done.returncode, len(errors)) == (2, 1), done.stderr
    return errors[0]


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("click", ("models",)),
        ("msgspec", ("models",)),
        ("numpy", ("inspect", "MODEL")),
        ("numpy", GENERATE),
        ("tokenizers", GENERATE),
        ("jinja2", (*GENERATE, "--chat")),
        ("markupsafe", (*GENERATE, "--chat")),
        ("llvmlite", ("warmup", "MODEL")),
        ("huggingface_hub", ("pull", "hf:a/b")),
        ("rich", ("pull", "smollm2")),
        ("httpx", (*SERVE, "--hive-url", "http://127.0.0.1:9")),
        ("starlette", SERVE),
        ("uvicorn", SERVE),
        ("uvloop", SERVE),
        ("httptools", SERVE),
        ("prometheus_client", SERVE),
    ],
)
def test_one_that_every_installation_has(
    package: str, command: tuple[str, ...], model: Path, tmp_path: Path
) -> None:
    line = error_without(package, command, model, tmp_path)
    assert f"{package} is not installed; rbee_worker" in line
    assert line.endswith(INCOMPLETE)


@pytest.mark.parametrize(
    ("package", "command", "says"),
    [
        ("torch", ("verify", "MODEL"), REFERENCE),
        ("torch", (*GENERATE, "--backend", "reference"), REFERENCE),
        ("torch", (*SERVE, "--backend", "reference"), REFERENCE),
        ("torch", ("bench", "MODEL", "--backend", "reference"), REFERENCE),
        (
            "transformers",
            ("verify", "MODEL"),
            "transformers is not installed; verify compares with",
        ),
        ("safetensors", ("verify", "MODEL"), "safetensors is not installed; verify reads"),
    ],
)
def test_one_of_the_extra_torch(
    package: str, command: tuple[str, ...], says: str, model: Path, tmp_path: Path
) -> None:
    line = error_without(package, command, model, tmp_path)
    assert says in line
    assert line.endswith("Fix: pip install 'rbee-worker[torch]'.")


def test_one_of_the_extra_otel(model: Path, tmp_path: Path) -> None:
    command = (*SERVE, "--otel-endpoint", "http://127.0.0.1:9")
    line = error_without("opentelemetry", command, model, tmp_path)
    assert line == (
        "error: opentelemetry.sdk is not installed; --otel-endpoint sends traces with it. "
        "Fix: pip install 'rbee-worker[otel]'."
    )
