"""Bias and penalties: the documented formula, bit for bit, on random logits and histories."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.engine.penalties import Penalties
from rbee_worker.ops.reference.sampling.torch_sampling import TorchBiasTable
from rbee_worker.types import SamplingParams
from tests.engine import oracle

VOCAB = 40
EOS, EXEMPT, STOP = 1, 2, 3
token = st.integers(0, VOCAB - 1)

params_ = st.builds(
    SamplingParams,
    repetition_penalty=st.sampled_from([1.0, 1.1, 1.7, 0.5, 2.0, 1e-3]),
    repeat_last_n=st.sampled_from([-1, 0, 1, 2, 5, 128]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.3, -2.0, 2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.7, -2.0, 2.0]),
    logit_bias=st.dictionaries(token, st.sampled_from([-100.0, -1.5, 0.0, 3.0]), max_size=4),
    min_tokens=st.sampled_from([0, 0, 1, 4]),
    ignore_eos=st.booleans(),
    stop_token_ids=st.sampled_from([(), (STOP,)]),
)


class Table(Penalties):
    """For sequences whose lengths it keeps: their next draws are edited and counted."""

    def add(self, slot, params, prompt_ids, output_ids, **options):
        self.next = {**vars(self).get("next", {}), slot: len(prompt_ids) + len(output_ids)}
        return super().add(slot, params, prompt_ids, output_ids, **options)

    def edit(self, z, slots):
        change = self.prepare(slots, [self.next[slot] for slot in slots])
        return None if change is None else self.apply(z, change)

    def push(self, slots, ids):
        change = self.prepare(slots, [self.next[slot] for slot in slots])
        if change is not None:
            self.count(change, ids)
        for slot in slots:
            self.next[slot] += 1


def penalties(*params: SamplingParams, prompts: list[list[int]], outputs=None) -> Table:
    table = Table(VOCAB, TorchBiasTable(8, torch.device("cpu")))
    outputs = outputs or [[] for _ in params]
    for slot, (p, prompt, output) in enumerate(zip(params, prompts, outputs, strict=True)):
        table.add(slot, p, prompt, output, eos_ids=[EOS], exempt_ids=[EXEMPT])
    return table


def logits(rows: int, seed: int) -> torch.Tensor:
    z = np.random.default_rng(seed).standard_normal((rows, VOCAB)).astype("f4") * 5
    z[:, 7], z[:, 8], z[:, 9] = 0.0, -0.0, -np.inf
    return torch.from_numpy(z)


def expected(z, p: SamplingParams, prompt, output) -> np.ndarray:
    banned = {*p.stop_token_ids} | (set() if p.ignore_eos else {EOS})
    return oracle.adjusted(z.numpy(), p, prompt, output, exempt={EOS, EXEMPT}, banned=banned)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.astype("f4").tobytes() == b.astype("f4").tobytes()


histories = st.lists(
    st.tuples(params_, st.lists(token, max_size=12), st.lists(token, max_size=9)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(histories, st.integers(0, 2**32 - 1))
def test_logits_equal_the_formula_after_every_token(rows, seed):
    params, prompts, outputs = (list(column) for column in zip(*rows, strict=True))
    table = penalties(*params, prompts=prompts)
    for step in range(max(map(len, outputs)) + 1):
        live = [slot for slot, output in enumerate(outputs) if len(output) >= step]
        z = logits(len(live), seed + step)
        raw = z.clone()
        undo = table.edit(z, live)
        for row, slot in enumerate(live):
            want = expected(raw[row], params[slot], prompts[slot], outputs[slot][:step])
            assert z[row].numpy().tolist() == want.tolist()
        if undo is not None:
            undo(z)
        assert same_bits(z.numpy(), raw.numpy())
        more = [slot for slot in live if len(outputs[slot]) > step]
        table.push(more, [outputs[slot][step] for slot in more])


@settings(max_examples=60, deadline=None)
@given(params_, st.lists(token, max_size=12), st.lists(token, min_size=1, max_size=20), st.data())
def test_resuming_gives_the_state_of_going_on(params, prompt, output, data):
    cut = data.draw(st.integers(0, len(output)))
    straight = penalties(params, prompts=[prompt])
    resumed = penalties(params, prompts=[prompt], outputs=[output[:cut]])
    for one in output:
        straight.push([0], [one])
    for one in output[cut:]:
        resumed.push([0], [one])
    assert straight.counts(0) == resumed.counts(0)
    a, b = logits(1, 5), logits(1, 5)
    straight.edit(a, [0])
    resumed.edit(b, [0])
    assert same_bits(a.numpy(), b.numpy())


def test_one_is_bitwise_off_even_beside_other_penalties():
    prompt = list(range(VOCAB))
    plain = penalties(SamplingParams(), prompts=[prompt])
    z = logits(1, 1)
    assert plain.edit(z, [0]) is None
    # A bias on one token makes the slot active; every other bit stays.
    biased = penalties(SamplingParams(logit_bias={5: 1.0}, repeat_last_n=0), prompts=[prompt])
    before = z.clone()
    biased.edit(z, [0])
    assert z[0, 5] == before[0, 5] + 1
    z[0, 5] = before[0, 5]
    assert same_bits(z.numpy(), before.numpy())


def test_once_per_distinct_token_and_by_sign():
    z = torch.tensor([[2.0, -2.0, 0.0] + [1.0] * (VOCAB - 3)])
    table = Table(VOCAB, TorchBiasTable(1, torch.device("cpu")))
    params = SamplingParams(repetition_penalty=2.0, repeat_last_n=-1)
    table.add(0, params, [0, 0, 0, 1, 1, 2], [], eos_ids=[], exempt_ids=[])
    table.edit(z, [0])
    assert z[0, :4].tolist() == [1.0, -4.0, 0.0, 1.0]


def test_the_window_covers_prompt_and_output_and_moves():
    params = SamplingParams(repetition_penalty=1.5, repeat_last_n=3)
    table = penalties(params, prompts=[[10, 11, 12, 13]])
    assert table.counts(0) == {11: (1, 0), 12: (1, 0), 13: (1, 0)}
    table.push([0], [11])
    assert table.counts(0) == {12: (1, 0), 13: (1, 0), 11: (1, 0)}
    table.push([0], [EXEMPT])  # takes a place in the window, is not counted
    assert table.counts(0) == {13: (1, 0), 11: (1, 0)}
    table.push([0], [0])
    table.push([0], [0])
    table.push([0], [0])
    assert table.counts(0) == {0: (3, 0)}


def test_zero_and_minus_one_look_back_on_everything():
    prompt = [token % VOCAB for token in range(5, 500)]
    for everything in (0, -1):
        params = SamplingParams(repetition_penalty=1.5, repeat_last_n=everything)
        counts = penalties(params, prompts=[prompt]).counts(0)
        assert set(counts) == set(range(VOCAB)) - {EOS, EXEMPT}


def test_only_generated_tokens_pay_presence_and_frequency():
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    table = penalties(params, prompts=[[20, 21]])
    assert table.counts(0) == {}
    for one in (21, 22, 22, EOS):
        table.push([0], [one])
    z = torch.zeros(1, VOCAB)
    table.edit(z, [0])
    assert z[0, [20, 21, 22, EOS]].tolist() == [0.0, -0.75, -1.0, -0.75]


def test_entries_outgrow_their_first_room_and_slots_are_reused():
    vocab = 5000
    table = Table(vocab, TorchBiasTable(2, torch.device("cpu")))
    params = SamplingParams(repetition_penalty=2.0, repeat_last_n=0)
    table.add(0, params, [4999], [], eos_ids=[], exempt_ids=[])
    for one in range(1000):
        table.push([0], [one])
    z = torch.ones(1, vocab)
    table.edit(z, [0])
    assert z.sum() == vocab - 1001 / 2
    table.remove(0)
    table.add(0, params, [7], [], eos_ids=[], exempt_ids=[])
    z = torch.ones(1, vocab)
    table.edit(z, [0])
    assert (z != 1).nonzero().tolist() == [[0, 7]]


def test_a_ban_ends_with_min_tokens_and_costs_nothing_after():
    params = SamplingParams(min_tokens=2, stop_token_ids=(STOP,))
    table = penalties(params, prompts=[[5]])
    for banned in (True, True, False):
        z = torch.zeros(1, VOCAB)
        undo = table.edit(z, [0])
        assert (z == -torch.inf).nonzero()[:, 1].tolist() == ([EOS, STOP] if banned else [])
        assert (undo is None) is not banned
        if banned:
            table.push([0], [9])
    late = penalties(params, prompts=[[5]], outputs=[[9, 9]])
    assert late.edit(torch.zeros(1, VOCAB), [0]) is None
