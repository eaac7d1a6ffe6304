"""The sampler as the engine uses it: every parameter changes something, and only what it should."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.engine.philox import uniforms
from rbee_worker.types import SamplingParams
from tests.engine import oracle
from tests.engine.drawn import DrawnSampler

VOCAB, EOS, EXEMPT, STOP = 50, 1, 2, 3
INF = float("inf")


def logits(step: int, scale: float = 2.0, vocab: int = VOCAB) -> torch.Tensor:
    rng = np.random.default_rng(step)
    return torch.from_numpy((rng.standard_normal((1, vocab)) * scale).astype("f4"))


def generate(
    params: SamplingParams,
    *,
    prompt=(4, 5, 6),
    output=(),
    steps: int = 30,
    choice: int = 0,
    z=logits,
    slot: int = 0,
) -> list[int]:
    """Ids of one sequence over logits that depend on the step only."""
    sampler = DrawnSampler(VOCAB, 4)
    sampler.add(slot, params, prompt, output, eos_ids=[EOS], exempt_ids=[EXEMPT], choice=choice)
    return [
        sampler.draw(z(step), [slot]).ids[0] for step in range(len(output), len(output) + steps)
    ]


def constant(values: dict[int, float]):
    """The same logits at every step: `values`, 0 elsewhere."""
    row = torch.zeros(1, VOCAB)
    for token, value in values.items():
        row[0, token] = value
    return lambda step: row.clone()


# ---- every parameter, at an extreme value, changes the outcome


def test_temperature_zero_is_the_argmax():
    want = [int(logits(step).argmax()) for step in range(30)]
    assert generate(SamplingParams(temperature=0)) == want
    assert generate(SamplingParams(temperature=2, seed=1)) != want
    assert generate(SamplingParams(temperature=1e-9, seed=1)) == want


def test_temperature_spreads():
    cold = generate(SamplingParams(temperature=0.1, seed=3), z=constant({9: 2}), steps=60)
    hot = generate(SamplingParams(temperature=2, seed=3), z=constant({9: 2}), steps=60)
    assert set(cold) == {9}
    assert len(set(hot)) > 20


@pytest.mark.parametrize("extreme", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}])
def test_the_narrowest_cut_leaves_the_argmax(extreme):
    free = generate(SamplingParams(temperature=2, seed=4))
    cut = generate(SamplingParams(temperature=2, seed=4, **extreme))
    assert cut == [int(logits(step).argmax()) for step in range(30)] != free


def test_repetition_penalty_turns_from_repeated_tokens():
    z = constant({9: 3.0, 8: 2.9, 7: 2.8})
    greedy = SamplingParams(temperature=0)
    assert generate(greedy, z=z, steps=4) == [9, 9, 9, 9]
    penal = SamplingParams(temperature=0, repetition_penalty=1.5)
    assert generate(penal, z=z, steps=4) == [9, 8, 7, 9]
    assert generate(penal, z=z, steps=2, prompt=[9, 8]) == [7, 9]
    # A penalty below 1 rewards: what was said last wins.
    reward = SamplingParams(temperature=0, repetition_penalty=0.5)
    assert generate(reward, z=z, steps=3, prompt=[7]) == [7, 7, 7]


def test_repeat_last_n_limits_the_window():
    z = constant({9: 3.0, 8: 2.9, 7: 2.8})
    one = SamplingParams(temperature=0, repetition_penalty=1.5, repeat_last_n=1)
    assert generate(one, z=z, steps=4) == [9, 8, 9, 8]
    everything = SamplingParams(temperature=0, repetition_penalty=1.5, repeat_last_n=0)
    long_ago = [9, *[6] * 200]
    assert generate(everything, z=z, steps=1, prompt=long_ago) == [8]
    default = SamplingParams(temperature=0, repetition_penalty=1.5)  # 128 tokens
    assert generate(default, z=z, steps=1, prompt=long_ago) == [9]


@pytest.mark.parametrize("exempt", [EOS, EXEMPT])
def test_eos_and_exempt_ids_are_never_penalised_for_repetition(exempt):
    z = constant({exempt: 3.0, 8: 2.9})
    penal = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert generate(penal, z=z, steps=3, prompt=[exempt] * 5) == [exempt] * 3


def test_presence_penalty_counts_once():
    z = constant({9: 1.9, 8: 1.0})
    params = SamplingParams(temperature=0, presence_penalty=1.0)
    assert generate(params, z=z, steps=4) == [9, 8, 9, 9]
    assert generate(params, z=z, steps=1, prompt=[9, 9, 9]) == [9]
    back = SamplingParams(temperature=0, presence_penalty=-2.0)
    assert generate(back, z=z, steps=3, output=[8]) == [8, 8, 8]


def test_frequency_penalty_counts_each_time():
    z = constant({9: 1.9, 8: 1.0})
    params = SamplingParams(temperature=0, frequency_penalty=0.5)
    assert generate(params, z=z, steps=6) == [9, 9, 8, 9, 8, 9]
    assert generate(params, z=z, steps=1, prompt=[9] * 9) == [9]


def test_logit_bias_forces_and_forbids():
    z = constant({9: 5.0, 8: 4.0})
    greedy = SamplingParams(temperature=0)
    assert generate(greedy, z=z, steps=2) == [9, 9]
    forced = SamplingParams(temperature=0, logit_bias={30: 100.0})
    assert generate(forced, z=z, steps=2) == [30, 30]
    forbidden = SamplingParams(temperature=2, logit_bias={9: -100.0}, seed=8)
    assert 9 not in generate(forbidden, z=z, steps=100)
    assert generate(SamplingParams(temperature=0, logit_bias={8: 1.5}), z=z, steps=1) == [8]


def test_bias_comes_before_penalties_and_those_before_temperature():
    # 1 + 3 = 4, halved to 2 by the penalty: below 2.5. Penalty first would give 3.5.
    z = constant({9: 1.0, 8: 2.5})
    params = SamplingParams(temperature=0, repetition_penalty=2.0, logit_bias={9: 3.0})
    assert generate(params, z=z, steps=1, prompt=[9]) == [8]


def test_a_seed_reproduces_and_another_does_not():
    first = generate(SamplingParams(seed=7))
    assert generate(SamplingParams(seed=7)) == first
    assert generate(SamplingParams(seed=7), slot=3) == first
    others = [
        generate(SamplingParams(seed=8)),
        generate(SamplingParams(seed=7 + 2**40)),
        generate(SamplingParams(seed=7), choice=1),
    ]
    assert len({tuple(ids) for ids in (first, *others)}) == 4


def test_the_number_belongs_to_the_place_in_the_sequence():
    """A prompt that ends with a part of the answer is continued with the same tokens."""
    params = SamplingParams(seed=11)
    whole = generate(params, prompt=[4, 5], steps=20)
    rest = DrawnSampler(VOCAB, 1)
    rest.add(0, params, [4, 5, *whole[:8]])
    assert [rest.draw(logits(step), [0]).ids[0] for step in range(8, 20)] == whole[8:]


@pytest.mark.parametrize("length", [0, 60, 64, 127, 130])
def test_the_uniform_number_is_the_counters(length):
    prompt = [5] * length
    got = generate(SamplingParams(seed=3), prompt=prompt, steps=10, choice=2)
    for step, token in enumerate(got):
        u = uniforms(np.uint64(3), 2, length + step)
        assert token == oracle.choose(logits(step)[0].numpy(), SamplingParams(), float(u))


def test_min_tokens_holds_back_eos_and_stop_ids():
    z = constant({EOS: 9.0, STOP: 8.0, 9: 7.0})
    params = SamplingParams(temperature=0, min_tokens=3, stop_token_ids=(STOP,))
    assert generate(params, z=z, steps=5) == [9, 9, 9, EOS, EOS]
    assert generate(params, z=z, steps=3, output=[9, 9]) == [9, EOS, EOS]
    hot = SamplingParams(temperature=2, min_tokens=30, stop_token_ids=(STOP,), seed=1)
    assert not {EOS, STOP} & set(generate(hot, z=z, steps=30))


def test_ignore_eos_leaves_eos_drawable():
    z = constant({EOS: 9.0, STOP: 8.0, 9: 7.0})
    params = SamplingParams(temperature=0, min_tokens=3, ignore_eos=True)
    assert generate(params, z=z, steps=2) == [EOS, EOS]


def test_logprobs_are_of_the_raw_logits():
    sampler = DrawnSampler(VOCAB, 2)
    bent = SamplingParams(
        temperature=0.3, top_k=1, logit_bias={9: 50.0}, repetition_penalty=1.9, logprobs=2
    )
    sampler.add(0, bent, [4, 9])
    sampler.add(1, SamplingParams(), [4])
    z = torch.cat([logits(1), logits(2)])
    sampled = sampler.draw(z, [0, 1])
    one, none = sampled.logprobs
    assert none is None
    assert one is not None
    want = oracle.log_softmax(z[0].numpy())
    assert sampled.ids[0] == one.id == 9
    assert one.logprob == pytest.approx(want[9], abs=1e-12)
    assert [token for token, _ in one.top] == np.argsort(-z[0].numpy())[:2].tolist()


def test_logprobs_zero_is_the_drawn_token_alone():
    sampler = DrawnSampler(VOCAB, 1)
    sampler.add(0, SamplingParams(temperature=0, logprobs=0), [4])
    [one] = sampler.draw(logits(1), [0]).logprobs
    assert one is not None
    assert one.top == ()


# ---- rows of a step: padding, several of one sequence


ROWS = [
    SamplingParams(temperature=0),
    SamplingParams(seed=3),
    SamplingParams(temperature=0, repetition_penalty=1.4, logprobs=2),
    SamplingParams(seed=5, top_k=7, logit_bias={4: 2.0}, logprobs=0),
]


@pytest.mark.parametrize("members", [[0], [0, 0], [1, 0], [2, 1, 0], [3, 2, 1, 0, 1]], ids=str)
def test_rows_after_those_that_draw_are_padding(members):
    """Whatever they hold, they change nothing and are not reported."""
    found = []
    for padding in (0, 1, 3):
        sampler = DrawnSampler(VOCAB, 8)
        for slot, member in enumerate(members):
            sampler.add(slot, ROWS[member], [4, 5])
        steps = []
        for step in range(3):
            rows = [logits(10 * step + slot) for slot in range(len(members))]
            rows += [torch.full((1, VOCAB), math.nan), torch.full((1, VOCAB), -INF), logits(99)]
            steps.append(
                sampler.draw(torch.cat(rows[: len(members) + padding]), [*range(len(members))])
            )
        found.append(steps)
    assert repr(found[0]) == repr(found[1]) == repr(found[2])
    assert all(len(step.ids) == len(members) and not step.errors for step in found[0])


def test_several_rows_of_one_sequence_draw_by_their_own_places():
    """As a step draws them that checks guessed tokens: one after another, or all at once."""
    params, prompt = SamplingParams(seed=9, top_p=0.9, min_tokens=2), [4] * 62
    whole = generate(params, prompt=prompt, steps=6)  # past 64, where the numbers come anew
    sampler = DrawnSampler(VOCAB, 4)
    sampler.add(2, params, prompt, eos_ids=[EOS])
    z = torch.cat([logits(step) for step in range(6)])
    prepared = sampler.prepare([2] * 6, [62 + step for step in range(6)])
    assert sampler.collect(sampler.sample(z, prepared)).ids == whole
    banned = constant({EOS: 9.0, 9: 7.0})
    greedy = SamplingParams(temperature=0, min_tokens=2)
    sampler.add(1, greedy, prompt, eos_ids=[EOS])
    prepared = sampler.prepare([1] * 4, [62, 63, 64, 65])
    z = torch.cat([banned(0)] * 4)
    assert sampler.collect(sampler.sample(z, prepared)).ids == [9, 9, EOS, EOS]
    assert torch.equal(z, torch.cat([banned(0)] * 4))  # what was edited is put back, row by row


# ---- greedy, ties, bad rows


@pytest.mark.parametrize("vocab", [7, 1_000, 49_152])
def test_greedy_ties_go_to_the_lower_id(vocab):
    sampler = DrawnSampler(vocab, 2)
    sampler.add(0, SamplingParams(temperature=0), [])
    sampler.add(1, SamplingParams(temperature=0, presence_penalty=0.1), [])
    for low in (0, 3, vocab - 4):
        z = torch.full((2, vocab), -1.0)
        z[:, [low, low + 1, vocab - 1]] = 2.0
        assert sampler.draw(z, [0, 1]).ids[0] == low
    z = torch.full((2, vocab), -INF)
    z[:, 4] = -1e30
    assert sampler.draw(z, [0, 1]).ids == [4, 4]


@pytest.mark.parametrize(
    "params",
    [{"temperature": 0}, {}, {"top_k": 5}, {"top_p": 0.9}, {"temperature": 0, "logprobs": 1}],
)
def test_bad_logits_fail_one_row_with_the_reason(params):
    sampler = DrawnSampler(VOCAB, 4)
    for slot in range(4):
        sampler.add(slot, SamplingParams(seed=slot, **params), [4])
    fine = [sampler.draw(logits(0).repeat(4, 1), [0, 1, 2, 3]).ids]
    z = logits(1).repeat(4, 1)
    z[1, 20] = math.nan
    z[2] = -INF
    sampled = sampler.draw(z, [0, 1, 2, 3])
    assert sampled.ids[1:3] == [-1, -1]
    assert sampled.logprobs[1:3] == [None, None]
    assert set(sampled.errors) == {1, 2}
    assert "not a number for 1 of 50" in sampled.errors[1]
    assert "-inf" in sampled.errors[2]
    alone = DrawnSampler(VOCAB, 4)
    for slot in (0, 3):
        alone.add(slot, SamplingParams(seed=slot, **params), [4])
        assert alone.draw(logits(0), [slot]).ids == [fine[0][slot]]
        assert alone.draw(logits(1), [slot]).ids == [sampled.ids[slot]]
    # A row that failed was not counted: the next number is still the one for its place.
    alone.add(1, SamplingParams(seed=1, **params), [4])
    assert alone.draw(logits(0), [1]).ids == [fine[0][1]]
    assert alone.draw(logits(2, 0.1), [1]).ids == sampler.draw(logits(2, 0.1), [1]).ids


def test_plus_infinity_wins():
    z = constant({9: INF, 30: INF})
    assert generate(SamplingParams(temperature=0), z=z, steps=2) == [9, 9]
    drawn = set(generate(SamplingParams(temperature=0.5, seed=1), z=z, steps=60))
    assert drawn == {9, 30}


def test_all_tokens_banned_is_an_error_not_a_token():
    sampler = DrawnSampler(4, 1)
    params = SamplingParams(temperature=0, min_tokens=2, stop_token_ids=(0, 1, 2))
    sampler.add(0, params, [3], eos_ids=[3])
    sampled = sampler.draw(torch.zeros(1, 4), [0])
    assert sampled.ids == [-1]
    assert "min_tokens" in sampled.errors[0]


# ---- the whole against the definition, with history, in mixed batches; resuming; slots

params_ = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.0, 0.4, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 5, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 0.7]),
    repeat_last_n=st.sampled_from([-1, 0, 2, 6, 128]),
    presence_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-5, 5), max_size=3),
    min_tokens=st.sampled_from([0, 3]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(params_, min_size=1, max_size=5), st.integers(0, 2**20), st.data())
def test_sequences_equal_the_definition_and_survive_preemption(params, seed, data):
    """Every token as the oracle has it; now and then a sequence moves to another slot."""
    sampler = DrawnSampler(VOCAB, 8)
    outputs: list[list[int]] = [[] for _ in params]
    slot_of = {member: 7 - member for member in range(len(params))}
    for member, slot in slot_of.items():
        sampler.add(slot, params[member], [4, 5], eos_ids=[EOS], exempt_ids=[EXEMPT])
    for step in range(6):
        mover = data.draw(st.none() | st.sampled_from(sorted(slot_of)))
        if mover is not None:
            sampler.remove(slot_of[mover])
            slot_of[mover] = min(set(range(8)) - set(slot_of.values()))
            sampler.add(
                slot_of[mover],
                params[mover],
                [4, 5],
                outputs[mover],
                eos_ids=[EOS],
                exempt_ids=[EXEMPT],
            )
        z = torch.cat([logits(seed + 10 * step + member, 1.5) for member in slot_of])
        before = z.clone()
        ids = sampler.draw(z, list(slot_of.values())).ids
        assert torch.equal(z, before)
        for member, p in enumerate(params):
            row = oracle.adjusted(
                z[member].numpy(),
                p,
                [4, 5],
                outputs[member],
                exempt={EOS, EXEMPT},
                banned={EOS},
            )
            u = uniforms(np.uint64(p.seed), 0, 2 + len(outputs[member]))
            assert ids[member] == oracle.choose(row, p, float(u))
            outputs[member].append(ids[member])


def test_state_may_grow_in_inference_mode_and_be_written_outside():
    """The engine's step runs in inference mode; sequences come and go outside it."""
    vocab = 400
    sampler = DrawnSampler(vocab, 2)
    params = SamplingParams(temperature=0, repetition_penalty=1.5, repeat_last_n=0)
    sampler.add(0, params, list(range(250)))
    with torch.inference_mode():
        for step in range(20):  # past the first room for entries
            sampler.draw(logits(step, vocab=vocab), [0])
    sampler.add(1, params, [0, 1])
    assert sampler.draw(torch.ones(1, vocab), [1]).ids == [2]
    with torch.inference_mode():
        assert sampler.draw(torch.ones(2, vocab), [1, 0]).ids[0] == 3


def test_a_slot_keeps_nothing_of_its_last_sequence():
    sampler = DrawnSampler(VOCAB, 1)
    strange = SamplingParams(
        seed=5, repetition_penalty=2.0, logit_bias={9: 100.0}, logprobs=3, top_k=2
    )
    sampler.add(0, strange, [4] * 3)
    sampler.draw(logits(0), [0])
    sampler.remove(0)
    sampler.remove(0)
    sampler.add(0, SamplingParams(seed=6), [4, 5, 6])
    again = [sampler.draw(logits(step), [0]) for step in range(10)]
    assert [one.ids[0] for one in again] == generate(SamplingParams(seed=6), steps=10)
    assert all(one.logprobs == [None] for one in again)
