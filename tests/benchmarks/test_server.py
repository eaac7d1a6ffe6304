"""The machinery of benchmarks.server: what its worker says arrives whole, or says why not."""

from __future__ import annotations

import pytest

from benchmarks.server import latency, worker


def test_a_worker_that_cannot_start_is_heard() -> None:
    said = "status 1, 0 bytes into a line: TypeError"
    with pytest.raises(SystemExit, match=said), worker(0):  # options are an object
        pass


def test_a_line_longer_than_a_pipe_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 numbers are more than 64 KiB."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    assert latency(2.0)["events_per_s"] > 0
