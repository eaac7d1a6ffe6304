"""Too little memory, too few files or processes: one line with the fix, exit code 3."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_worker.extras import explained
from tests import tiny

ROOT = Path(__file__).parents[2]


def run(model: Path, kind: int, limit: int) -> subprocess.CompletedProcess[str]:
    """`generate` under a limit of the system."""
    command = ["generate", "a", "--model", str(model), "--max-tokens", "1", "--backend", "cpu"]
    return subprocess.run(
        [sys.executable, "-m", "rbee_worker", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)),
    )


@pytest.mark.parametrize("files", [7, 8, 9])
def test_few_files(tmp_path: Path, files: int) -> None:
    done = run(tiny.write_safetensors(tmp_path / "tiny"), resource.RLIMIT_NOFILE, files)
    assert done.returncode == 3
    assert done.stderr == "error: no more files may be open. Fix: allow more of them (ulimit -n).\n"


@pytest.mark.parametrize("megabytes", [200, 300, 400])
def test_little_memory(tmp_path: Path, megabytes: int) -> None:
    """In a library that cannot be loaded, in an allocation; or it is enough on this machine."""
    model = tiny.write_safetensors(tmp_path / "tiny")
    done = run(model, resource.RLIMIT_AS, megabytes << 20)
    assert "Traceback" not in done.stderr
    if done.returncode == 0 and megabytes > 200:
        return
    assert done.returncode == 3, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert "there is not enough memory to begin" in line or "no more processes" in line
    assert "Fix: " in line


def test_what_is_short_is_found_behind_other_errors() -> None:
    behind = ImportError("libx")
    behind.__cause__ = OSError("libx.so: failed to map segment from shared object")
    for error, word in (
        (OSError(errno.EMFILE, "x"), "files"),
        (BlockingIOError(errno.EAGAIN, "x"), "processes"),
        (RuntimeError("can't start new thread"), "threads"),
        (MemoryError(), "memory"),
        (behind, "memory"),
        (PermissionError(errno.EACCES, "Permission denied", sys.executable), "cannot be run"),
    ):
        found = explained(error)
        assert found is not None
        assert word in found.line
        assert found.exit_code == 3
    for other in (ValueError("x"), OSError(errno.ENOENT, "x"), FileNotFoundError("x")):
        assert explained(other) is None
