"""Adapters that PEFT itself has made and saved give what PEFT gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.adapters.made import Adapted, expected
from tests.adapters.test_equal import FAMILIES, ROWS, WITHIN, off
from tests.archs import oracle, write_gguf, write_safetensors
from tests.llamacpp.source import PARTS, Unavailable, unpacked

peft = pytest.importorskip("peft", reason="peft is not installed (pip install peft accelerate)")
pytestmark = pytest.mark.slow

# What PEFT is asked for: targets of each family, and settings.
TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "phi3-short": ["qkv_proj", "down_proj"],
    "mixtral": ["q_proj", "v_proj", "o_proj"],
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 6},
    "rslora": {"r": 6, "lora_alpha": 9, "use_rslora": True},
    "patterns": {
        "r": 3,
        "lora_alpha": 8,
        "rank_pattern": {r"layers\.1\.self_attn\..*": 5, r"layers\.2\..*": 2},
        "alpha_pattern": {r"layers\.[02]\..*": 3},
    },
    "all": {"r": 2, "lora_alpha": 5, "target_modules": "all-linear"},
    "regex": {"r": 2, "lora_alpha": 5, "target_modules": r".*layers\.[01]\..*(o|qkv)_proj"},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(base: Path, family: str, way: str, folder: Path) -> tuple[Path, np.ndarray]:
    """An adapter that PEFT saved, and PEFT's logits with it."""
    model = ROWS[family].model.from_pretrained(base, dtype=torch.float32).eval()
    chosen = {"target_modules": TARGETS[family], "task_type": "CAUSAL_LM", **WAYS[way]}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**chosen))
    torch.manual_seed(sum(map(ord, way)))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2)
    adapted.save_pretrained(folder)
    return folder, expected(adapted)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_peft(family: str, tmp_path: Path) -> None:
    arch = ROWS[family]
    base = write_safetensors(oracle(arch), tmp_path / "base")
    done = {way: made(base, family, way, tmp_path / way) for way in WAYS if way != "all"}
    if family != "mixtral":  # where PEFT's "all-linear" means the experts too
        done["all"] = made(base, family, "all", tmp_path / "all")
    paths = {way: path for way, (path, _) in done.items()}
    order = ["", *done]
    for backend in ("reference", "cpu"):
        found = Adapted(base, paths, backend).logits(order)
        assert off(found[0], expected(oracle(arch))) < WITHIN
        for way, rows in zip(order[1:], found[1:], strict=True):
            assert off(rows, done[way][1]) < WITHIN, (backend, way)
            assert off(rows, found[0]) > 0.01, (backend, way)


CONVERTED = """
import runpy, sys
source, *jobs = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
for n in range(0, len(jobs), 3):
    base, to, adapter = jobs[n : n + 3]
    sys.argv = ["convert_lora_to_gguf.py", "--base", base, "--outfile", to, adapter]
    runpy.run_path(source + "/convert_lora_to_gguf.py", run_name="__main__")
"""


def test_converted_by_llama_cpp(tmp_path: Path) -> None:
    """PEFT's adapters through convert_lora_to_gguf.py, on bases of both kinds of files."""
    try:
        source = unpacked(tmp_path / "llama.cpp", (*PARTS, "convert_lora_to_gguf.py"))
    except Unavailable as why:
        pytest.skip(f"llama.cpp's converter cannot be had: {why}")
    want, jobs = {}, []
    for family in FAMILIES:
        base = write_safetensors(oracle(ROWS[family]), tmp_path / family)
        path, want[family] = made(base, family, "plain", tmp_path / f"{family}-peft")
        jobs += [str(base), str(tmp_path / f"{family}-lora.gguf"), str(path)]
    command = [sys.executable, "-c", CONVERTED, str(source), *jobs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for family in FAMILIES:
        arch = ROWS[family]
        packed = write_gguf(arch, oracle(arch), tmp_path / f"{family}.gguf")
        paths = {"p": tmp_path / f"{family}-peft", "g": tmp_path / f"{family}-lora.gguf"}
        for file in (tmp_path / family, packed):
            for rows in Adapted(file, paths, "cpu").logits(["p", "g"]):
                assert off(rows, want[family]) < WITHIN
