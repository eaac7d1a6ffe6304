"""The engine on the cuda backend: the tokens of the reference backend, in overlapping steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbee_worker.config import Settings
from rbee_worker.engine.messages import Finished, Submit, Tokens
from rbee_worker.loading.load import load_engine
from rbee_worker.loading.run_once import run_once
from rbee_worker.types import SamplingParams

CONFIG = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def tokens(backend: str, config: Path, **settings: object) -> dict[str, list[int]]:
    """The answers to some prompts that arrive while others run: greedy, drawn, with penalties.
    Without a cache every step recomputes all rows, so fewer of them are asked for."""
    engine, info = load_engine(
        Settings(
            model=f"random:bf16:{config}", backend=backend, dtype="f32", kv_dtype="f32", ctx=256,
            kv_tokens=1024, token_budget=24, max_seqs=4, **settings,
        ),
        lambda _: None,
    )  # fmt: skip
    assert info.backend == backend
    ways = [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 3},
        {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0.7, "repetition_penalty": 1.4, "repeat_last_n": 4, "seed": 5},
        {"temperature": 0.0, "repetition_penalty": 1.5, "repeat_last_n": 1},
    ]
    found: dict[str, list[int]] = {}
    for n in range(6):
        ids = tuple((7919 * n + 31 * i) % 256 for i in range(3 + 9 * n))
        limit = 5 + n if settings.get("kv_cache", True) else 3
        params = SamplingParams(max_tokens=limit, ignore_eos=True, **ways[n % 5])
        engine.submit(Submit(seq=str(n), prompt_ids=ids, params=params))
        for output in engine.step():
            _take(output, found)
    while not engine.idle:
        for output in engine.step():
            _take(output, found)
    return found


def _take(output: object, found: dict[str, list[int]]) -> None:
    if isinstance(output, Tokens):
        found.setdefault(output.seq, []).extend(output.ids)
    assert not isinstance(output, Finished) or output.error is None, output


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"kv_cache": False}, {"speculate": "ngram"}], ids=str)
def test_the_reference_backends_tokens(settings: dict[str, object], tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    want = tokens("reference", config, **settings)
    assert tokens("cuda", config, **settings) == want
    lengths = [5, 6, 7, 8, 9, 10] if settings.get("kv_cache", True) else [3] * 6
    assert [len(want[str(n)]) for n in range(6)] == lengths


@pytest.mark.slow
def test_warming_runs_every_form_of_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    kernels = tmp_path / "kernels"  # of this test alone: other processes compile too
    monkeypatch.setenv("TRITON_CACHE_DIR", str(kernels))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    settings = Settings(
        model=f"random:bf16:{config}", backend="cuda", dtype="f32", kv_dtype="f32", ctx=64,
        kv_tokens=256, token_budget=40, max_seqs=2,
    )  # fmt: skip
    told: list[tuple[int, int, str]] = []
    warmed = run_once(settings, lambda *one: told.append(one))
    assert [number for number, _, _ in told] == list(range(1, told[0][1] + 1))
    names = [name for _, _, name in told]
    assert names.count("one sequence") == 4
    assert {"2 sequences", "a prompt of 32 tokens", "a prompt of 40 tokens"} < set(names)
    assert (warmed.folder, warmed.made) == (kernels, warmed.kernels)  # all that are there are new
    assert device == "cuda" or warmed.kernels == 0  # the interpreter compiles nothing
