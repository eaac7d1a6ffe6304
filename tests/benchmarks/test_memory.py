"""Memory as it is watched from outside: peaks by stage, files apart; start-up to the first byte."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.startup import first_token_s, tables
from tests import tiny

MB = 1_000_000
_PROGRAM = """
import json, mmap, os, sys, time
def seen():  # until its memory was looked at, from now on
    looks = os.stat(sys.argv[2]).st_size
    while os.stat(sys.argv[2]).st_size < looks + 2:  # the first one may have begun before
        time.sleep(0.001)
def tell(stage, **more):
    print(json.dumps({"stage": stage, **more}), flush=True)
    sys.stdin.readline()
tell("first")
held = bytearray(b"x") * 60_000_000
seen()
del held
fd = os.memfd_create("kept")
os.ftruncate(fd, 40_000_000)
kept = mmap.mmap(fd, 40_000_000)
kept[:] = bytes(40_000_000)
seen()
tell("second", seconds=0.5)
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sum(mapped[::4096])
    seen()
tell("end")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no way to see it here")
def test_peaks_belong_to_the_stage_they_were_in_and_files_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, looks = tmp_path / "big", tmp_path / "looks"
    big.write_bytes(b"y" * 30 * MB)
    looks.touch()
    see = memory.Peaks.see

    def counted(peaks: memory.Peaks, own: int, file: int) -> None:
        see(peaks, own, file)
        with looks.open("a") as noted:
            noted.write("x")

    monkeypatch.setattr(memory.Peaks, "see", counted)
    stages = memory.watch([sys.executable, "-c", _PROGRAM, str(big), str(looks)])
    first, second = stages["first"], stages["second"]
    assert 58 * MB < first["peak"] - first["own"] < 130 * MB
    assert 38 * MB < second["own"] - first["own"] < 50 * MB  # shared memory counts, freed not
    assert second["peak"] - second["own"] < 5 * MB  # pages of a file do not
    assert 28 * MB < second["peak_file"] - second["file"] < 40 * MB


def test_a_program_that_fails_is_an_error() -> None:
    with pytest.raises(SystemExit, match="failed"):
        memory.watch([sys.executable, "-c", "raise SystemExit(3)"])


def test_what_is_told_of_repacking_and_of_the_engine() -> None:
    runs = [
        {
            "repacking": {"weights": 100 * MB, "own": 50 * MB, "peak": peak, "peak_file": 9 * MB,
                          "file": 4 * MB},
            "held": {"own": 151 * MB, "seconds": seconds},
        }
        for peak, seconds in ((160 * MB, 0.05), (165 * MB, 0.1), (155 * MB, 0.04))
    ]  # fmt: skip
    found = memory.repacking(runs)
    assert found["extra"] == 15 * MB
    assert found["extra_share"] == 0.15
    assert found["left"] == MB
    assert found["file_pages"] == 5 * MB
    assert found["gb_s"] == 2.0
    engine = memory.whole(
        {
            "imported": {"peak": 170 * MB, "peak_file": 80 * MB},
            "loaded": {"weights": 100 * MB, "kv_bytes": 20 * MB, "peak": 300 * MB},
        }
    )
    assert engine["beside"] == 180 * MB
    text = "\n".join(memory.tables([{"file": "f", "repacking": found, "engine": engine}], "day"))
    assert "| f | 100 | 15 = **0.15** (0.2) | 5 | **2.00** (2) |" in text


def test_the_first_byte_is_timed(tmp_path: Path) -> None:
    model = str(tiny.write_safetensors(tmp_path / "tiny"))
    options = ("--backend", "reference", "--ignore-eos")
    assert 0.2 < first_token_s(model, str(tmp_path), options) < 100
    with pytest.raises(SystemExit, match=r"generate failed: error: .*nothing-here"):
        first_token_s(str(tmp_path / "nothing-here"), str(tmp_path))


def test_start_up_is_told_with_all_samples() -> None:
    found = {"cold": 7.5, "warm": 1.5, "cold_all": [7.5], "warm_all": [1.4, 1.6]}
    text = "\n".join(tables("model", found, "day"))
    assert "| no kernel compiled | **7.50** (10) | 7.5 |" in text
    assert "| all kernels kept | **1.50** (2) | 1.4, 1.6 |" in text
