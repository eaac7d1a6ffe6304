"""The worker itself is killed, three times: `benchmarks/server_kills.py` does it fifty times."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import server_kills
from tests import tiny


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_doubles_and_changes_nothing(tmp_path: Path) -> None:
    model = tiny.write_safetensors(tmp_path / "deep", layers=8)
    slow = ("--no-kv-cache", "--token-budget", "16")  # every token takes some steps
    options = ("--model-ref", str(model), "--backend", "cpu", "--threads", "1", *slow)
    found = asyncio.run(server_kills.measured(options, kills=3, seed=2, tokens=60))
    assert server_kills.sound(found), found
    assert found["accepted"] >= server_kills.CLIENTS
    assert found["continued_after_a_kill"] > 0
