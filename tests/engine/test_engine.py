"""The engine around a fake model: the same tokens however they are computed, and nothing leaks."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import (
    Cancel,
    Finished,
    Output,
    Preempted,
    PromptScores,
    Scheduled,
    Stats,
    Submit,
    Tokens,
)
from rbee_worker.engine.runner import Launched
from rbee_worker.engine.sampler import Sampler
from rbee_worker.engine.scheduler import Plan
from rbee_worker.engine.stop import StopRules
from rbee_worker.errors import DeviceLost
from rbee_worker.sequence_end import StopRecord
from rbee_worker.state.specs import StateGroup
from rbee_worker.types import EosToken, SamplingParams, TokenLogprob
from tests.engine.fakes import (
    EOS,
    FULL,
    MIXED,
    RECURRENT,
    WINDOWED,
    FakeModel,
    ask,
    expected,
    greedy,
    make_engine,
    next_logits,
)

pytestmark = pytest.mark.usefixtures("backend")
GROUPS = [FULL, MIXED, WINDOWED, RECURRENT]


class Log:
    """What an engine said, by sequence."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, Finished] = {}
        self.other: list[Output] = []

    def step(self) -> None:
        for m in self.engine.step():
            if isinstance(m, Tokens):
                assert m.seq not in self.finished, "a token after the end"
                self.tokens.setdefault(m.seq, []).extend(m.ids)
            elif isinstance(m, Finished):
                assert m.seq not in self.finished, "ended twice"
                self.finished[m.seq] = m
            else:
                self.other.append(m)
        self.engine.pool.check()

    def drain(self, most: int = 2000) -> Log:
        while not self.engine.idle:
            self.step()
            most -= 1
            assert most, "it does not end"
        assert self.engine.pool.usage().used == 0
        return self

    def kinds(self, kind: type) -> list[Any]:
        return [m for m in self.other if isinstance(m, kind)]


def run(requests: list[Submit], **options: Any) -> Log:
    engine = make_engine(options.pop("model", None), **options)
    for r in requests:
        engine.submit(r)
    return Log(engine).drain()


PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 6, 7, 8, 9, 10, 20], [30], [5, 6, 7, 8] * 6]


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize(
    "options",
    [
        {"max_seqs": 1},  # alone, one after another
        {},  # together, chunked by the budget
        {"token_budget": 3},  # small chunks
        {"token_budget": 200},  # whole prompts
        {"prefix_cache": False},
        {"tokens": 52},  # preempted
        {"tokens": 52, "token_budget": 5, "prefix_cache": False},
        {"kv_cache": False},  # everything anew for each token
        {"kv_cache": False, "token_budget": 5, "tokens": 52},
        {"block_size": 1},
        {"block_size": 16},
    ],
    ids=str,
)
def test_the_same_tokens_however_they_are_computed(
    groups: tuple[StateGroup, ...], options: dict[str, Any]
) -> None:
    model = FakeModel(groups)
    log = run([ask(str(i), p, 12) for i, p in enumerate(PROMPTS)], model=model, **options)
    for i, prompt in enumerate(PROMPTS):
        assert log.tokens[str(i)] == greedy(prompt, 12, groups), (i, options)
    assert max(model.steps) <= options.get("token_budget", 16)
    if options.get("tokens") == 52 and options.get("kv_cache", True) and groups in (FULL, MIXED):
        assert log.kinds(Preempted)


