"""Launches of a state space's decoding step against float64, and where they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from rbee_worker.checkpoint import Checkpoint, open_checkpoint
from rbee_worker.loading.load import open_model
from rbee_worker.models import build_model
from rbee_worker.ops.batch import FixedPlaces, PagedPlaces, StepNumbers
from rbee_worker.ops.cells import by_cell
from rbee_worker.ops.cuda.kernels.gemv import GemvShape, gemv, gemv_shape
from rbee_worker.ops.cuda.kernels.recurrence.gemv_conv import gemv_conv
from rbee_worker.ops.cuda.kernels.recurrence.product_scan import product_scan
from rbee_worker.ops.cuda.model import CudaModel
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.state import CudaState
from rbee_worker.state.specs import PagedKV
from tests.archs import ARCHS
from tests.archs.measure import SAFETENSORS, TOKENS, exact_logits, files
from tests.ops.cuda.near import BOUNDS, DEVICE, DTYPES, error, randn

ONE, TWO = "product + split + convolution", "product + selective scan"
BOUND = 2e-5 if DEVICE == "cpu" else 4e-5  # of the largest logit, as in test_families


def on(array: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.as_tensor(array).to(DEVICE, dtype)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("first", "width", "rows", "taps", "kind"),
    [(0, 40, 80, 4, "silu"), (24, 33, 64, 2, None), (7, 20, 27, 6, "silu")],
)
def test_a_product_and_its_convolution(
    dtype: torch.dtype, first: int, width: int, rows: int, taps: int, kind: Any
) -> None:
    """Three rows, one a step; other columns are only multiplied, other slots stay as they are."""
    k, slot = 96, 2
    w = randn(rows, k, seed=1, dtype=dtype, scale=k**-0.5)
    norm = (randn(k, seed=2) + 1, 1e-5)
    bias, tap, tap_bias = randn(rows, seed=3), randn(taps, width, seed=4), randn(width, seed=5)
    state = randn(4, taps - 1, width, seed=6)
    kept, line = state.clone(), state[slot].double()
    for step, given in enumerate(("norm", "bias", "both")):
        x = randn(1, k, seed=10 + step, dtype=dtype)
        with_norm, with_bias = given != "bias", given != "norm"
        got = gemv_conv(
            x, w, first, tap.flatten(), tap_bias if with_bias else None, kept, on([slot]).long(),
            kind=kind, form=dtype, norm=norm if with_norm else None,
            bias=bias if with_bias else None, shape=None if step else GemvShape(4, 32, 0, 4),
        )  # fmt: skip
        row = x.double()
        if with_norm:
            row = row * torch.rsqrt(row.square().mean() + norm[1]) * norm[0].double()
        y = (row @ w.double().T)[0] + (bias.double() if with_bias else 0)
        line = torch.cat([line, y[None, first : first + width]])
        z = (line[-taps:] * tap.double()).sum(0) + (tap_bias.double() if with_bias else 0)
        y[first : first + width] = z if kind is None else F.silu(z)
        assert got.dtype == dtype
        assert error(got[0], y) < 2 * BOUNDS[dtype]
        assert error(kept[slot], line[1 - taps :]) < BOUNDS[dtype]
    others = [0, 1, 3]
    assert torch.equal(kept[others], state[others])


def test_a_product_of_eight_bits_and_its_convolution() -> None:
    """Rows of the matrix have factors."""
    w, scales = randn(24, 64, seed=1).to(torch.float8_e4m3fn), randn(24, seed=2).abs()
    x, tap, state = randn(1, 64, seed=3), randn(4, 12, seed=4), torch.zeros(1, 3, 12, device=DEVICE)
    got = gemv_conv(
        x, w, 12, tap.flatten(), None, state, on([0]).long(), kind=None, form=torch.float32,
        scales=scales,
    )  # fmt: skip
    y = (x.double() @ w.double().T)[0] * scales.double()
    y[12:] = y[12:] * tap[3].double()
    assert error(got[0], y) < BOUNDS[torch.float32]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("width", "rank", "states", "has_bias"),
    [(40, 20, 16, True), (70, 32, 5, False), (70, 3, 16, True)],
)
def test_a_product_and_the_scan(
    dtype: torch.dtype, width: int, rank: int, states: int, has_bias: bool
) -> None:
    """b, c and the narrow dt are parts of one row, x and the gate of another."""
    wide = randn(1, 2 * width, seed=1, dtype=dtype)
    x, gate = wide.split(width, 1)
    parts = randn(1, rank + 2 * states, seed=2, dtype=dtype)
    narrow, b, c = parts.split([rank, states, states], 1)
    w = randn(width, rank, seed=3, dtype=dtype, scale=rank**-0.5)
    bias = randn(width, seed=4) if has_bias else None
    rates, skip = -randn(states, width, seed=5).abs(), randn(width, seed=6)
    h = randn(3, states, width, seed=7)
    state = on(np.stack([by_cell(one) for one in h.cpu().numpy()]))
    before, slots = state.clone(), torch.tensor([2, 0, 1])
    used = slots[:1]
    in_cells = on(by_cell(rates.cpu().numpy())).flatten()
    got = product_scan(
        x, narrow, w, bias, b, c, gate, in_cells, skip, state, on(used).long()
    )  # fmt: skip
    dt = narrow.double() @ w.double().T + (0 if bias is None else bias.double())
    dt = F.softplus(dt.to(dtype).double())[:, None]
    h = h[used.to(DEVICE)].double()
    h = torch.exp(dt * rates.double()) * h + dt * x.double()[:, None] * b.double()[:, :, None]
    y = (h * c.double()[:, :, None]).sum(1) + skip.double() * x.double()
    assert error(got, y * F.silu(gate.double())) < 2 * BOUNDS[dtype]
    left = on(np.stack([by_cell(one) for one in h.float().cpu().numpy()]))
    assert error(state[used], left) < 2 * BOUNDS[dtype]
    assert torch.equal(state[slots[1:]], before[slots[1:]])


def test_shapes_of_rows_that_no_tile_fits() -> None:
    """Few long rows are a program each, many short ones are 16; wide tiles have half the threads;
    what fits stays."""
    assert gemv_shape(192, 5120, False, 2) == GemvShape(1, 8192, 0, 8)
    assert gemv_shape(10240, 2560, False, 2) == GemvShape(16, 256, 0, 4)
    assert gemv_shape(27648, 5120, True, 2) == GemvShape(2, 4096, 0, 4)
    for n, k, gated in ((2560, 5120, False), (6144, 4096, False), (28672, 4096, True)):
        assert gemv_shape(n, k, gated, 2) == GemvShape(2, 4096, 0, 8)
    x, w = randn(1, 5120, seed=1), randn(3, 5120, seed=2, scale=0.02)
    assert error(gemv(x, w), x.double() @ w.double().T) < BOUNDS[torch.float32]


def checkpoint(name: str, tmp_path: Path) -> Checkpoint:
    """Of a tiny model of this row."""
    (arch,) = [a for a in ARCHS if a.id == name]
    return open_checkpoint(str(files(arch, tmp_path)[SAFETENSORS]))


def of(ckpt: Checkpoint, **how: Any) -> tuple[CudaModel, CudaState]:
    """The model in float32, and memory for two sequences."""
    model = CudaModel(build_model(ckpt, ops := CudaOps(DEVICE, "f32", **how)), graphs=False)
    blocks = [2 * (len(TOKENS) // 16 + 2)] * len(model.groups)
    state = CudaState(
        model.groups, blocks, 3, block_size=16, dtype="f32", device=DEVICE, drawn=ops.drawn
    )
    return model, state


def numbers(model: CudaModel, at: int, count: int, sequences: int = 1) -> StepNumbers:
    """Tokens from `at` on of sequences that have all the same, the last of each is sampled."""
    positions = np.tile(np.arange(at, at + count), sequences)
    starts = np.arange(sequences + 1) * count
    ends = np.full(sequences, at + count)
    columns = len(TOKENS) // 16 + 1
    table = 1 + np.arange(sequences * columns, dtype=np.int32).reshape(sequences, columns)
    rows = 16 * (1 + columns * np.repeat(np.arange(sequences), count)) + positions
    places = [
        PagedPlaces(table, rows) if isinstance(group.spec, PagedKV) else FixedPlaces(slots)
        for slots in [np.arange(sequences, 0, -1)]
        for group in model.groups
    ]
    return StepNumbers(
        tokens=np.array(TOKENS)[positions],
        positions=positions,
        seq_starts=starts,
        kv_lens=ends,
        rope_lens=ends,
        sample_rows=starts[1:] - 1,
        places=tuple(places),
        seq_starts_host=tuple(starts.tolist()),
        kv_lens_host=tuple(ends.tolist()),
    )


def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all kernels that the interpreter runs from now on."""
    names: list[str] = []
    run = GridExecutor.__call__

    def noted(self: Any, *args: Any, **how: Any) -> Any:
        names.append(self.fn.__name__)
        return run(self, *args, **how)

    monkeypatch.setattr(GridExecutor, "__call__", noted)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scans"), [("mamba", 1), ("falcon-mamba", 0), ("mamba2", 0)])
