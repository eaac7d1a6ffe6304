"""The default model on the compiled kernels: greedy text against transformers in float32.

With float32 activations and cache the text is the same. With rounded activations it may part, but
only where transformers itself was undecided; and over a fixed text the two agree (the text was
sampled from the model in float32, temperature 1), also for weights quantized again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.models import make
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.models import build_model
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.tokenizer.load import load_tokenizer
from tests.driver import Driver
from tests.gguf_oracle import hf_llama
from tests.test_smollm2 import PROMPTS
from tests.worker import Worker

pytestmark = pytest.mark.kernels

UNDECIDED = 0.1  # logits
TEXT = Path(__file__).parent / "data" / "sampled.txt"
WINDOW = 512  # tokens


@pytest.fixture(scope="module")
def oracle() -> Any:
    ckpt = open_checkpoint("smollm2")
    return load_tokenizer(ckpt), hf_llama(ckpt.path)


def greedy(hf: Any, ids: list[int], count: int) -> list[int]:
    with torch.inference_mode():
        out = hf.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(ids) :].tolist()  # type: ignore[no-any-return]


def answers(**settings: Any) -> list[list[int]]:
    worker = Worker(model="smollm2", backend="cpu", **settings)
    params = {"temperature": 0, "max_tokens": 48, "ignore_eos": True}
    try:
        return [a.ids for a in worker.ask_all([(text, params) for text in PROMPTS])]
    finally:
        worker.close()


def test_exact_activations_give_the_same_text(oracle: Any) -> None:
    tokenizer, hf = oracle
    got = answers(exact_activations=True, kv_dtype="f32")
    for text, ids in zip(PROMPTS, got, strict=True):
        assert ids == greedy(hf, tokenizer.encode(text), 48), text


def test_rounded_activations_part_only_where_it_was_undecided(oracle: Any) -> None:
    tokenizer, hf = oracle
    for text, ids in zip(PROMPTS, answers(), strict=True):
        prompt = tokenizer.encode(text)
        want = greedy(hf, prompt, 48)
        if ids == want:
            continue
        n = next(i for i, (a, b) in enumerate(zip(ids, want, strict=True)) if a != b)
        with torch.inference_mode():
            last = hf(torch.tensor([prompt + want[:n]])).logits[0, -1]
        gap = float(last[want[n]] - last[ids[n]])
        print(f"{text!r}: parts after {n} tokens, gap {gap:.3f} logits")  # noqa: T201
        assert gap < UNDECIDED, text


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("Q4_1", False),
        ("Q8_0", False),
        ("BF16", False),
        pytest.param("BF16", True, marks=pytest.mark.slow),
    ],
)
def test_rounded_activations_agree_over_a_text(
    oracle: Any, tmp_path: Path, name: str, bf16: bool
) -> None:
    """With float32 on the same weights: top-1 >= 97 %, mean KL <= 0.01, perplexity within 0.5 %."""
    tokenizer, hf = oracle
    ckpt = open_checkpoint("smollm2")
    if name != "Q4_1":
        ckpt = open_checkpoint(str(make(tmp_path, f"smol-{name}.gguf", ckpt.path)))
        hf = hf_llama(ckpt.path)
    ids = tokenizer.encode(TEXT.read_text())
    x = torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    with torch.inference_mode():
        want = torch.stack([torch.log_softmax(hf(w[None]).logits[0].float(), -1) for w in x])
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    ops = CpuOps(library, Team(library, 2), bf16=bf16)
    model = CpuModel(build_model(ckpt, ops), ops, Shape(WINDOW, 64, WINDOW, 16, "f32"))
    got = []
    for ids in x.tolist():
        driver = Driver(model)
        (logits,) = driver.feed([(driver.start(ids), WINDOW)])
        got.append(torch.log_softmax(logits, -1))
    mine = torch.stack(got)
    divergence = float((want.exp() * (want - mine)).sum(-1).mean())
    agreement = float((mine.argmax(-1) == want.argmax(-1)).float().mean())
    ratio = perplexity(mine, x) / perplexity(want, x)
    found = f"top-1 {agreement:.4f}, KL {divergence:.5f}, perplexity {ratio:.5f}"
    print(f"{name}{', bf16' * bf16}, {x.numel()} tokens: {found}")  # noqa: T201
    assert agreement >= 0.97
    assert divergence <= 0.01
    assert abs(ratio - 1) <= 0.005


def perplexity(logprobs: Tensor, x: Tensor) -> float:
    """Of every token after a window's first."""
    return float((-logprobs[:, :-1].gather(-1, x[:, 1:, None])).mean().exp())
