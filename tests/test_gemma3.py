"""Gemma 3 270M (Q4_K_M) as its alias gives it: greedy answers equal transformers'.

Slow: the weights (253 MB) come through the alias, as a user's do.
"""

from __future__ import annotations

import pytest

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.tokenizer.load import load_tokenizer
from tests.gguf_oracle import greedy, hf_gemma3
from tests.worker import Worker

pytestmark = pytest.mark.slow

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    # Longer than its window of 512 tokens.
    "The quick brown fox jumps over the lazy dog. " * 56 + "After that, the fox",
)


def test_greedy_equals_transformers() -> None:
    """32 tokens for each of three prompts, together in one batch."""
    ckpt = open_checkpoint("gemma3-270m")
    hf, tokenizer = hf_gemma3(ckpt.path), load_tokenizer(ckpt)
    ids = [tokenizer.encode(text) for text in PROMPTS]
    assert len(ids[2]) > 512
    want = [greedy(hf, i, 32) for i in ids]
    worker = Worker(model="gemma3-270m", backend="reference", kv_dtype="f32", kv_tokens=4096)
    params = {"temperature": 0, "max_tokens": 32, "ignore_eos": True}
    answers = worker.ask_all([(text, params) for text in PROMPTS])
    worker.close()
    assert [a.ids for a in answers] == want