def test_decoding(name: str, scans: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, then single rows of one sequence and of two, are transformers' logits; scans:
    whether a layer's scan multiplies too, which it may not where there is a norm between."""
    ckpt = checkpoint(name, tmp_path)
    model, state = of(ckpt)
    want = exact_logits(ckpt)
    fused = model.fused
    layers = fused[ONE]
    assert layers > 0
    assert fused[TWO] == scans * layers
    for sequences in (1, 2):
        state.clear(range(3))
        names = launched(monkeypatch)
        at = 4
        for count in (at + 1, 1, 1)[: 4 - sequences]:
            names.clear()
            batch = state.stage(numbers(model, at + 1 - count, count, sequences))
            got = model.logits(batch).cpu().numpy()
            for row in got:
                assert np.abs(row - want[at]).max() / np.abs(want).max() < BOUND
            at += 1
            one = count == sequences == 1
            if DEVICE == "cpu":
                assert names.count("_gemv_conv") == layers * one
                assert names.count("_product_scan") == layers * scans * one
                assert ("_conv" in names) == (not one)
        monkeypatch.undo()
        state.clear([1, 2])


def test_launches_of_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step of one row."""
    model, state = of(checkpoint("mamba", tmp_path))
    layer = ["_gemv_conv", "_gemv", "_product_scan", "_gemv"]
    layers = model.fused[TWO]
    if DEVICE == "cpu":
        names = launched(monkeypatch)
        model.logits(state.stage(numbers(model, 0, 1)))
        assert names == ["_embed", *layer * layers, "_gemv"]


SMALL = {
    "model_type": "mamba", "vocab_size": 256, "hidden_size": 256, "num_hidden_layers": 1,
    "state_size": 16, "expand": 1, "conv_kernel": 4, "time_step_rank": 256, "use_bias": False,
    "use_conv_bias": True, "residual_in_fp32": True, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("format", "how", "fused", "kernels"),
    [
        ("f32", {"fixed": True, "planes": False}, (1, 1), ()),
        ("q8_0", {}, (0, 0), ()),
        ("f32", {"f8": True}, (1, 0), ("_gemv_conv",)),
    ],
    ids=["deterministic", "packed", "f8"],
)
def test_where_it_does_not_apply(
    format: str,
    how: dict[str, Any],
    fused: tuple[int, int],
    kernels: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `--deterministic`, and with matrices in other forms, launches stay as they were; the
    first product may be one of 8-bit floats."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    ckpt = open_model(f"random:{format}:{tmp_path / 'config.json'}")
    model, state = of(ckpt, **how)
    assert (model.fused[ONE], model.fused[TWO]) == fused
    if any(fused) and DEVICE == "cpu":
        names = launched(monkeypatch)
        got = model.logits(state.stage(numbers(model, 0, 1)))
        assert bool(torch.isfinite(got).all())
        assert {"_product_scan", "_gemv_conv"} & {*names} == {*kernels}
