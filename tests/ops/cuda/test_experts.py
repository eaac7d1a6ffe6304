"""Experts on the device against float64, for few rows and for many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.cuda.kernels.experts import experts as module
from rbee_worker.ops.cuda.kernels.experts import few as few_file
from rbee_worker.ops.cuda.kernels.experts import many as many_file
from rbee_worker.ops.cuda.kernels.experts.experts import experts, reads_by_row
from rbee_worker.ops.cuda.kernels.experts.few import FewShape
from rbee_worker.ops.cuda.kernels.experts.many import TileShape
from rbee_worker.ops.cuda.kernels.experts.sort import sort
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.plan import CudaPlanOps
from rbee_worker.ops.reference.experts import activate
from rbee_worker.ops.reference.ops import DTYPES

BOUNDS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # relative to the norm


@dataclass
class Mixture:
    """Random experts and the rows that use them; form: gated, plain or clamped."""

    n: int
    form: str = "gated"
    count: int = 6
    top: int = 3
    dim: int = 40
    width: int = 24
    kind: str = "silu"
    weighted: bool = True

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.n)
        rows = self.width if self.form == "plain" else 2 * self.width
        self.x = torch.randn(self.n, self.dim, generator=g)
        self.up = torch.randn(self.count, rows, self.dim, generator=g) * 0.3
        self.down = torch.randn(self.count, self.dim, self.width, generator=g) * 0.3
        self.biased = self.form != "gated"
        self.up_bias = torch.randn(self.count * rows, generator=g)
        self.down_bias = torch.randn(self.count * self.dim, generator=g)
        self.ids = torch.rand(self.n, self.count, generator=g).argsort(1)[:, : self.top]
        self.ids = self.ids.sort(1).values.int()
        self.ids[self.n // 2 :] = self.ids[self.n // 2].clone()  # many rows share their experts
        self.weights = torch.rand(self.n, self.top, generator=g)
        self.limit = 0.7 if self.form == "clamped" else None

    def run(
        self, device: str, dtype: torch.dtype, rows: slice = slice(None), *, added: bool = False
    ) -> Tensor:
        put = lambda t: t.to(device, dtype).contiguous()  # noqa: E731
        return experts(
            put(self.x[rows]),
            self.ids[rows].to(device),
            self.weights[rows].to(device) if self.weighted else None,
            put(self.up),
            put(self.down),
            self.kind,  # type: ignore[arg-type]
            up_bias=self.up_bias.to(device) if self.biased else None,
            down_bias=self.down_bias.to(device) if self.biased else None,
            limit=self.limit,
            residual=put(self.stream()[rows]) if added else None,
        )

    def exact(self, dtype: torch.dtype) -> np.ndarray:
        """One row and expert after another in float64, from the rounded inputs."""
        x, up, down = (t.to(dtype).double() for t in (self.x, self.up, self.down))
        up_bias = self.up_bias.double().view(self.count, -1)
        down_bias = self.down_bias.double().view(self.count, -1)
        out = torch.zeros(self.n, self.dim, dtype=torch.float64)
        for row in range(self.n):
            for j, e in enumerate(self.ids[row].tolist()):
                h = up[e] @ x[row] + (up_bias[e] if self.biased else 0)
                if self.form == "plain":
                    h = activate(h, self.kind)  # type: ignore[arg-type]
                else:
                    a, b = h.chunk(2)
                    if self.limit is not None:
                        a, b = a.clamp(max=self.limit), b.clamp(-self.limit, self.limit) + 1
                    h = activate(a, self.kind) * b  # type: ignore[arg-type]
                y = down[e] @ h + (down_bias[e] if self.biased else 0)
                out[row] += y * (float(self.weights[row, j]) if self.weighted else 1.0)
        return out.numpy()

    def stream(self) -> Tensor:
        """What the experts' result is added to."""
        return torch.randn(self.n, self.dim, generator=torch.Generator().manual_seed(1))