@pytest.mark.parametrize("tokens", [52, 256])
def test_before_a_step_it_is_told_which_sequences_run(tokens: int) -> None:
    """If a step ends the process, one that was in the queue cannot be the reason."""
    engine = make_engine(tokens=tokens)
    running: set[str] = set()

    def hear(outputs: list[Output]) -> None:
        for m in outputs:
            if isinstance(m, Scheduled):
                running.add(m.seq)
            elif isinstance(m, Preempted | Finished):
                running.discard(m.seq)

    launch = engine.runner.launch
    unknown: list[set[str]] = []  # one set a step; the engine would catch an assertion
    queued: list[set[str]] = []

    def launched(plan: Plan) -> Launched:
        unknown.append({chunk.seq.id for chunk in plan.chunks} - running)
        queued.append({seq.id for seq in engine.scheduler.waiting} & running)
        return launch(plan)

    engine.tell = hear
    engine.runner.launch = launched  # type: ignore[method-assign]
    for i, prompt in enumerate(PROMPTS):
        engine.submit(ask(str(i), prompt, 12))
    while not engine.idle:
        hear(engine.step())
    assert queued
    assert not set().union(*unknown)
    assert not set().union(*queued)


def test_seeded_draws_are_the_same_however_they_are_computed() -> None:
    """With the real sampler: penalties, bias and draws survive batching, preemption, resuming."""
    params = {
        "temperature": 1.3,
        "top_p": 0.95,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "logit_bias": {7: 1.5},
        "logprobs": 2,
    }
    requests = [
        Submit(
            seq=str(i),
            prompt_ids=tuple(p),
            params=SamplingParams(max_tokens=12, seed=100 + i, **params),  # type: ignore[arg-type]
            eos=EOS,
            choice=i,
        )
        for i, p in enumerate(PROMPTS)
    ]

    def tokens(**options: Any) -> dict[str, list[int]]:
        return run(requests, **options).tokens

    alone = tokens(max_seqs=1)
    assert len({tuple(t) for t in alone.values()}) == len(PROMPTS)
    for options in ({}, {"tokens": 52}, {"token_budget": 3}, {"kv_cache": False}):
        assert tokens(**options) == alone, options
    # another process goes on with the tokens that there are
    for at in (1, 5, 11):
        part = [
            Submit(
                seq=r.seq,
                prompt_ids=r.prompt_ids,
                params=r.params,
                eos=EOS,
                choice=r.choice,
                output_ids=tuple(alone[r.seq][:at]),
            )
            for r in requests
            if len(alone[r.seq]) > at
        ]
        rest = run(part).tokens
        assert {s: alone[s][:at] + rest[s] for s in rest} == {s: alone[s] for s in rest}


def test_a_second_prompt_reuses_the_first_ones_blocks() -> None:
    engine = make_engine(model := FakeModel(), token_budget=64)
    log = Log(engine)
    engine.submit(ask("a", [*range(4, 24)], 4))
    log.drain()
    engine.submit(ask("b", [*range(4, 24), 9], 4))
    log.drain()
    assert [s.cached for s in log.kinds(Scheduled)] == [0, 20]
    assert log.finished["b"].usage.cached_tokens == 20
    assert model.steps == [20, 1, 1, 1, 1, 1, 1, 1]
    assert log.tokens["b"] == greedy([*range(4, 24), 9], 4)


def test_stop_rules_and_their_records() -> None:
    prompt = [5, 6, 7, 8]
    out = greedy(prompt, 30)
    third = out[2]
    first_at = out.index(third) + 1
    eos = (EosToken(id=third, text="x", origins=("config.json", "gguf")),)

    def stop(n: int = 30, **kw: Any) -> StopRecord:
        return run([ask("a", prompt, n, **kw)]).finished["a"].stop

    assert stop(7) == StopRecord(rule="MAX_TOKENS", at=7)
    assert stop(eos=eos) == StopRecord(
        rule="EOS", at=first_at, token_id=third, origin="config.json, gguf"
    )
    assert stop(stop_token_ids=(third,)) == StopRecord(
        rule="STOP_SEQUENCE", at=first_at, token_id=third, origin="request"
    )
    assert stop(eos=eos, stop_token_ids=(third,)).rule == "EOS"
    assert stop(eos=eos, ignore_eos=True).rule == "MAX_TOKENS"
    assert stop(eos=eos, ignore_eos=True, stop_token_ids=(third,)).rule == "STOP_SEQUENCE"
    late = run([ask("a", prompt, 30, eos=eos, min_tokens=first_at + 2)])
    assert third not in late.tokens["a"][: first_at + 2]
    tight = run([ask("a", prompt, 30)], model=FakeModel(context=10)).finished["a"]
    assert tight.stop == StopRecord(rule="CONTEXT_FULL", at=6, origin="context")
    assert tight.usage.output_tokens == 6


