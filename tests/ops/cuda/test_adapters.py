"""Low-rank adapters on the device: against float64, and whole models against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rbee_worker.ops.adapted import Sites, held
from rbee_worker.ops.cuda.adapters import CudaAdapters
from rbee_worker.ops.cuda.kernels.adapters import add_adapters
from tests.adapters.made import IDS, Adapted, expected, factors, merged, places, write_peft
from tests.archs import ARCHS, oracle, write_safetensors
from tests.ops.cuda.near import DTYPES, randn

NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [20, 1, 0, 3]], ids=str)
def test_against_float64(dtype: torch.dtype, fixed: bool, counts: list[int], device: str) -> None:
    """Slots 1, 0 (none), 2 (only the second part) and 3 (filled again) of a site of two parts."""
    sites, rng, cols = Sites(3, 7), np.random.default_rng(len(counts)), 75
    site = sites.add([("q", 70), ("v", 33)], cols)
    memory = CudaAdapters(sites, device, NAMES[dtype])
    plan = {1: [(7, 0.5), (2, 2.0)], 2: [None, (5, 1.5)], 3: [(1, -1.0), None]}
    exact: dict[tuple[int, int], np.ndarray] = {}
    memory.put(
        3, {site.number: (held(np.ones((2, cols), "f4"), np.ones((70, 2), "f4"), 9.0, "f32"), None)}
    )
    memory.drop(3)
    for slot, parts in plan.items():
        made = []
        for number, part in enumerate(parts):
            if part is None:
                made.append(None)
                continue
            rank, scale = part
            a = rng.standard_normal((rank, cols)).astype("f4") / 9
            b = rng.standard_normal((site.parts[number].rows, rank)).astype("f4")
            a, b = (torch.from_numpy(one).to(dtype).float().numpy() for one in (a, b))
            made.append(held(a, b, scale, "f32"))
            exact[slot, number] = scale * b.astype("f8") @ a.astype("f8")
        memory.put(slot, {site.number: tuple(made)})
    n = sum(counts)
    x, y = randn(n, cols + 3, seed=1, dtype=dtype)[:, 3:], randn(n, 103, seed=2, dtype=dtype)
    slots = np.repeat([1, 0, 2, 3], counts)
    want = y.double().cpu().numpy()
    for row, slot in enumerate(slots):
        for number, part in enumerate(site.parts):
            if (slot, number) in exact:
                more = exact[slot, number] @ x[row].double().cpu().numpy()
                want[row, part.first : part.first + part.rows] += more
    starts = torch.tensor([0, *np.cumsum(counts)], device=device)
    got = add_adapters(
        y.clone(), x, torch.from_numpy(slots).to(device), starts, *memory.table(site), rank=7,
        form=dtype, longest_rows=max(counts), fixed=fixed,
    )  # fmt: skip
    far = np.abs(got.double().cpu().numpy() - want).max() / np.abs(want).max()
    assert far < (2e-6 if dtype == torch.float32 else 3e-3)
    rows = torch.from_numpy(slots == 0).to(device)
    assert torch.equal(got[rows], y[rows])  # untouched


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("llama", marks=pytest.mark.slow),
        # other stacked maps, and experts: the kernels are the same, and the interpreter is slow
        *(pytest.param(name, marks=pytest.mark.long) for name in ("phi3-short", "mixtral")),
    ],
)
def test_different_adapters_in_one_step(name: str, tmp_path: Path) -> None:
    (arch,) = [a for a in ARCHS if a.id == name]
    base = write_safetensors(oracle(arch), tmp_path / "base")
    every = factors(places(base), 3, seed=1)
    some = factors(places(base), 7, ends=("q_proj", "v_proj", "qkv_proj"), seed=2)
    paths = {
        "all": write_peft(tmp_path / "all", every),
        "some": write_peft(tmp_path / "some", some),
    }
    wanted = {
        "": expected(oracle(arch)),
        "all": expected(merged(arch, every, 2.0)),
        "some": expected(merged(arch, some, 2.0)),
    }
    model = Adapted(base, paths, "cuda")

    def check(names: list[str], count: int, chunk: int = 0) -> None:
        for key, got in zip(names, model.logits(names, IDS[:count], chunk), strict=True):
            want = wanted[key][:count]
            assert np.abs(got - want).max() / np.abs(want).max() < 1e-4, key

    check(["some", "", "all"], 5)
    check(["all"], 2, chunk=1)
    check([""], 3)  # nobody has an adapter