def error(got: Tensor, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.double().cpu().numpy() - want) / np.linalg.norm(want))


@pytest.fixture(params=[pytest.param("few", marks=pytest.mark.slow), "many"])
def form(request, monkeypatch):
    """Every number of rows by one form; what `torch.empty` gives is poisoned."""
    monkeypatch.setattr(module, "reads_by_row", lambda *_: request.param == "few")
    empty = torch.empty

    def poisoned(*shape, **how):
        made = empty(*shape, **how)
        if made.is_floating_point():
            return made.fill_(float("nan"))
        return made.fill_(torch.iinfo(made.dtype).max // 2)

    monkeypatch.setattr(torch, "empty", poisoned)
    return request.param


@pytest.mark.parametrize("kind", ["gated", "plain", "clamped"])
@pytest.mark.parametrize("n", [1, 21])
def test_equals_float64(form, kind, n, device, dtypes):
    rows = min(n, 4) if form == "few" else n
    for dtype in dtypes:
        m = Mixture(rows, kind, kind="gelu_quick" if kind == "clamped" else "silu")
        got = m.run(device, dtype)
        assert got.dtype == dtype
        assert error(got, m.exact(dtype)) < BOUNDS[dtype]


@pytest.mark.parametrize("weighted", [True, False])
def test_edges_of_tiles(form, weighted, device):
    """Widths that no tile divides, one expert a row, more experts than pairs."""
    for m in (
        Mixture(2, "gated", 9, 1, 264, 72, weighted=weighted),
        Mixture(5, "plain", 2, 2, 130, 98, "relu2", weighted=weighted),
    ):
        assert error(m.run(device, torch.float32), m.exact(torch.float32)) < 2e-6


@pytest.mark.parametrize("kind", ["gated", "plain"])
def test_bulk_copies(kind, device, dtypes, monkeypatch):
    """Also of columns and rows beyond a matrix's edges, and of other experts' rows."""
    shape = TileShape(16, 64, 32, 2, 4, bulk=True)
    monkeypatch.setattr(many_file, "_shapes", lambda *_: (shape, shape))
    monkeypatch.setattr(module, "reads_by_row", lambda *_: False)
    for dtype in dtypes:
        m = Mixture(21, kind, dim=136, width=72)
        assert error(m.run(device, dtype), m.exact(dtype)) < BOUNDS[dtype]


def test_a_sum_with_the_residual(form, device, dtypes):
    m = Mixture(3)
    for dtype in dtypes:
        want = m.exact(dtype) + m.stream().to(dtype).double().numpy()
        assert error(m.run(device, dtype, added=True), want) < BOUNDS[dtype]


def test_few_rows_with_all_loads_at_once(device, monkeypatch):
    shape = FewShape(8, 16, 0, 4)
    monkeypatch.setattr(few_file, "_first_shape", lambda *_: shape)
    monkeypatch.setattr(few_file, "_second_shape", lambda *_: shape)
    m = Mixture(2, "clamped", kind="gelu_quick")
    assert error(m.run(device, torch.float32), m.exact(torch.float32)) < 2e-6


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "sigmoid", "tanh"])
def test_activations(kind, device):
    m = Mixture(2, "gated", kind=kind)
    assert error(m.run(device, torch.float32), m.exact(torch.float32)) < 2e-6


@pytest.mark.usefixtures("rows_alike")
def test_a_row_does_not_depend_on_the_others(form, device, dtypes):
    m = Mixture(21 if form == "many" else 4, "clamped", kind="gelu_quick")
    for dtype in dtypes:
        whole = m.run(device, dtype)
        for rows in (slice(0, 1), slice(m.n - 1, m.n), slice(1, 3)):
            assert torch.equal(m.run(device, dtype, rows), whole[rows])