def test_each_of_several_eos_ids_stops() -> None:
    prompt = [9, 9]
    out = greedy(prompt, 20)
    for token in set(out[:6]):
        eos = tuple(EosToken(id=t, text="", origins=(f"o{t}",)) for t in (1, token, 63))
        record = run([ask("a", prompt, 20, eos=eos)]).finished["a"].stop
        stops = {e.id for e in eos}
        at = next(i for i, t in enumerate(out) if t in stops)
        assert (record.rule, record.at, record.token_id) == ("EOS", at + 1, out[at])
        assert record.origin == f"o{out[at]}"


def test_usage_and_times() -> None:
    now = [0.0]
    engine = make_engine(max_seqs=1, token_budget=4)
    engine._clock = lambda: now[0]
    log = Log(engine)
    engine.submit(ask("a", [5] * 8, 3))
    engine.submit(ask("b", [6] * 4, 1))
    while not engine.idle:
        now[0] += 1
        log.step()
    a, b = log.finished["a"].usage, log.finished["b"].usage
    # a: prompt in steps 1 and 2 (the first token comes with 2), two more tokens in 3 and 4;
    # where steps overlap, what a step drew is told with the next one
    late = 1000 * engine.runner.overlaps
    assert (a.queue_ms, a.prefill_ms, a.decode_ms) == (1000, 1000 + late, 2000)
    assert (b.queue_ms, b.prefill_ms, b.decode_ms) == (5000 + late, late, 0)
    assert (a.prompt_tokens, a.output_tokens, a.preemptions) == (8, 3, 0)


def scores_of(log: Log) -> dict[str, tuple[TokenLogprob | None, ...]]:
    """By sequence; every message goes on where the one before ended, and no message is longer
    than a step and the entry of the first token, which has no score."""
    scores: dict[str, tuple[TokenLogprob | None, ...]] = {}
    for m in log.kinds(PromptScores):
        known = scores.get(m.seq, ())
        assert m.start == len(known)
        assert 0 < len(m.logprobs) <= log.engine.scheduler.token_budget + 1
        scores[m.seq] = known + m.logprobs
    return scores


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("options", [{}, {"token_budget": 3}, {"tokens": 48, "max_seqs": 3}])
def test_prompt_scores(groups: tuple[StateGroup, ...], options: dict[str, Any]) -> None:
    """log softmax of the raw logits at every prompt token, whatever chunks and caches there are."""
    prompt = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    requests = [ask("warm", prompt, 2)]
    requests += [ask(str(i), prompt, 3 * i, prompt_logprobs=True, logprobs=i) for i in range(3)] + [
        ask("one", [5], 0, prompt_logprobs=True, logprobs=1),
        ask("other", [3] * 20, 9),
    ]
    log = run(requests, model=FakeModel(groups), **options)
    scores = scores_of(log)
    assert set(scores) == {"0", "1", "2", "one"}
    assert scores["one"] == (None,)
    for i in range(3):
        found = scores[str(i)]
        assert found[0] is None
        assert len(found) == len(prompt)
        for p in range(1, len(prompt)):
            lp = torch.log_softmax(next_logits(expected(prompt[:p], groups)).double(), 0)
            score = found[p]
            assert score is not None
            assert score.id == prompt[p]
            assert score.logprob == pytest.approx(float(lp[prompt[p]]), abs=1e-5)
            assert [t for t, _ in score.top] == lp.sort(descending=True, stable=True)[1][
                :i
            ].tolist()
        assert log.tokens.get(str(i), []) == greedy(prompt, 3 * i, groups)
    assert log.finished["0"].stop == StopRecord(rule="MAX_TOKENS", at=0)
    assert log.finished["one"].usage.output_tokens == 0


