"""Whole models of the cuda backend against transformers, family by family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.models import build_model
from rbee_worker.ops.backends import backend
from rbee_worker.ops.cuda.model import CudaModel
from rbee_worker.ops.cuda.state import CudaState
from rbee_worker.verify.hf_trace import hf_trace
from rbee_worker.verify.oracle import load_oracle
from rbee_worker.verify.whole import whole_numbers
from tests import encoders, rerankers
from tests.archs import ARCHS, Arch
from tests.archs.measure import GGUF, SAFETENSORS, TOKENS, exact_logits, files
from tests.ops.cuda.near import DEVICE

QUICK = {"llama"}
# One row for each kind of block and each operation; the other rows are variants of them.
SLOW = {
    *(
        "gemma2",
        "mamba",
        "llama-dynamic",
        "gemma3",
        "olmo2",
        "starcoder",
        "mpt",
        "persimmon",
        "falcon-alibi-mqa",
    ),
    *("qwen2-moe", "phimoe", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-yarn-mxfp4"),
    *("llama4-chunks", "gemma4-mixed", "falcon-mamba", "mamba2", "granite4", "nemotron-h-moe"),
    *("qwen3", "falcon-7b", "phi-msft", "command-r"),
    *("falcon-h1", "lfm2", "jamba", "recurrent-gemma", "qwen3-next", "rwkv5", "rwkv6", "rwkv7"),
    "based",
}
GGUF_TOO = {"llama", "gemma2", "jamba"}
BOUND = 2e-5 if DEVICE == "cpu" else 4e-5  # of the largest logit; a card's e^x has 2 ulp


def cases() -> Iterator[Any]:
    """Every row's files. GGUF files hold what the others hold (tests/test_archs.py compares them):
    some are enough, the rest is for the long suite."""
    for arch in ARCHS:
        marks = () if arch.id in QUICK else (pytest.mark.slow,)
        if arch.id not in QUICK | SLOW:
            marks = (pytest.mark.long,)
        yield pytest.param(arch, SAFETENSORS, id=arch.id, marks=marks)
        if arch.gguf_arch is not None:
            marks = (pytest.mark.slow if arch.id in GGUF_TOO else pytest.mark.long,)
            yield pytest.param(arch, GGUF, id=f"{arch.id}-{GGUF}", marks=marks)


def prepared(ckpt: Checkpoint) -> tuple[CudaModel, CudaState]:
    """The model in float32, and memory for the prompt."""
    settings = Settings(model=str(ckpt.path), backend="cuda")
    ops = backend("cuda").ops(settings, "f32", weight_bytes=0, progress=lambda *_: None)
    model = CudaModel(build_model(ckpt, ops), graphs=False)
    blocks = [len(TOKENS) // 16 + 3] * len(model.groups)
    return model, CudaState(
        model.groups, blocks, 2, block_size=16, dtype="f32", device=ops.device, drawn=ops.drawn
    )


@pytest.mark.parametrize(("arch", "kind"), list(cases()))
def test_logits(arch: Arch, kind: str, tmp_path: Path) -> None:
    """All rows of one prompt."""
    ckpt = open_checkpoint(str(files(arch, tmp_path)[kind]))
    model, state = prepared(ckpt)
    batch = state.stage(whole_numbers(model.groups, TOKENS))
    got = model.head(model.hidden(batch)).cpu().numpy()
    want = exact_logits(ckpt)
    assert np.abs(got - want).max() / np.abs(want).max() < BOUND


_MORE = [pytest.param(n, marks=pytest.mark.slow) for n in ("falcon-7b", "qwen2-moe", "jamba")]


@pytest.mark.parametrize("name", ["llama", *_MORE])
def test_sampled_rows(name: str, tmp_path: Path) -> None:
    """Logits of some rows of a prompt, whose last operations are computed for these only."""
    (arch,) = [a for a in ARCHS if a.id == name]
    ckpt = open_checkpoint(str(next(iter(files(arch, tmp_path).values()))))
    model, state = prepared(ckpt)
    rows = np.array([len(TOKENS) - 1, 0, 5])
    numbers = replace(whole_numbers(model.groups, TOKENS), sample_rows=rows)
    got = model.logits(state.stage(numbers)).cpu().numpy()
    want = exact_logits(ckpt)
    assert got.shape == (3, want.shape[1])
    assert np.abs(got - want[rows]).max() / np.abs(want).max() < BOUND


def test_every_row_that_is_named_exists() -> None:
    assert {a.id for a in ARCHS} >= QUICK | SLOW | GGUF_TOO


def test_fusions_of_a_plain_decoder(tmp_path: Path) -> None:
    """What one launch computes in a llama, by the number of places."""
    (arch,) = [a for a in ARCHS if a.id == "llama"]
    path = files(arch, tmp_path)["safetensors"]
    settings = Settings(model=str(path), backend="cuda")
    ops = backend("cuda").ops(settings, "f32", weight_bytes=0, progress=lambda *_: None)
    model = CudaModel(build_model(open_checkpoint(str(path)), ops), graphs=False)
    layers = arch.config().num_hidden_layers
    assert model.fused == {
        "linear as product": 4 * layers + 1,
        "product + gated activation": layers,
        "product + activation": 0,
        "product + residual": 2 * layers,
        "experts + residual": 0,
        "norm + product": 2 * layers + 1,
        "norm + router": 0,
        "product + the form that the next one takes": 2 * layers,
        "split + head norms + rope + attention": layers,
        "elementwise operations as each": 0,
        "elementwise operations in a chain": 0,
        "norm + product or sum": 0,
        "product + convolution + product": 0,
        "product + split + convolution": 0,
        "product + selective scan": 0,
    }


_LATER = ("modernbert", "modernbert-classes", "gemma3-types", "mpnet")
_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in _LATER]


@pytest.mark.parametrize("name", ["bert", "roberta", *_SLOW])
def test_encoders(name: str, tmp_path: Path) -> None:
    """Rows of one text, or of two, and the scores of a head."""
    (row,) = [row for row in encoders.ROWS if row.id == name]
    ckpt = open_checkpoint(str(encoders.write(row, tmp_path)))
    settings = Settings(model=str(tmp_path), backend="cuda")
    ops = backend("cuda").ops(settings, "f32", weight_bytes=0, progress=lambda *_: None)
    model = CudaModel(build_model(ckpt, ops), graphs=False)
    state = CudaState(
        model.groups, [9], 2, block_size=16, dtype="f32", device=ops.device, drawn=ops.drawn
    )
    ids = [token % encoders.VOCAB for token in TOKENS]
    second = len(ids) // 3
    numbers = replace(
        whole_numbers(model.groups, ids), segments=(np.arange(len(ids)) >= second).astype(np.int64)
    )
    rows = model.host(model.hidden(state.stage(numbers)))
    want = encoders.hidden(row, ids, second).numpy()
    assert np.abs(rows - want).max() / np.abs(want).max() < BOUND
    got = model.host(model.head(rows[:1]))[0]
    wanted = encoders.scores(row, ids, second).numpy() if row.classes else want[0]
    assert np.abs(got - wanted).max() / np.abs(wanted).max() < BOUND


@pytest.mark.slow
def test_a_decoders_classes(tmp_path: Path) -> None:
    """Scores of several rows at once, as texts that end in one step are scored."""
    path = rerankers.write(tmp_path, classes=3)
    ckpt = open_checkpoint(str(path))
    settings = Settings(model=str(path), backend="cuda")
    ops = backend("cuda").ops(settings, "f32", weight_bytes=0, progress=lambda *_: None)
    model = CudaModel(build_model(ckpt, ops), graphs=False)
    state = CudaState(
        model.groups, [9], 2, block_size=16, dtype="f32", device=ops.device, drawn=ops.drawn
    )
    ids = [token % len(rerankers.vocabulary()) for token in TOKENS]
    want = hf_trace(load_oracle(ckpt).model, ids).logits
    rows = model.host(model.hidden(state.stage(whole_numbers(model.groups, ids))))
    chosen = np.stack([rows[0], rows[len(ids) // 2], rows[-1]])
    got = model.host(model.head(chosen))
    wanted = want[[0, len(ids) // 2, -1]]
    assert got.shape == wanted.shape == (3, 3)
    assert np.abs(got - wanted).max() / np.abs(wanted).max() < BOUND
