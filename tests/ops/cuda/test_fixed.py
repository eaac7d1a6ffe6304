"""`--deterministic`: a row's result is the same bits whatever else its step has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Finished, PromptScores, Submit, Tokens
from rbee_worker.loading.load import load_engine
from rbee_worker.ops.cuda.kernels.fixed import fixed_product
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.plan import CudaPlanOps
from rbee_worker.types import SamplingParams

MODEL: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize("cols", [96, 2176])  # in one part, and in two
def test_a_row_alone_and_among_others(cols: int, device: str, dtypes: list[torch.dtype]) -> None:
    """Against float64, and the same bits in products of 1, 5, 16, 70 rows, at any place."""
    rng = np.random.default_rng(cols)
    x64, w64 = rng.standard_normal((70, cols)), rng.standard_normal((50, cols)) / cols**0.5
    bias64, added64 = rng.standard_normal(50), rng.standard_normal((70, 50))
    workspace = Workspace(device)
    for dtype in dtypes:
        x, w, added = (torch.from_numpy(a).to(device, dtype) for a in (x64, w64, added64))
        bias = torch.from_numpy(bias64).float().to(device)
        ends: dict[str, Any] = {"bias": bias, "act": "silu", "form": torch.float32}
        whole = fixed_product(x, w, workspace, residual=added, **ends)
        y = x.double().cpu() @ w.double().cpu().T + bias.double().cpu()
        want = y / (1 + torch.exp(-y)) + added.double().cpu()
        bound = 1e-5 if dtype == torch.float32 else 2e-3
        assert (whole.cpu().double() - want).abs().max() < bound
        for some in (slice(0, 1), slice(3, 8), slice(50, 66), slice(69, 70)):
            got = fixed_product(x[some], w, workspace, residual=added[some], **ends)
            assert torch.equal(got, whole[some])


def test_rows_of_8_bit_floats_have_scales(device: str) -> None:
    w = torch.tensor([[1.0, -2.0], [0.5, 4.0]]).to(device, torch.float8_e4m3fn)
    scales = torch.tensor([2.0, 0.5], device=device)
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float16, device=device)
    got = fixed_product(x, w, Workspace(device), scales=scales)
    assert got.tolist() == [[-10.0, 6.25]]


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_8_bit_floats_with_scales_for_128_columns(rows: int, device: str) -> None:
    """As a file has them, through the backend's operations: plain, gated, with a residual."""
    rng = np.random.default_rng(rows)
    bits = torch.from_numpy(rng.standard_normal((48, 256))).to(torch.float8_e4m3fn)
    scales = torch.from_numpy(rng.uniform(0.01, 0.1, (48, 2)).astype("f4"))
    parts = scales[:, :, None].view(torch.uint8), bits.view(48, 2, 128).view(torch.uint8)
    data = torch.cat(parts, 2)
    packed = Packed(data.flatten(1).numpy(), "F8_B128", (48, 256))
    meant = decode(packed).astype("f8")
    ops = CudaOps(device, "f32", planes=False)
    weight = ops.matrix([packed])
    assert (weight.held, weight.nbytes) == ("f8", 48 * 256 + 48 * 2 * 4)
    assert CudaPlanOps("f32").matrix([packed]).nbytes == weight.nbytes
    assert np.abs(weight.data.floats(torch.float32).cpu().numpy() - meant).max() < 1e-6
    ids = torch.tensor([3, 40], device=device)
    some = weight.data.rows_of(ids, torch.float32).cpu().numpy()
    assert np.abs(some - meant[[3, 40]]).max() < 1e-6
    x, added = rng.standard_normal((rows, 256)).astype("f4"), rng.standard_normal((rows, 48))
    on = torch.from_numpy(x).to(device)
    residual = torch.from_numpy(added.astype("f4")).to(device)
    got = ops.now.product(on, weight, residual=residual, form="f32").cpu().numpy()
    want = x.astype("f8") @ meant.T
    assert np.abs(got - (want + added)).max() < 1e-4
    gate, up = np.split(want, 2, axis=1)
    got = ops.now.product(on, weight, gated="silu").cpu().numpy()
    assert np.abs(got - gate / (1 + np.exp(-gate)) * up).max() < 1e-4
    assert torch.equal(ops.now.product(on, weight)[:1], ops.now.product(on[:1], weight))


def scores(config: Path, waves: list[list[int]], **settings: Any) -> dict[int, list[float]]:
    """The log-probabilities of sequences' prompts and answers; each wave comes when the one before
    has ended."""
    engine, _ = load_engine(
        Settings(
            model=f"random:bf16:{config}", backend="cuda", dtype="f32", kv_dtype="f32", ctx=96,
            kv_tokens=512, deterministic=True, prefix_cache=False, **settings,
        ),
        lambda _: None,
    )  # fmt: skip
    found: dict[int, list[float]] = {}
    for wave in waves:
        for n in wave:
            ids = tuple((37 * n + 11 * i) % 64 for i in range(9 + 7 * n))
            params = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True, logprobs=0)
            engine.submit(Submit(seq=str(n), prompt_ids=ids, params=params, prompt_logprobs=True))
        while not engine.idle:
            for output in engine.step():
                if isinstance(output, (Tokens, PromptScores)):
                    some = [one.logprob for one in output.logprobs or () if one is not None]
                    found.setdefault(int(output.seq), []).extend(some)
                assert not isinstance(output, Finished) or output.error is None, output
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("rows_alike")
def test_a_sequence_alone_in_a_batch_and_in_parts(tmp_path: Path) -> None:
    """A mixture of experts with normalised heads: the same log-probabilities, bit for bit."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(MODEL))
    alone = scores(config, [[0], [1]], token_budget=64, max_seqs=1)
    assert [len(alone[n]) for n in range(2)] == [8 + 3, 15 + 3]
    assert scores(config, [[0, 1]], token_budget=64, max_seqs=4) == alone
    assert scores(config, [[1, 0]], token_budget=7, max_seqs=4) == alone


def test_packed_matrices_are_multiplied_as_floats(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**MODEL, "model_type": "llama", "hidden_size": 256}))
    engine, info = load_engine(
        Settings(model=f"random:q8_0:{config}", backend="cuda", dtype="f32", deterministic=True),
        lambda _: None,
    )
    assert "packed matrices are kept as floats" in info.notes
    assert "a sequence's logits are the same bits in any step" in info.notes
    assert engine.idle