def test_prompt_scores_survive_a_step_that_has_to_be_done_again() -> None:
    class Flaky(FakeModel):
        def hidden(self, batch: Any) -> torch.Tensor:
            if len(self.steps) == 2:
                self.steps.append(0)
                raise RuntimeError("once")
            return super().hidden(batch)

    prompt = list(range(4, 27))
    wanted = {"prompt_logprobs": True, "logprobs": 0}
    calm = scores_of(run([ask("a", prompt, 2, **wanted)]))
    requests = [ask("b", [9] * 9, 4), ask("a", prompt, 2, **wanted)]
    log = run(requests, model=Flaky(), token_budget=7)
    assert scores_of(log) == calm
    assert log.tokens == {"a": greedy(prompt, 2), "b": greedy([9] * 9, 4)}


def test_without_kv_cache_every_token_computes_its_whole_sequence() -> None:
    model = FakeModel()
    run([ask("a", [5, 6, 7], 4)], model=model, kv_cache=False)
    assert model.steps == [3, 4, 5, 6]


def test_rules_by_themselves() -> None:
    params = SamplingParams(max_tokens=9, min_tokens=3, stop_token_ids=(8,))
    rules = StopRules(params, EOS, prompt=4, context=20)
    assert [rules.check(2, n) for n in (1, 2, 3)] == [None, None, None]
    assert [rules.check(8, n) for n in (1, 2, 3)] == [None, None, None]
    assert rules.check(2, 4) == StopRecord(
        rule="EOS", at=4, token_id=2, origin="config.json, generation_config.json"
    )
    assert rules.check(7, 8) is None
    assert rules.check(7, 9) == StopRecord(rule="MAX_TOKENS", at=9)
    tight = StopRules(params, EOS, prompt=15, context=20)
    assert tight.check(7, 5) == StopRecord(rule="CONTEXT_FULL", at=5, origin="context")


def test_duplicates_unknown_ids_and_impossible_requests_are_harmless() -> None:
    engine = make_engine(FakeModel(context=16))
    log = Log(engine)
    engine.cancel(Cancel(seq="nobody"))
    assert engine.idle
    engine.submit(ask("a", [5, 6], 4))
    engine.submit(ask("a", [9, 9, 9], 4))
    engine.submit(ask("long", [5] * 17, 4))
    engine.submit(ask("empty", [], 4))
    engine.submit(ask("none", [5], 0))
    engine.submit(ask("full", [5] * 16, 4))
    done = ask("done", [5, 6], 4, output_ids=tuple(greedy([5, 6], 4)))
    engine.submit(done)
    log.drain()
    engine.cancel(Cancel(seq="a"))
    assert engine.idle
    assert log.tokens == {"a": greedy([5, 6], 4)}
    assert log.finished["long"].stop.rule == log.finished["empty"].stop.rule == "ERROR"
    assert "17 tokens" in (log.finished["long"].error or "")
    assert log.finished["none"].stop == StopRecord(rule="MAX_TOKENS", at=0)
    assert log.finished["full"].stop == StopRecord(rule="CONTEXT_FULL", at=0, origin="context")
    assert log.finished["done"].stop == StopRecord(rule="MAX_TOKENS", at=4)


def test_stats_come_at_intervals_and_when_work_ends() -> None:
    engine = make_engine(model := FakeModel())
    log = Log(engine)
    engine.submit(ask("a", [5] * 10, 5))
    engine.submit(ask("b", [5] * 10, 5))
    log.drain()
    last = log.kinds(Stats)[-1]
    assert (last.running, last.waiting, last.kv_used_blocks) == (0, 0, 0)
    assert (last.tokens_in, last.tokens_out, last.kv_total_blocks) == (20, 10, 64)
    assert last.steps == len(model.steps)
    assert last.kv_cached_blocks == engine.pool.usage().cached > 0
    assert len(log.kinds(Stats)) <= 3


