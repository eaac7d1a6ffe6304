"""The benchmark of speculation: its prompts, and that it compares equal answers."""

from __future__ import annotations

from pathlib import Path

import rbee_worker
from benchmarks import speculation
from benchmarks.speculation_prompts import OPEN, OVERLAP
from tests import tiny


def test_there_are_twenty_prompts_of_each_half() -> None:
    assert len(set(OVERLAP)) == len(set(OPEN)) == 20
    assert not set(OVERLAP) & set(OPEN)
    assert all(len(prompt) < 1000 for prompt in (*OVERLAP, *OPEN))


def test_a_prompt_is_measured_without_and_with_drafts(tmp_path: Path) -> None:
    path = tiny.write_safetensors(tmp_path / "tiny")
    with rbee_worker.load(str(path), threads=1, speculate="ngram") as model:
        found = speculation.measure(model, OPEN[0], 40, 0.0, 2)
    assert 0 < found.tokens <= 40
    assert found.ms_without > 0
    assert found.ms_with > 0


def test_the_summary_is_of_all_times_and_of_each_answer() -> None:
    each = [
        speculation.Found(8, 4, 2, 30.0, 10.0, 3.0),
        speculation.Found(20, 6, 3, 30.0, 20.0, 1.5),
        speculation.Found(9, 0, 0, 10.0, 10.0, 1.0),
        speculation.Found(3, 9, 9, 99.0, 1.0, 99.0),  # too short to say anything
    ]
    assert speculation.summary(each) == {
        "prompts": 3,
        "tokens": 37,
        "drafted": 10,
        "accepted": 5,
        "speedup": 1.75,
        "median": 1.5,
        "lowest": 1.0,
    }
