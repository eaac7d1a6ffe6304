"""The CPU table: its arithmetic, and our side of it on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cpu
from benchmarks.side_by_side import Pair
from tests import tiny

ROOT = Path(__file__).parents[2]


def run_of(speed: float, **more: float) -> dict[str, float]:
    return dict.fromkeys(cpu.ROWS, speed) | more


OURS = {"token_bytes": 100e6, "cache_bytes": 20e3, "read_gb_s": 25.0}


def test_the_share_counts_weights_and_cache() -> None:
    ours = run_of(100, **OURS)
    assert cpu.share(ours, "decode") == pytest.approx((100e6 + 48 * 20e3) * 100 / 25e9)
    assert cpu.share(ours, "decode_at_512") == pytest.approx((100e6 + 528 * 20e3) * 100 / 25e9)


def test_a_file_becomes_a_row_with_its_bounds_and_all_samples() -> None:
    pairs = [
        Pair(run_of(200, **OURS), run_of(100)),
        Pair(run_of(90, **OURS), run_of(30)),  # a slow minute
        Pair(run_of(150, **OURS), run_of(50)),
    ]
    found = cpu.summary(cpu.FILES[0], pairs)
    decode = found["rows"]["decode"]
    assert decode["ratio"] == 2.5
    assert decode["left_out"] == 1
    assert decode["ours"] == 175
    text = "\n".join(cpu.tables([found], "a day, a machine"))
    assert "| 135M Q4_1 | 175 / 75 = **2.50** (2) | 175 / 75 = **2.50** (2.3) |" in text
    assert "| 135M Q4_1 decode | 200, 90, 150 | 100, 30, 50 |" in text
    assert "a day, a machine" in text


def test_without_a_peer_there_is_no_ratio() -> None:
    found = cpu.summary(cpu.FILES[0], [Pair(run_of(200, **OURS), {})])
    text = "\n".join(cpu.tables([found], ""))
    assert "| 135M Q4_1 | 200 | 200 |" in text


def test_every_row_of_the_table_is_asked_for() -> None:
    names = [f.name for f in cpu.FILES]
    assert names == [
        *("135M Q4_1", "135M Q4_0", "135M Q8_0", "135M BF16"),
        "135M BF16, activations too",
        *("1B Q4_0", "1B Q8_0", "1B Q4_K_M", "1B Q6_K"),
    ]
    bounds = {f.name: f.bounds["decode"] for f in cpu.FILES}
    assert bounds["135M Q4_1"] == 2.3
    assert bounds["1B Q6_K"] == 1.1
    assert {f for file in cpu.FILES for f in (file.ours, file.peer)} == set(cpu.models.FILES)


@pytest.mark.slow
def test_our_side_says_every_row(tmp_path: Path) -> None:
    model = tiny.write_safetensors(
        tmp_path / "tiny", max_position_embeddings=1024, tie_word_embeddings=False
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/cpu_ours.py"), str(model), "1", "cpu"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert min(found[row] for row in cpu.ROWS) > 0
    assert found["cache_bytes"] == tiny.LAYERS * tiny.KV_HEADS * (tiny.DIM // tiny.HEADS) * 2 * 2
    q, kv = (tiny.DIM, tiny.DIM // tiny.HEADS * tiny.KV_HEADS)
    vocab = -(-tiny.VOCAB // 16) * 16
    cells = -(-tiny.FFN // 32) * 32  # columns are held in cells of 32, rows in groups of 16
    layer = tiny.DIM * (2 * q + 2 * kv + 2 * tiny.FFN + cells)
    assert found["token_bytes"] == 4 * (tiny.LAYERS * layer + vocab * tiny.DIM)
