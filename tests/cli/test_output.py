"""Nothing that is written to stdout is lost, however slowly it is read and whatever interrupts."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbee_worker.cli.output import Whole, whole_streams

ROOT = Path(__file__).parents[2]
SIZE = 300_000
# A timer interrupts every write that waits for the reader.
PROGRAM = f"""
import signal, sys
from rbee_worker.cli.output import whole_streams
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
whole_streams()
for stream in (sys.stdout, sys.stderr):
    stream.write("ü" * {SIZE} + "\\n")
    stream.flush()
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("end", ["stdout", "stderr"])
def test_an_interrupted_write_to_a_full_pipe_loses_nothing(end: str, unbuffered: str) -> None:
    other = "stderr" if end == "stdout" else "stdout"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        **{end: subprocess.PIPE, other: subprocess.DEVNULL},
    ) as process:
        time.sleep(0.3)  # until the pipe is full; without this wait the test would see less
        assert getattr(process, end).read().decode() == "ü" * SIZE + "\n"
    assert process.returncode == 0


def test_a_file_that_may_not_wait_says_so() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb"), Whole(writer, "w") as file, pytest.raises(BlockingIOError):
        file.write(b"x" * (1 << 20))


def test_streams_that_python_buffers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", given)
    monkeypatch.setattr(sys, "stderr", given)
    whole_streams()
    assert sys.stdout is given
    assert sys.stderr is given
