"""RWKV 5, 6 and 7 against the authors' own package, which reads files with other names: the oracles
of `verify`, and this worker's models.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.verify.compare import relative_error
from tests.archs import Arch, oracle, write_safetensors
from tests.archs.base import configured
from tests.archs.rwkv import C5, C6, C7, M5, M6, M7, NONE
from tests.driver import Driver
from tests.prompts import random_prompt

# Heads have 64 columns, as in every published model.
SIZES: dict[str, Any] = {**NONE, "hidden_size": 128}
ROWS = (
    Arch("rwkv5-64", M5, configured(C5, **SIZES)),
    Arch("rwkv6-64", M6, configured(C6, **SIZES)),
    Arch("rwkv7-64", M7, configured(C7, **SIZES)),
)
_WORDS = {"key": "k", "value": "v", "receptance": "r", "gate": "g"}
_SEVENTH = {
    "model.layers": "blocks",
    "model.embeddings": "emb",
    "model.norm": "ln_out",
    "lm_head": "head",
    "pre_norm": "ln0",
    "attn_norm": "ln1",
    "ffn_norm": "ln2",
    ".attn.": ".att.",
    "g_norm": "ln_x",
    "r_proj": "receptance",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
}


def package(seventh: bool, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package's `rwkv.model`, which reads the environment when it is imported: one class for
    RWKV 7, another for the older ones."""
    found = importlib.util.find_spec("rwkv")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("the package rwkv is not installed (extra test)")
    monkeypatch.setenv("RWKV_V7_ON", "1" if seventh else "0")
    monkeypatch.setenv("RWKV_JIT_ON", "0")
    monkeypatch.setenv("RWKV_CUDA_ON", "0")
    path = Path(found.submodule_search_locations[0]) / "model.py"
    spec = importlib.util.spec_from_file_location(f"rwkv_model_{seventh}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sixth_names(name: str) -> str:
    """The authors' names of Hugging Face's, of RWKV 5 and 6."""
    for ours, theirs in (
        ("rwkv.", ""),
        ("embeddings", "emb"),
        ("pre_ln", "ln0"),
        ("attention", "att"),
        ("feed_forward", "ffn"),
    ):
        name = name.replace(ours, theirs)
    return re.sub(r"time_mix_(\w+)$", lambda m: f"time_mix_{_WORDS.get(m[1], m[1])}", name)


def seventh_names(name: str, value: Tensor) -> tuple[str, Tensor]:
    """The same of fla's, of RWKV 7; narrow matrices are turned."""
    for ours, theirs in _SEVENTH.items():
        name = name.replace(ours, theirs)
    low = re.match(r"(.*)\.(\w)_lora\.lora\.(\d)\.(\w+)", name)
    if low is None:
        return name, value
    number = 0 if low[4] == "bias" else 1 + int(low[3]) // 2
    return f"{low[1]}.{low[2]}{number}", value if low[4] == "bias" else value.T.contiguous()


@pytest.mark.parametrize("arch", ROWS, ids=[a.id for a in ROWS])
def test_logits_equal_those_of_the_authors_package(
    arch: Arch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seventh = oracle(arch), arch.config().model_type == "rwkv7"
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    if seventh:
        renamed = dict(seventh_names(n, t) for n, t in weights.items())
    else:
        renamed = {sixth_names(n): t for n, t in weights.items()}
    torch.save(renamed, tmp_path / "theirs.pth")
    kind = package(seventh, monkeypatch).RWKV
    theirs = kind(
        model=str(tmp_path / ("theirs" if seventh else "theirs.pth")), strategy="cpu fp32"
    )
    tokens = random_prompt(40)
    want, state = theirs.forward(tokens, None, full_output=True)
    further, _ = theirs.forward([7], state)
    want = torch.cat([want, further.view(1, -1)])
    with torch.inference_mode():
        logits = model(torch.tensor([[*tokens, 7]])).logits[0]
    assert relative_error(logits, want) < 1e-5
    ours = build_model(
        open_checkpoint(str(write_safetensors(model, tmp_path / "ours"))), ReferenceOps()
    )
    driver = Driver(ours)
    (got,) = driver.feed([(driver.start([*tokens, 7]), len(tokens) + 1)])
    assert relative_error(got, want) < 1e-5
