"""Who takes a piece of a product changes nothing, and every piece is taken once in every replay."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.forms import BYTES, at_once
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.pieces import FEW, MANY, ticket
from rbee_worker.ops.cpu.shared.reading import UNMEASURED
from tests.ops.cpu.eager import Eager
from tests.ops.cpu.test_linear import activations, aligned, matrix, product


@given(st.integers(0, 20_000), st.integers(1, 128), st.sampled_from([FEW, MANY]))
def test_a_product_has_a_piece_for_each_thread_or_none(groups, threads, kind):
    count = kind.number(groups, threads)
    assert count == 0 or count >= threads > 1
    assert count * kind.size * kind.part <= groups
    if count == 0:
        assert threads == 1 or groups < kind.size * kind.part * threads


@pytest.mark.parametrize("n", [1, 2, 7, 15, 16, 40])
@pytest.mark.parametrize("name", ["q4_0", "q6_k", "bf16"])
def test_pieces_change_nothing(library, name, n):
    """For threads that come in any order; the last group is not a whole one."""
    m, x = matrix(library, name, 16 * 67 + 3, 256), activations(n, 256)
    bias = np.random.default_rng(0).standard_normal(16 * 69).astype(np.float32)
    want = product(library, m, x, bias=bias)
    assert not np.isnan(want).any()
    for threads in (2, 3):
        pieces = [kind.number(m.rows // 16 + 1, threads) for kind in (FEW, MANY)]
        pieces[1] = pieces[1] or 2  # fewer than three threads get by themselves
        for order in itertools.permutations(range(threads)):
            got = product(library, m, x, bias=bias, nt=threads, order=order, pieces=pieces)
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("n", [1, 20])
def test_threads_at_once_take_each_piece_once(best, n):
    """One entry, replayed many times by more threads than this machine may have cores."""
    threads, m, x = 5, matrix(best, "f32", 16 * 640, 64), activations(n, 64)
    want, header = product(best, m, x), np.array([n], np.int64)
    prepared, y = aligned(24 * 2 * BYTES["exact"]), np.zeros_like(want)
    best["prepare.exact"](
        header.ctypes.data, x=x, stride=64, cols=64, out=prepared, count=0, per=at_once("exact")
    )
    few, many = (kind.number(640, threads) for kind in (FEW, MANY))
    assert few == 40
    assert many == 20
    args = best["linear.f32"].pack(
        w=m.held, x=prepared, y=y, cols=64, rows=m.rows, stride=m.rows, count=0, bias=0,
        ticket=ticket(), few=few, many=many, **UNMEASURED._asdict(),
    )  # fmt: skip
    entries = words([Instruction(best["linear.f32"].address, args.address)])
    team = Team(best, threads)
    for _ in range(200):
        y[:] = np.nan
        team.run(entries, header)
        np.testing.assert_array_equal(y, want)
    team.close()


def test_a_large_product_is_recorded_with_pieces():
    """By two threads; the result is one thread's, which needs none."""
    w = np.random.default_rng(1).standard_normal((16 * 70, 64)).astype(np.float32)
    packed = [Packed(w.view(np.uint8), "F32", w.shape)]
    for n in (1, 20):
        x = torch.from_numpy(activations(n, 64))
        several, alone = Eager(threads=2), Eager(threads=1)
        want = alone.linear(x, alone.matrix(packed))
        assert torch.equal(several.linear(x, several.matrix(packed)), want)
        for eager, few, many in ((several, 4, 2), (alone, 0, 0)):
            product = eager.recorder.entries[-1]
            assert product.kernel.startswith("linear.")
            assert (product.fields["few"], product.fields["many"]) == (few, many)
            assert product.dealt == 70 - 4 * few


def test_tickets_share_no_line():
    tickets = [ticket() for _ in range(100)]
    assert len({t.ctypes.data // 64 for t in tickets}) == 100
    assert all(t.ctypes.data % 64 == 0 for t in tickets)
