"""A row alone and in any batch: equal to the last bit, at small and at real vocabularies."""

import numpy as np
import pytest
import torch

from rbee_worker.ops.reference.sampling import rows
from rbee_worker.types import SamplingParams
from tests.engine.drawn import DrawnSampler

VOCABS = [7, 1_000, 49_152, 128_256]

PARAMS = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=0.8, seed=1),
    SamplingParams(top_k=40, top_p=0.95, seed=2, logprobs=3),
    SamplingParams(temperature=1.7, top_p=0.9, seed=3),
    SamplingParams(min_p=0.02, seed=4, logprobs=0),
    SamplingParams(temperature=0, repetition_penalty=1.3, frequency_penalty=1.0, seed=5),
    SamplingParams(top_k=300, repetition_penalty=1.2, repeat_last_n=4, seed=6),
    SamplingParams(temperature=1.3, presence_penalty=1.0, logit_bias={3: 4.0}, seed=7),
]


@pytest.fixture(autouse=True, params=[1, 2], ids=["1 thread", "2 threads"])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def logits(count: int, vocab: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((count, vocab), dtype=np.float32) * 3
    return torch.from_numpy(z)


def run(vocab: int, members: list[int], slots: list[int], steps: int) -> list[list[object]]:
    """Everything that the members' sequences get, with each its own logits at each step."""
    sampler = DrawnSampler(vocab, 32)
    for member, slot in zip(members, slots, strict=True):
        prompt = [(member * 5 + i) % vocab for i in range(6)]
        sampler.add(slot, PARAMS[member % 8], prompt, eos_ids=[1], choice=member // 8)
    got: list[list[object]] = [[] for _ in members]
    for step in range(steps):
        z = torch.cat([logits(1, vocab, 1000 * step + member) for member in members])
        sampled = sampler.draw(z, slots)
        assert not sampled.errors
        for row, pair in enumerate(zip(sampled.ids, sampled.logprobs, strict=True)):
            got[row].append(pair)
    return got


@pytest.mark.parametrize("vocab", VOCABS)
def test_tokens_do_not_depend_on_the_batch(vocab):
    steps = 3 if vocab < 10_000 else 1
    members = list(range(16 if vocab < 10_000 else 8))
    together = run(vocab, members, [(7 * m + 3) % 32 for m in members], steps)
    backwards = run(vocab, members[::-1], members, steps)
    assert backwards[::-1] == together
    for member in members:
        assert run(vocab, [member], [0], steps) == [together[member]]


@pytest.mark.parametrize("vocab", VOCABS)
def test_sums_do_not_depend_on_the_batch(vocab):
    """What decides a draw, to the last bit: ids alone would hide a difference in rounding."""
    count = 9 if vocab > 10_000 else 67
    z = logits(count, vocab, 5)
    scale = np.linspace(0.5, 3, count)
    least = np.where(np.arange(count) % 2, 0.01, 0.0)
    tops, sums = rows.masses(z, scale, least)
    running = rows.running_sum(sums)
    values, _ = rows.largest(z, min(vocab, 65))
    for row in range(count):
        part = slice(row, row + 1)
        top, one = rows.masses(z[part].clone(), scale[part], least[part])
        assert top[0] == tops[row]
        assert one.tobytes() == sums[part].tobytes()
        assert rows.running_sum(one).tobytes() == running[part].tobytes()
        assert torch.equal(rows.largest(z[part], min(vocab, 65))[0], values[part])


@pytest.mark.parametrize("vocab", VOCABS)
def test_weights_do_not_depend_on_place_or_company(vocab):
    z = logits(3, vocab, 6)
    top = z.amax(dim=1).double()
    scale = torch.full((3,), 1.1, dtype=torch.float64)
    w = rows.weights(z, top, scale)
    x = (z.numpy().astype(float) - top.numpy()[:, None]) * 1.1
    np.testing.assert_allclose(w.numpy(), np.exp(x), rtol=1e-14)
    for start in range(min(vocab, 40)):
        for width in (1, 3, 8, 30):
            cut = slice(start, start + width)
            piece = rows.weights(z[1:2, cut], top[1:2], scale[1:2])
            assert torch.equal(piece, w[1:2, cut])


def test_block_sums_are_sums_of_blocks():
    w = torch.rand(3, 1_300, dtype=torch.float64)
    want = [w[:, :512].sum(1), w[:, 512:1024].sum(1), w[:, 1024:].sum(1)]
    torch.testing.assert_close(rows.block_sums(w), torch.stack(want, dim=1), rtol=1e-14, atol=0)
    assert rows.block_sums(w[:, :5]).shape == (3, 1)
    assert rows.block_sums(w[:, :1024]).shape[1] in (2, 3)


def test_a_running_sum_goes_from_left_to_right():
    w = np.random.default_rng(0).random((3, 3_000)) ** 9
    assert rows.running_sum(w).tobytes() == np.cumsum(w, axis=1).tobytes()


def test_largest_values_and_where_they_are():
    for vocab, n in ((5, 5), (65, 65), (3_000, 65), (49_152, 65), (20_000, 1_025)):
        z = logits(3, vocab, vocab).round(decimals=1)
        values, ids = rows.largest(z, n)
        assert torch.equal(values, z.sort(dim=1, descending=True).values[:, :n])
        assert torch.equal(z.gather(1, ids), values)
        assert all(len(set(row)) == n for row in ids.tolist())


def drawn(sampler: DrawnSampler, z: torch.Tensor, slots: list[int], at: list[int], want: list[int]):
    return sampler.collect(sampler.sample(z, sampler.prepare(slots, at, want)))


MORE = [
    SamplingParams(logit_bias={3: 2.0}, min_tokens=7, seed=8),
    SamplingParams(temperature=0, min_tokens=2, stop_token_ids=tuple(range(0, 50, 3))),
    SamplingParams(min_tokens=3, stop_token_ids=tuple(range(0, 50, 2)), seed=9),
]


@pytest.mark.parametrize("wrong", [0, 1, 2, None])
@pytest.mark.parametrize("params", [*PARAMS[:5], *MORE])
def test_a_draw_counts_while_those_before_it_were_the_draft(params, wrong):
    """Rows of one sequence that are drawn together: each as it is drawn alone; those after a wrong
    draft are rejected, and nothing is reported or counted of them."""
    alone = DrawnSampler(50, 4)
    alone.add(2, params, [1, 2, 3], eos_ids=[3])
    z = logits(5, 50, 8)
    singles = [alone.draw(z[row : row + 1], [2]) for row in range(4)]
    ids = [one.ids[0] for one in singles]
    draft = [token if row != wrong else (token + 1) % 50 for row, token in enumerate(ids[:3])]
    together = DrawnSampler(50, 4)
    together.add(2, params, [1, 2, 3], eos_ids=[3])
    together.add(1, PARAMS[2], [5], eos_ids=[3])
    beside = DrawnSampler(50, 4)
    beside.add(1, PARAMS[2], [5], eos_ids=[3])
    found = drawn(together, z, [2, 2, 2, 2, 1], [3, 4, 5, 6, 1], [*draft, -1, -1])
    counting = 4 if wrong is None else wrong + 1
    assert found.ids == [*ids[:counting], *[-2] * (4 - counting), beside.draw(z[4:], [1]).ids[0]]
    assert found.errors == {}
    assert found.logprobs[:counting] == [one.logprobs[0] for one in singles[:counting]]
    assert found.logprobs[counting:4] == [None] * (4 - counting)
    assert found.logprobs[4] is not None
    together._next[2] = 3 + counting
    again = DrawnSampler(50, 4)  # the same after as many draws
    again.add(2, params, [1, 2, 3], ids[:counting], eos_ids=[3])
    for seed in range(20, 26):
        z = logits(1, 50, seed)
        assert together.draw(z, [2]).ids == again.draw(z, [2]).ids


def test_a_rejected_row_may_be_anything():
    """Not a number in a row that does not count is no error; in one that does it is that row's."""
    sampler = DrawnSampler(50, 4)
    sampler.add(0, SamplingParams(temperature=0), [1])
    z = logits(3, 50, 8)
    z[2] = float("nan")
    first, second, _ = z[:, :].nan_to_num().argmax(dim=1).tolist()
    found = drawn(sampler, z, [0, 0, 0], [1, 2, 3], [first, second + 1, -1])
    assert (found.ids, found.errors) == ([first, second, -2], {})
    found = drawn(sampler, z, [0, 0, 0], [1, 2, 3], [first, second, -1])
    assert found.ids == [first, second, -1]
    assert list(found.errors) == [2]