# ---- trouble


def test_a_step_that_fails_costs_the_guilty_request_only() -> None:
    model = FakeModel(fail_on=50)
    log = run([ask("a", [5, 6], 6), ask("bad", [7, 50, 8], 6), ask("b", [8] * 9, 6)], model=model)
    assert log.finished["bad"].stop == StopRecord(rule="ERROR", at=0)
    assert log.finished["bad"].code == "INFERENCE_FAILED"
    assert "RuntimeError: kernel failed" in (log.finished["bad"].error or "")
    assert log.tokens["a"] == greedy([5, 6], 6)
    assert log.tokens["b"] == greedy([8] * 9, 6)
    assert "bad" not in log.tokens


@pytest.mark.parametrize("groups", GROUPS)
def test_a_request_that_fails_while_decoding(groups: tuple[StateGroup, ...]) -> None:
    out = greedy([5, 6], 9, groups)
    late = next(t for t in out[2:] if t not in out[:2] and t not in (5, 6, 8, 9))
    others = greedy([8, 9], 9, groups)
    model = FakeModel(groups, fail_on=late, fail_with=MemoryError())
    log = run([ask("bad", [5, 6], 9), ask("b", [8, 9], 9)], model=model)
    assert log.finished["bad"].stop.rule == "ERROR"
    assert log.finished["bad"].code == "VRAM_OOM"
    assert log.tokens["bad"] == out[: out.index(late) + 1]
    if late not in others:
        assert log.tokens["b"] == others


def test_a_step_too_large_for_memory_is_done_in_parts() -> None:
    model = FakeModel(fail_rows=9, fail_with=RuntimeError("CUDA out of memory. Tried"))
    log = run([ask(str(i), [5 + i] * 4, 4) for i in range(3)], model=model, token_budget=16)
    assert log.tokens == {str(i): greedy([5 + i] * 4, 4) for i in range(3)}


def test_running_out_of_memory_is_one_line_of_log(caplog: pytest.LogCaptureFixture) -> None:
    """Other errors are ours: they come with where they were raised."""
    for error, traced in ((MemoryError("no space"), False), (RuntimeError("a mistake"), True)):
        caplog.clear()
        run([ask("a", [5, 6], 4)], model=FakeModel(fail_on=5, fail_with=error))
        (record,) = caplog.records
        assert str(error) in record.getMessage()
        assert (record.exc_info is not None) == traced


def test_a_device_that_is_lost_ends_the_engine() -> None:
    """No request is to blame, and no step can succeed in this process any more."""
    why = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might ..."
    model = FakeModel(fail_on=50, fail_with=RuntimeError(why))
    with pytest.raises(DeviceLost, match="an illegal memory access was encountered") as caught:
        run([ask("a", [5, 6], 6), ask("b", [7, 50, 8], 6)], model=model)
    assert caught.value.exit_code == 4
    assert "\n" not in caught.value.line


def test_requests_that_fail_only_together_lose_the_youngest() -> None:
    class Lonely(FakeModel):
        def hidden(self, batch: Any) -> torch.Tensor:
            if len(batch.kv_lens_host) > 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().hidden(batch)

    log = run([ask(str(i), [5 + i] * 4, 6) for i in range(3)], model=Lonely())
    failed = {s: f.code for s, f in log.finished.items() if f.stop.rule == "ERROR"}
    assert set(failed.values()) == {"VRAM_OOM"}
    assert "0" not in failed
    assert len(log.finished) == 3
    for i in {"0", "1", "2"} - set(failed):
        assert log.tokens[i] == greedy([5 + int(i)] * 4, 6)


def test_a_row_without_an_answer_fails_alone() -> None:
    class Poisoned(FakeModel):
        def head(self, rows: torch.Tensor) -> torch.Tensor:
            logits = super().head(rows)
            logits[rows[:, 0] == expected([6, 6], FULL)] = float("nan")
            return logits

    log = run([ask("nan", [6, 6], 4), ask("b", [8, 9], 4)], model=Poisoned())
    assert log.finished["nan"].stop.rule == "ERROR"
    assert log.tokens == {"b": greedy([8, 9], 4)}


