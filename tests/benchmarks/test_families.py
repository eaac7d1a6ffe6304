"""Every family has a shape of the size that is asked for, and its reads are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import families
from benchmarks.family_shapes import FAMILIES, config_of
from rbee_worker.config import Settings
from rbee_worker.loading.preflight import preflight
from rbee_worker.models import ARCHITECTURES
from rbee_worker.models.random import random_checkpoint
from tests.outlines import read_bytes

SETTINGS = Settings(backend="cpu")


def test_no_family_is_missing() -> None:
    differ = sorted(set(FAMILIES) ^ set(ARCHITECTURES))
    assert not differ, f"FAMILIES of benchmarks/family_shapes.py lacks these, or has them: {differ}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["bf16", "q8_0"])
def test_a_family_of_300_million(family: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of(family, 300_000_000)))
    ckpt = random_checkpoint(str(path), form)
    ahead = preflight(ckpt, SETTINGS)
    assert 270e6 < ahead.model.n_parameters < 330e6
    read = read_bytes(ckpt, SETTINGS)
    mixed = any("experts" in name for name in ckpt.source.names())
    least, most = (0.1, 0.7) if mixed else (0.7, 1.0)  # of 8 experts or more, the chosen ones
    assert least * ahead.weight_bytes < read <= most * ahead.weight_bytes


def test_what_is_told_of_a_family() -> None:
    def run(gb_s: float) -> dict[str, float]:
        return {
            "parameters": 3e8, "token_bytes": 2e8, "decode_tok_s": 5 * gb_s, "gb_s": gb_s,
        }  # fmt: skip

    found = families.summary("x", [(run(8), run(10)), (run(9), run(10)), (run(10), run(10))])
    assert found["of_llama"] == 0.9
    text = "\n".join(families.tables([found], "day"))
    assert "| `x` | 300 | 200 | 45 | 9.0 | **90 %** | 80, 90, 100 |" in text
