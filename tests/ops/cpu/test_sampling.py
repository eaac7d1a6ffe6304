"""Sampling by kernels keeps every promise of the sampler, and gives the tokens that torch gives.

The sampler's own tests run here once more with kernels in torch's place.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from rbee_worker.config import parse
from rbee_worker.engine.messages import Submit, Tokens
from rbee_worker.loading.load import load_engine
from rbee_worker.ops.cpu.backend import sampling as cpu_sampling
from rbee_worker.ops.cpu.backend.sampling import CpuSampling
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.sampling import DrawColumns, DrawParams
from rbee_worker.types import SamplingParams
from tests import tiny
from tests.engine import test_sampler, test_sampler_batch, test_sampler_penalties
from tests.engine.drawn import DrawnSampler
from tests.ops.cpu.bridge import TorchLogits
from tests.ops.reference import test_filters, test_logprobs

LAST = 1 - 2.0**-53
TORCH = TorchSampling(torch.device("cpu"))
COPIED = {  # tests, and what in their module is replaced by the kernels'
    test_sampler: "DrawnSampler",
    test_sampler_batch: "DrawnSampler",
    test_filters: "draw",
    test_logprobs: "score",
    test_sampler_penalties: "TorchBiasTable",
}
ELSEWHERE = (  # of torch's own building blocks
    "test_sums_do_not_depend_on_the_batch",
    "test_weights_do_not_depend_on_place_or_company",
    "test_block_sums_are_sums_of_blocks",
    "test_a_running_sum_goes_from_left_to_right",
    "test_largest_values_and_where_they_are",
    "test_ids_equal_the_definition",
)


@cache
def team(threads: int) -> Team:
    return Team(Library(isa.choose(os.environ.get("RBEE_CPU_ISA", ""))), threads)


@cache
def made(vocab: int, threads: int = 2) -> TorchLogits:
    return TorchLogits(CpuSampling(team(threads)._library, team(threads), vocab))


def _draw(z, columns):
    ids = made(z.shape[1]).choose(z, by_row(columns))
    return torch.tensor(ids.host())


INSTEAD = {
    "DrawnSampler": lambda vocab, seqs: DrawnSampler(vocab, seqs, made(vocab)),
    "draw": _draw,
    "score": lambda z, ids, tops: made(z.shape[1]).score(z, ids, tops),
    "TorchBiasTable": lambda seqs, device: made(7).bias_table(seqs),
}


@pytest.fixture(scope="module", autouse=True)
def kernels():
    with pytest.MonkeyPatch.context() as patch:
        for module, name in COPIED.items():
            patch.setattr(module, name, INSTEAD[name])
        yield


for _module in COPIED:
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _name not in ELSEWHERE:
            assert _name not in globals()
            globals()[_name] = _test


# ---- beside torch


def rows(rng: np.random.Generator, count: int, vocab: int) -> np.ndarray:
    """Logits of every kind: flat and peaked, with many ties, with holes, with infinity and nan."""
    z = rng.standard_normal((count, vocab)) * rng.choice([0.01, 0.1, 1, 4])
    step = rng.choice([0, 0, 0.25, 1, 8])
    z = np.round(z / step) * step if step else z
    z = z.astype(np.float32)
    if rng.random() < 0.3:
        z[rng.random(z.shape) < rng.choice([0.3, 0.99])] = -np.inf
    if rng.random() < 0.3:
        z[z == 0] = rng.choice(np.array([-0.0, 0.0], np.float32), int((z == 0).sum()))
    if rng.random() < 0.1:
        z[0, rng.integers(vocab)] = np.nan
    if rng.random() < 0.1:
        z[-1, rng.integers(vocab)] = np.inf
    return z


def by_row(columns: DrawColumns, greedy: np.ndarray | None = None) -> list[DrawParams | None]:
    """Columns as `choose` takes them."""
    rows: list[DrawParams | None] = [
        DrawParams(*row) for row in zip(*(c.tolist() for c in columns), strict=True)
    ]
    cold = np.zeros(len(rows), bool) if greedy is None else greedy
    return [None if c else row for row, c in zip(rows, cold.tolist(), strict=True)]


def parameters(rng: np.random.Generator, count: int) -> DrawColumns:
    u = np.concatenate([[0.0, 0.5, LAST], rng.random(9)])
    return DrawColumns(
        1 / rng.choice([0.05, 0.3, 0.7, 1.0, 1.5, 2.0], count),
        rng.choice([0, 0, 1, 2, 5, 40, 300, 1000, 3000], count),
        rng.choice([1.0, 1.0, 0.999, 0.95, 0.5, 0.25, 1e-9, 1 - 1e-12], count),
        rng.choice([0.0, 0.0, 1e-4, 0.05, 0.5, 1.0], count),
        rng.choice(u, count),
    )


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 511, 512, 513, 1300, 49_152])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_masked_row_draws_as_if_all_other_tokens_were_at_minus_infinity(vocab, threads):
    rng, sampling = np.random.default_rng(vocab), made(vocab, threads)
    for _ in range(30 if vocab < 10_000 else 6):
        count = int(rng.integers(1, 7))
        z, params = rows(rng, count, vocab), by_row(parameters(rng, count), rng.random(count) < 0.3)
        z[np.isnan(z)] = 0.0
        masked = rng.permutation(count)[: int(rng.integers(1, count + 1))].tolist()
        allowed = rng.random((count, vocab)) < rng.choice([0.0, 0.01, 0.5, 1.0])
        bits = {row: bits_of(allowed[row], rng) for row in masked}
        plain = z.copy()
        for row in masked:
            plain[row, ~allowed[row]] = -np.inf
        before, given = z.copy(), torch.from_numpy(z)
        want = TORCH.choose(torch.from_numpy(plain), params)
        assert sampling.choose(given, params, bits) == want
        assert TORCH.choose(given, params, bits) == want
        assert np.array_equal(z.view(np.int32), before.view(np.int32))
        assert sampling.choose(given, params) == TORCH.choose(given, params)


def bits_of(allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask, with bits beyond the vocabulary that must not count."""
    words = -(-(len(allowed) + 1) // 32)
    every = rng.random(32 * words) < 0.5
    every[: len(allowed)] = allowed
    return np.packbits(every, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("vocab", [1, 2, 7, 33, 512, 513, 1300, 5000, 20_000, 49_152])
def test_ids_are_torchs(vocab):
    """Thousands of rows with parameters of their own; not one token differs."""
    rng, seen = np.random.default_rng(vocab), 0
    while seen < (600 if vocab < 10_000 else 120):
        count = int(rng.integers(1, 9))
        z, columns = torch.from_numpy(rows(rng, count, vocab)), parameters(rng, count)
        greedy = rng.random(count) < 0.2
        assert made(vocab).choose(z, by_row(columns, greedy)) == TORCH.choose(
            z, by_row(columns, greedy)
        )
        assert made(vocab).greedy(z) == TORCH.greedy(z)
        seen += count


@pytest.mark.parametrize("vocab", [7, 513, 5000, 49_152])
def test_scores_are_torchs(vocab):
    rng = np.random.default_rng(vocab)
    for _ in range(40 if vocab < 10_000 else 8):
        count = int(rng.integers(1, 9))
        z = torch.from_numpy(rows(rng, count, vocab))
        ids, tops = rng.integers(0, vocab, count).tolist(), rng.choice([0, 1, 5, 20], count)
        found, want = (s.score(z, ids, tops.tolist()) for s in (made(vocab), TORCH))
        for one, other in zip(found, want, strict=True):
            np.testing.assert_allclose(one.logprob, other.logprob, rtol=0, atol=1e-12)
            if not np.isnan(other.logprob):
                assert [t for t, _ in one.top] == [t for t, _ in other.top]
                pairs = zip(one.top, other.top, strict=True)
                assert all(a == b or abs(a - b) < 1e-12 for (_, a), (_, b) in pairs)


# ---- threads and company


@pytest.mark.parametrize("vocab", [33, 5000, 49_152])
def test_a_row_is_the_same_on_any_number_of_threads_and_alone(vocab):
    """To the last bit of the sums that decide, which ids alone would not show."""
    rng = np.random.default_rng(vocab)
    z, columns = torch.from_numpy(rows(rng, 11, vocab)), parameters(rng, 11)
    cold, tops = np.arange(11) % 4 == 0, [n % 5 for n in range(11)]
    ids = list(range(11))
    want = made(vocab).choose(z, by_row(columns, cold)).host()
    scores = made(vocab).score(z, ids, tops)
    for threads in (1, 3):
        assert made(vocab, threads).choose(z, by_row(columns, cold)).host() == want
        assert repr(made(vocab, threads).score(z, ids, tops)) == repr(scores)
    for row in range(11):
        part, one = z[row : row + 1].clone(), by_row(columns, cold)[row : row + 1]
        assert made(vocab).choose(part, one).host() == [want[row]]
        assert repr(made(vocab).score(part, [row], tops[row : row + 1])) == repr([scores[row]])


def test_rows_need_not_follow_each_other():
    z = torch.randn(6, 700, generator=torch.Generator().manual_seed(1))
    want = TORCH.greedy(z).host()
    assert made(700).greedy(z[::2]).host() == want[::2]
    assert made(600).greedy(z[:, 50:650]) == TORCH.greedy(z[:, 50:650])
    assert made(700).greedy(z[:0]).host() == []


def test_what_is_gathered_from_groups_is_enough():
    """A row whose largest logits all lie in one group of columns, and one that falls steadily."""
    z = torch.zeros(2, 5000)
    z[0, 16 * torch.arange(32)] = torch.arange(32).float() + 1
    z[1] = -torch.arange(5000) / 100
    for top_k in (1, 31, 32, 33, 100, 159, 4999):
        for u in (0.0, 0.3, 0.999, LAST):
            columns = DrawColumns(*(np.array([x] * 2) for x in (0.1, top_k, 0.99, 0.0, u)))
            cold = np.zeros(2, bool)
            assert made(5000).choose(z, by_row(columns, cold)) == TORCH.choose(
                z, by_row(columns, cold)
            )


SCRIPT = """
import os, sys
import numpy as np, torch
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.backend.sampling import CpuSampling
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.types import SamplingParams
from tests.engine.drawn import DrawnSampler

torch.set_num_threads(4)
library = Library(isa.choose())
sampler = DrawnSampler(50_000, 8, CpuSampling(library, Team(library, 2), 50_000))
kinds = [
    dict(temperature=0), dict(seed=1), dict(top_p=0.9), dict(top_k=40, min_p=0.1),
    dict(temperature=0, repetition_penalty=1.2, logprobs=5), dict(logprobs=0, logit_bias={3: 1.0}),
]
z = np.random.default_rng(0).standard_normal((6, 50_000)).astype("f4")
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
for slot, kind in enumerate(kinds):
    sampler.add(slot, SamplingParams(**kind), [1, 2, 3] * 100)
for _ in range(5):
    sampler.draw(z, [0, 1, 2, 3, 4, 5])
    sampler.draw(z[:1], [0])
own = threads() - before
torch.rand(4_000_000).exp().sum()  # this does wake torch's
sys.exit(0 if own == 0 and threads() > before else f"{own} threads, then {threads() - before}")
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_no_other_threads_are_woken():
    root = str(Path(__file__).parents[3])
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"PYTHONPATH": root}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("trace", [False, True])
def test_the_engine_samples_with_it(trace, tmp_path):
    model = str(tiny.write_safetensors(tmp_path / "tiny"))
    given = {"model": model, "backend": "cpu", "threads": 1}
    before = torch.get_num_threads()
    try:
        settings = parse(given | ({"trace": str(tmp_path / "t.json")} if trace else {}), {})
        engine, _ = load_engine(settings, lambda _: None)
    finally:
        torch.set_num_threads(before)
    assert isinstance(engine.runner.sampler._sampling, CpuSampling)
    params = SamplingParams(max_tokens=5, top_p=0.9, seed=3, repetition_penalty=1.2, logprobs=1)
    engine.submit(Submit(seq="a", prompt_ids=(5, 6, 7), params=params, prompt_logprobs=True))
    told = []
    while not engine.idle:
        told += engine.step()
    assert sum(len(m.ids) for m in told if isinstance(m, Tokens)) == 5


def test_its_kernels_are_known_beforehand():
    assert set(cpu_sampling.KERNELS) <= set(made(7).sampling._library._kernels)


# ---- on every instruction set


def test_exp_of_float64(library):
    """Within 1 ulp of e^x; 0 where that is hardly a normal number; the same bits everywhere."""
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [-rng.random(4000) * 40, -rng.random(2000) * 750, -(2.0 ** -np.arange(0, 60))]
    )
    x = np.concatenate([x, [0.0, -0.0, -707.0, -745.2, -800.0, -1e300, -np.inf]])
    x = np.concatenate([x, np.zeros(-len(x) % 16)])
    got = np.empty_like(x)
    library["probe.exp64"](x=x, y=x, z=x, out=got, n=len(x) // 16)
    near = x >= -707
    want = np.exp(x[near].astype(np.longdouble))
    assert (np.abs(got[near] - want) / np.spacing(want.astype(float))).max() < 1.0
    assert (got[x == 0] == 1).all()
    assert (got[~near] == 0).all()
    assert FIRST.setdefault("exp", got.tobytes()) == got.tobytes()


FIRST: dict[str, bytes] = {}


def test_choices_on_every_instruction_set(library):
    """Ids and scores are the same bits."""
    rng = np.random.default_rng(9)
    z, columns = torch.from_numpy(rows(rng, 40, 3000)), parameters(rng, 40)
    one = Team(library, 1)
    sampling = TorchLogits(CpuSampling(library, one, 3000))
    ids = sampling.choose(z, by_row(columns, np.arange(40) % 7 == 0))
    assert ids == TORCH.choose(z, by_row(columns, np.arange(40) % 7 == 0))
    scores = repr((ids, sampling.score(z, [5] * 40, [3] * 40))).encode()
    assert FIRST.setdefault("ids", scores) == scores
    one.close()