def test_the_form_follows_from_the_numbers():
    assert reads_by_row(1, 8, 128)
    assert reads_by_row(8, 8, 128)
    assert not reads_by_row(9, 8, 128)
    assert not reads_by_row(17, 1, 128)
    assert reads_by_row(4, 2, 8)
    assert not reads_by_row(5, 2, 8)


def test_no_rows(device):
    assert Mixture(2).run(device, torch.float32, slice(0, 0)).shape == (0, 40)


@pytest.mark.parametrize(("n", "top", "count"), [(1, 1, 5), (7, 3, 4), (300, 2, 9)])
def test_tiles_have_every_pair_once_by_expert(n, top, count, device, monkeypatch):
    g = torch.Generator().manual_seed(n)
    ids = torch.randint(0, count, (n, top), generator=g, dtype=torch.int32)
    tiles = sort(ids.to(device), count, 16)
    flat = ids.flatten()
    assert tiles.order.tolist() == flat.argsort(stable=True).tolist()
    seen = []
    for owner, first, end in zip(*(t.tolist() for t in tiles[1:4]), strict=True):
        if owner >= 0:
            pairs = tiles.order[first : min(end, first + 16)].tolist()
            assert pairs
            assert all(flat[p] == owner for p in pairs)
            seen += pairs
    assert seen == tiles.order.tolist()


def in_blocks(values: np.ndarray) -> tuple[Packed, np.ndarray]:
    """A matrix in 8-bit floats with a scale for each 128 columns, and what it means."""
    bits = torch.from_numpy(values).to(torch.float8_e4m3fn)
    rows, cols = values.shape
    scales = torch.linspace(0.02, 0.3, rows * cols // 128).view(rows, -1)
    parts = scales[:, :, None].view(torch.uint8), bits.view(rows, -1, 128).view(torch.uint8)
    packed = Packed(torch.cat(parts, 2).flatten(1).numpy(), "F8_B128", (rows, cols))
    return packed, decode(packed).astype("f8")


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_stacks_in_8_bits(form, dtype, device, monkeypatch):
    """As FP8 checkpoints have them: gates and ups apart, each 128 columns with their scale."""
    monkeypatch.setattr(few_file, "_first_shape", lambda *_: FewShape(64, 256, 2, 4))
    monkeypatch.setattr(few_file, "_second_shape", lambda *_: FewShape(64, 128, 2, 4))
    rng, n, count, dim, width = np.random.default_rng(4), 3, 3, 256, 128
    made = [[in_blocks(rng.standard_normal((width, dim))) for _ in range(2)] for _ in range(count)]
    ends = [in_blocks(rng.standard_normal((dim, width))) for _ in range(count)]
    ops = CudaOps(device, dtype, planes=False)
    up = ops.stack([[packed for packed, _ in pair] for pair in made])
    down = ops.stack([[packed] for packed, _ in ends])
    assert (up.held, up.nbytes) == ("f8", count * 2 * width * (dim + dim // 128 * 4))
    plan = CudaPlanOps(dtype)
    assert plan.stack([[packed for packed, _ in pair] for pair in made]).nbytes == up.nbytes
    x = torch.from_numpy(rng.standard_normal((n, dim)) / 8).to(device, DTYPES[dtype])
    ids = torch.tensor([[0, 2], [0, 1], [1, 2]], dtype=torch.int32, device=device)
    weights = torch.tensor([[0.5, 0.25], [1.0, 0.5], [0.3, 0.7]], device=device)
    got = ops.now.experts(x, ids, weights, up, down, "silu")
    want = np.zeros((n, dim))
    for row in range(n):
        for e, w in zip(ids[row].tolist(), weights[row].tolist(), strict=True):
            a, b = (whole @ x[row].double().cpu().numpy() for _, whole in made[e])
            want[row] += w * (ends[e][1] @ (a / (1 + np.exp(-a)) * b))
    assert error(got, want) < BOUNDS[DTYPES[dtype]]