def test_a_sampler_that_refuses_parameters_costs_one_request() -> None:
    class Picky(Sampler):
        def add(self, slot: int, params: SamplingParams, *a: Any, **kw: Any) -> bool:
            if params.top_k == 13:
                raise ValueError("bad luck")
            return super().add(slot, params, *a, **kw)

    log = run(
        [ask("a", [5, 6], 3), ask("bad", [6], 3, top_k=13), ask("b", [7], 3)],
        sampler=Picky,
    )
    assert log.finished["bad"].stop.rule == "ERROR"
    assert log.tokens == {"a": greedy([5, 6], 3), "b": greedy([7], 3)}


# ---- cancelling


@pytest.mark.parametrize("groups", GROUPS)
def test_two_thousand_requests_cancelled_anywhere_leak_nothing(
    groups: tuple[StateGroup, ...],
) -> None:
    total = 2000 if groups is FULL else 150
    dice = random.Random(7)
    model = FakeModel(groups)
    model.hidden = _cheap  # type: ignore[method-assign]
    engine = make_engine(model, tokens=96, max_seqs=6)
    baseline = engine.pool.usage().used
    log = Log(engine)
    submitted, live = 0, []
    while submitted < total or not engine.idle:
        for _ in range(min(dice.randrange(4), total - submitted)):
            name = str(submitted)
            engine.submit(ask(name, [dice.randrange(3)] * dice.randrange(1, 40), dice.randrange(9)))
            live.append(name)
            submitted += 1
        for name in dice.sample(live, min(len(live), dice.randrange(2))):
            rule = dice.choice(["CANCELLED", "TIMEOUT", "STOP_SEQUENCE"])
            engine.cancel(Cancel(seq=name, rule=rule))  # also those that have ended
        log.step()
        live = [n for n in live if n not in log.finished] + live[-1:]
    assert len(log.finished) == total
    rules = {f.stop.rule for f in log.finished.values()}
    assert rules == {"MAX_TOKENS", "CANCELLED", "TIMEOUT", "STOP_SEQUENCE"}
    assert engine.pool.usage().used == baseline == 0
    assert sorted(engine.runner._slots) == list(range(6))
    assert not engine._live
    assert not engine.runner.sampler.slots  # type: ignore[attr-defined]


def _cheap(batch: Any) -> torch.Tensor:
    """No attention at all: this test is about bookkeeping."""
    return (batch.tokens + batch.positions)[:, None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(4, 6), min_size=1, max_size=20),
            st.integers(1, 8),
            st.none() | st.integers(0, 12),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(GROUPS),
    st.integers(28, 80),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
)
def test_survivors_of_cancels_have_the_right_tokens(
    requests: list[tuple[list[int], int, int | None]],
    groups: tuple[StateGroup, ...],
    tokens: int,
    budget: int,
    block_size: int,
    cache: bool,
) -> None:
    engine = make_engine(
        FakeModel(groups),
        tokens=tokens,
        token_budget=budget,
        block_size=block_size,
        kv_cache=cache,
        max_seqs=4,
    )
    log = Log(engine)
    for i, (prompt, n, _) in enumerate(requests):
        engine.submit(ask(str(i), prompt, n))
    clock = 0
    while not engine.idle:
        for i, (_, _, cancel) in enumerate(requests):
            if cancel == clock:
                engine.cancel(Cancel(seq=str(i)))
        log.step()
        clock += 1
    for i, (prompt, n, _) in enumerate(requests):
        record = log.finished[str(i)].stop
        right = greedy(prompt, n, groups)
        assert log.tokens.get(str(i), []) == right[: record.at]
        assert record.at == n or record.rule == "CANCELLED"
    assert engine.pool.usage().used == 0
