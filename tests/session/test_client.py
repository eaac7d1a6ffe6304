"""The client around an engine with a fake model, in a thread: text, events, trouble."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.errors import (
    DeviceLost,
    InvalidRequest,
    ModelError,
    NotReady,
    QueueFull,
    UnsupportedModel,
    WorkerError,
)
from rbee_worker.session.client import EngineClient
from rbee_worker.session.live_request import METRICS_EVERY_S
from rbee_worker.types import (
    End,
    Error,
    Event,
    Metrics,
    Narration,
    PromptLogprobs,
    Request,
    Started,
    Token,
    TokenLogprob,
)
from tests.engine.fakes import FakeModel, greedy, make_engine
from tests.patience import LIMIT_S
from tests.session.fake_text import FakeTokenizer, fake_client, fake_text, request, text_of

PROMPT = [1, 7, 4, 11, 11, 14]  # "hello" with the token that opens a sequence


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, LIMIT_S))


@dataclass
class Heard:
    """A request's events, put together again."""

    events: list[Event] = field(default_factory=list)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def end(self) -> End:
        assert isinstance(self.events[-1], End), self.events[-1]
        return self.events[-1]

    def kinds(self, kind: type) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]


async def hear(events: AsyncIterator[Event]) -> Heard:
    heard = Heard()
    async for event in events:
        heard.events.append(event)
        if isinstance(event, Token):
            assert event.i == len(heard.ids)
            assert event.ids
            assert event.t
            heard.text += event.t
        if isinstance(event, Token | End):
            heard.ids += event.ids
            heard.logprobs += event.logprobs or ()
    assert isinstance(heard.events[0], Started)
    heard.text += heard.events[-1].text if isinstance(heard.events[-1], End) else ""
    assert sum(isinstance(e, Started | End | Error) for e in heard.events) == 2
    return heard


async def one(r: Request, **options: Any) -> Heard:
    async with fake_client(**options) as client:
        return await hear(client.generate(r))


def plain(n: int) -> list[int]:
    """Greedy ids up to and with the end token."""
    ids = greedy(PROMPT, n)
    return ids[: ids.index(2) + 1] if 2 in ids else ids


def test_events_and_text_of_one_request() -> None:
    heard = run(one(request("a", max_tokens=12)))
    ids = plain(12)
    assert heard.ids == ids
    assert heard.text == text_of(ids)
    started = heard.events[0]
    assert isinstance(started, Started)
    assert started.job_id == "a"
    assert started.model == "fake"
    assert started.prompt_ids == tuple(PROMPT)
    assert started.prompt_tokens == 6
    assert started.warnings == FakeTokenizer.warnings
    assert started.sampling.origins["max_tokens"] == "request"
    assert started.sampling.origins["top_p"] == "default"
    assert started.sampling.exempt_ids == (2, 3)
    assert [n.action for n in heard.kinds(Narration)] == ["scheduled"]
    assert heard.end.stop.rule == "MAX_TOKENS"
    assert (heard.end.stop.at, heard.end.stop.origin) == (12, "request")
    assert heard.end.usage.output_tokens == 12
    assert heard.end.usage.prompt_tokens == 6


def test_default_max_tokens_is_cut_to_the_context_and_says_so() -> None:
    model = FakeModel(context=20)
    heard = run(one(request("a", logit_bias={2: -100}), model=model))
    assert heard.end.stop.rule in ("MAX_TOKENS", "CONTEXT_FULL")
    assert heard.end.stop.at == 14


def test_an_end_token_is_reported_with_its_text_and_origin() -> None:
    heard = run(one(request("a", token_ids=(0, 1, 2), max_tokens=9)))
    assert heard.ids == [2]
    assert heard.text == ""
    stop = heard.end.stop
    assert (stop.rule, stop.at, stop.token_id, stop.token_text) == ("EOS", 1, 2, "</s>")
    assert stop.origin == "config.json, generation_config.json"
    assert heard.end.ids == (2,)
    shown = run(one(request("a", token_ids=(0, 1, 2), max_tokens=9, skip_special_tokens=False)))
    assert shown.text == "</s>"
    on = run(one(request("a", token_ids=(0, 1, 2), max_tokens=9, ignore_eos=True)))
    assert on.end.stop.rule == "MAX_TOKENS"
    assert on.text == text_of(on.ids)


def test_a_stop_id_ends_and_is_no_part_of_the_text() -> None:
    ids = plain(12)
    stop = ids[4]
    heard = run(one(request("a", max_tokens=12, stop_token_ids=[stop])))
    at = ids.index(stop)
    assert heard.text == text_of(ids[:at])
    assert heard.end.stop.rule == "STOP_SEQUENCE"
    assert (heard.end.stop.token_id, heard.end.stop.origin) == (stop, "request")
    assert heard.end.ids[-1] == stop


def test_characters_of_several_tokens_come_whole() -> None:
    """é is two tokens and the bee is four: their ids ride with the event that shows them."""

    async def main(allowed: list[int]) -> Heard:
        bias = {i: -100.0 for i in range(64) if i not in allowed}
        async with fake_client() as client:
            params = {"max_tokens": 40, "temperature": 1.5, "seed": 3, "logit_bias": bias}
            return await hear(client.generate(request("a", **params)))

    half = run(main([62]))
    assert half.text == "\ufffd" * 40
    assert half.ids == [62] * 40
    assert half.end.text == "\ufffd"
    for allowed in ([62, 63], [58, 59, 60, 61, 62, 63], [9, 62, 63], [58, 59, 60, 61]):
        heard = run(main(allowed))
        assert set(heard.ids) == set(allowed)
        assert heard.text == text_of(heard.ids)
        ids, text = [], ""
        for event in heard.kinds(Token):  # however many tokens the reader finds in one
            ids, text = ids + list(event.ids), text + event.t
            assert text_of(ids).removeprefix(text) in ("", "\ufffd")
        assert any(len(event.ids) > len(event.t) for event in heard.kinds(Token))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(4, 30), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(0, 12),
)
def test_stop_strings_out_of_the_answer_itself(
    prompt: list[int], spans: list[tuple[int, int]], min_tokens: int
) -> None:
    n = 30
    params = {"max_tokens": n, "ignore_eos": True, "logprobs": 0}

    async def main() -> tuple[Heard, Heard, list[str]]:
        async with fake_client() as client:
            r = request("a", token_ids=tuple(prompt), **params)
            free = await hear(client.generate(r))
            stops = [free.text[a : a + length] for a, length in spans if free.text[a:]]
            more = {"stop": stops or ["☃"], "min_tokens": min_tokens}
            r = request("b", token_ids=tuple(prompt), **params, **more)
            return free, await hear(client.generate(r)), stops

    free, cut, stops = run(main())
    ends = []  # (token that completes it, -length, stop)
    for count in range(min_tokens + 1, n + 1):
        before = text_of(free.ids[: count - 1]).rstrip("\ufffd")
        text = text_of(free.ids[:count]).rstrip("\ufffd")
        for end in range(len(before) + 1, len(text) + 1):
            ends += [(end, -len(s), count, s) for s in stops if text[:end].endswith(s)]
    if "\ufffd" in free.text:
        return  # the naive oracle above does not know where a broken character is shown
    if not ends:
        assert cut.text == free.text
        assert cut.end.stop.rule == "MAX_TOKENS"
        return
    end, length, count, stop = min(ends)
    assert cut.end.stop.sequence == stop
    assert (cut.end.stop.rule, cut.end.stop.at) == ("STOP_SEQUENCE", count)
    assert cut.end.stop.origin == "request"
    assert cut.text == free.text[: end + length]
    assert cut.ids == free.ids[:count]
    assert cut.end.usage.output_tokens == count
    assert [p.id for p in cut.logprobs] == cut.ids
    # ids ride with the event that shows their first character; those of the stop string never are
    shown = [i for e in cut.kinds(Token) for i in e.ids]
    assert len(text_of(shown)) >= len(cut.text)
    first = text_of(shown[:-1]).rstrip("\ufffd")  # the last may begin before the stop string
    assert cut.text.startswith(first)
    assert bool(shown) == bool(cut.text)


def test_a_stop_string_ends_the_sequence_in_the_engine() -> None:
    engines: list[Engine] = []

    async def main() -> Heard:
        async with fake_client(keep=engines) as client:
            text = text_of(plain(200))
            return await hear(client.generate(request("a", max_tokens=200, stop=[text[3:6]])))

    heard = run(main())
    assert heard.end.stop.rule == "STOP_SEQUENCE"
    assert engines[0].pool.usage().used == 0
    assert len(engines[0].runner._model.steps) < 30  # type: ignore[attr-defined]


def test_echo_with_logprobs() -> None:
    heard = run(one(request("a", max_tokens=3, echo=True, logprobs=2)))
    (scores,) = heard.kinds(PromptLogprobs)
    assert len(scores.logprobs) == 6
    assert scores.logprobs[0] is None
    assert [s.id for s in scores.logprobs[1:]] == PROMPT[1:]
    assert [p.id for p in heard.logprobs] == heard.ids
    only = run(one(request("a", max_tokens=0, echo=True, logprobs=2)))
    assert only.kinds(PromptLogprobs) == [scores]
    assert only.ids == []
    assert (only.end.stop.rule, only.end.stop.at) == ("MAX_TOKENS", 0)


def test_chat_messages_are_rendered_and_encoded_without_specials() -> None:
    heard = run(one(request("a", messages=({"role": "user", "content": "hello"},), max_tokens=2)))
    assert isinstance(heard.events[0], Started)
    assert heard.events[0].prompt_ids == tuple(PROMPT[1:])


def test_stop_strings_of_a_chat_format_hold_for_conversations_that_give_none() -> None:
    talk: dict[str, Any] = {"messages": ({"role": "user", "content": "hello"},)}
    cases: list[tuple[dict[str, Any], tuple[tuple[str, ...], str]]] = [
        (talk, (FakeTokenizer.turn_stops, "chat_format")),
        ({**talk, "stop": ["x"]}, (("x",), "request")),
        ({}, ((), "default")),
    ]
    for fields, want in cases:
        heard = run(one(request("a", max_tokens=2, **fields)))
        assert isinstance(heard.events[0], Started)
        found = heard.events[0].sampling
        assert (found.params.stop, found.origins["stop"]) == want


# ---- refusals


def refused(*requests: Request, **options: Any) -> list[WorkerError]:
    async def main() -> list[WorkerError]:
        errors = []
        async with fake_client(**options) as client:
            for r in requests:
                with pytest.raises(WorkerError) as caught:
                    await anext(client.generate(r))
                errors.append(caught.value)
            await hear(client.generate(request("z", max_tokens=1)))  # nothing is stuck
            assert not client._live.by_id
        return errors

    return run(main())  # type: ignore[no-any-return]


def test_all_faults_of_a_request_at_once() -> None:
    bad = Request(id="a", params={"temperature": 9, "top_p": 0, "frobnicate": 1})
    (error,) = refused(bad)
    assert isinstance(error, InvalidRequest)
    assert {e.field for e in error.errors} == {"prompt", "temperature", "top_p", "frobnicate"}


def test_sizes_that_cannot_fit() -> None:
    errors = refused(
        request("a", "a" * 40),
        request("b", "a" * 10, max_tokens=30),
        request("c", "a" * (16 * 32 + 1)),
        request("d", token_ids=(5, 64)),
        request("e", ""),
        model=FakeModel(context=32),
    )
    assert all(isinstance(e, InvalidRequest) for e in errors)
    assert [e.errors[0].field for e in errors][2:] == [  # type: ignore[attr-defined]
        "prompt",
        "token_ids",
        "prompt",
    ]
    assert "41" in str(errors[0])
    assert "32" in str(errors[0])
    assert "11" in str(errors[1])
    assert "30" in str(errors[1])
    assert not any("aaa" in str(e) for e in errors)


def test_a_name_can_be_live_once_and_used_again() -> None:
    async def main() -> None:
        async with fake_client() as client:
            events = client.generate(request("a", max_tokens=50))
            await anext(events)
            with pytest.raises(InvalidRequest, match="is live"):
                await anext(client.generate(request("a")))
            await hear_rest(events)
            await hear(client.generate(request("a", max_tokens=2)))

    run(main())


async def hear_rest(events: AsyncIterator[Event]) -> Event:
    return [event async for event in events][-1]


def test_beyond_the_queue_it_is_refused_before_any_work() -> None:
    async def main() -> None:
        settings = Settings(model="fake", max_seqs=2, max_queue=3)
        async with fake_client(settings=settings, max_seqs=2) as client:
            streams = [client.generate(request(str(i), max_tokens=30)) for i in range(5)]
            started = [await anext(s) for s in streams]
            assert all(isinstance(e, Started) for e in started)
            with pytest.raises(QueueFull):
                await anext(client.generate(request("x", "€")))  # would not even tokenize
            queued = await anext(streams[4])
            assert isinstance(queued, Narration)
            assert (queued.action, queued.job_id) == ("queued", "4")
            await asyncio.gather(*(hear_rest(s) for s in streams))
            await hear(client.generate(request("x", max_tokens=2)))

    run(main())


# ---- ending early


def test_a_sequence_that_outgrows_its_frequencies_says_so_and_goes_on() -> None:
    async def main() -> None:
        async with fake_client(model=FakeModel(switch=9)) as client:
            r = request("a", token_ids=(1, 5), max_tokens=16, ignore_eos=True)
            heard = await hear(client.generate(r))
            assert heard.ids == greedy([1, 5], 16, switch=9)
            assert heard.text == text_of(heard.ids)
            (told,) = [n for n in heard.kinds(Narration) if n.action == "rescaled"]
            assert told.human.startswith("Beyond 9 tokens")
            assert heard.end.usage.preemptions == 0

    run(main())


class Slow(FakeModel):
    """9,000 tokens take at least a minute and a half."""

    def head(self, rows: Any) -> Any:
        time.sleep(0.01)
        return super().head(rows)


def test_cancel_and_timeout_end_with_a_record_and_usage() -> None:
    async def main() -> None:
        engines: list[Engine] = []
        model = Slow(context=10_000)
        async with fake_client(model, keep=engines, tokens=10_000) as client:
            await client.cancel("nobody")
            events = client.generate(request("a", max_tokens=9000, ignore_eos=True))
            async for event in events:
                if isinstance(event, Token):
                    break
            await client.cancel("a")
            await client.cancel("a")
            end = await hear_rest(events)
            assert isinstance(end, End)
            assert end.stop.rule == "CANCELLED"
            assert 0 < end.stop.at == end.usage.output_tokens < 9000
            r = request("b", max_tokens=9000, ignore_eos=True, timeout_s=0.2)
            heard = Heard([])
            while not heard.ids:  # its time may have been over before it began
                heard = await hear(client.generate(r))
                assert heard.end.stop.rule == "TIMEOUT"
                assert heard.end.usage.output_tokens == len(heard.ids)
                assert heard.text == text_of(heard.ids)
            await client.cancel("b")
        assert engines[0].pool.usage().used == 0

    run(main())


def test_cancelling_while_the_prompt_is_prepared() -> None:
    async def main() -> None:
        async with fake_client() as client:
            r = request("a", messages=({"role": "user", "content": "hello"},))
            stream = client.generate(r)
            first = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            await client.cancel("a", "TIMEOUT")
            assert isinstance(await first, Started)
            end = await hear_rest(stream)
            assert isinstance(end, End)
            assert (end.stop.rule, end.stop.at) == ("TIMEOUT", 0)
            assert end.usage.prompt_tokens == 5

    run(main())


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_closing_the_stream_cancels(after: int) -> None:
    async def main() -> None:
        engines: list[Engine] = []
        model = Slow(context=10_000)
        async with fake_client(model, keep=engines, tokens=10_000) as client:
            events = client.generate(request("a", max_tokens=9000, ignore_eos=True))
            for _ in range(after):
                await anext(events)
            await events.aclose()  # type: ignore[attr-defined]
            assert not client._live.by_id
            assert not client._live.by_seq
            while not engines[0]._arrivals or not engines[0].idle:  # it may not know yet
                await asyncio.sleep(0.01)
        assert engines[0].pool.usage().used == 0
        assert len(model.steps) < 9000

    run(main())


def test_a_task_that_is_cancelled_cancels_its_request() -> None:
    async def main() -> None:
        model = Slow(context=10_000)
        async with fake_client(model, tokens=10_000) as client:
            r = request("a", max_tokens=9000, ignore_eos=True)
            task = asyncio.create_task(hear(client.generate(r)))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not client._live.by_id
            heard = await hear(client.generate(request("b", max_tokens=2)))
            assert len(heard.ids) == 2
            assert len(model.steps) < 9000

    run(main())


# ---- many at once


def test_a_slow_consumer_gets_fewer_events_and_the_same_text() -> None:
    async def main() -> None:
        async with fake_client() as client:
            r = request("a", max_tokens=200, ignore_eos=True, logprobs=1)
            fast = await hear(client.generate(r))
            events = client.generate(r)
            first = await anext(events)
            answer = client._live.by_id["a"]
            assert answer is not None
            while not answer.ended:
                await asyncio.sleep(0.01)
            assert len(answer.events) < 6
            slow = Heard([first])
            async for event in events:
                slow.events.append(event)
                if isinstance(event, Token | End):
                    slow.ids += event.ids
                    slow.logprobs += event.logprobs or ()
                    slow.text += event.t if isinstance(event, Token) else event.text
            assert len(slow.kinds(Token)) < 5 < len(fast.kinds(Token))
            assert (slow.ids, slow.text, slow.logprobs) == (fast.ids, fast.text, fast.logprobs)

    run(main())


def test_two_hundred_at_once_are_each_as_alone() -> None:
    async def main() -> None:
        engines: list[Engine] = []
        settings = Settings(model="fake", max_queue=256)
        async with fake_client(
            settings=settings, keep=engines, tokens=400, max_seqs=16, token_budget=64
        ) as client:
            prompts = [(1, 4 + i % 40, 5 + i % 7, 6 + i % 11) for i in range(200)]
            heard = await asyncio.gather(
                *(
                    hear(client.generate(request(str(i), token_ids=p, max_tokens=5 + i % 9)))
                    for i, p in enumerate(prompts)
                )
            )
            assert not client._live.by_seq
            assert not client._live.by_id
        for i, (p, h) in enumerate(zip(prompts, heard, strict=True)):
            right = greedy(list(p), 5 + i % 9)
            right = right[: right.index(2) + 1] if 2 in right else right
            assert h.ids == right
            assert h.text == text_of(right)
        assert engines[0].pool.usage().used == 0

    run(main())


def test_leaving_at_random_points_leaks_nothing() -> None:
    """Closed, cancelled, timed out or heard to the end; while prepared, queued or answered."""
    dice = random.Random(3)

    async def visit(client: EngineClient, name: str) -> str:
        kind = dice.choice(["hear", "close", "cancel", "timeout", "task"])
        params: dict[str, Any] = {"max_tokens": dice.randrange(1, 30), "ignore_eos": True}
        if dice.random() < 0.3:
            params["stop"] = [dice.choice("abcXYZ")]
        if dice.random() < 0.3:
            params["messages"] = ({"role": "user", "content": "hello"},)
        if kind == "timeout":
            params["timeout_s"] = dice.random() * 0.05
        events = client.generate(request(name, "a" * dice.randrange(1, 40), **params))
        count = 0
        if kind == "task":
            task = asyncio.create_task(hear(events))
            await asyncio.sleep(dice.random() * 0.05)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return kind
        last: Event | None = None
        async for event in events:
            last = event
            count += 1
            if kind == "close" and count > dice.randrange(12):
                await events.aclose()  # type: ignore[attr-defined]
                return kind
            if kind == "cancel" and count > dice.randrange(12):
                await client.cancel(name)
        assert isinstance(last, End)
        return last.stop.rule

    async def main() -> set[str]:
        engines: list[Engine] = []
        ends: set[str] = set()
        options = {"tokens": 120, "max_seqs": 8, "keep": engines}
        async with fake_client(settings=Settings(model="fake", max_queue=99), **options) as client:
            for wave in range(6):
                names = [f"{wave}.{i}" for i in range(60)]
                ends |= set(await asyncio.gather(*(visit(client, n) for n in names)))
            assert not client._live.by_id
            assert not client._live.by_seq
            assert not client._live.cancelled
            while not engines[0].idle:
                await asyncio.sleep(0.01)
        engines[0].pool.check()
        assert engines[0].pool.usage().used == 0
        assert not engines[0]._live
        return ends

    ends = run(main())
    assert ends >= {"MAX_TOKENS", "STOP_SEQUENCE", "CANCELLED", "TIMEOUT", "close", "task"}


def test_metrics_come_once_a_second_at_most() -> None:
    async def main() -> None:
        class Slower(FakeModel):
            def head(self, rows: Any) -> Any:
                time.sleep(0.05)
                return super().head(rows)

        async with fake_client(Slower()) as client:
            n = int(METRICS_EVERY_S / 0.05 * 1.5)
            heard = await hear(client.generate(request("a", max_tokens=n, ignore_eos=True)))
            found = heard.kinds(Metrics)
            assert 1 <= len(found) <= heard.end.usage.decode_ms / 1000 + 1
            assert 1 < found[0].tokens_per_sec < 20.5
            assert found[0].vram_bytes == 1024
            assert 0 < found[0].kv_usage <= 1

    run(main())


# ---- the engine's life


def test_preemption_is_told() -> None:
    class Both(Engine):
        """Begins when both requests are there."""

        begun = False

        def step(self) -> Any:
            self.begun = self.begun or len(self._live) == 2
            return super().step() if self.begun else []

    def make(model: Any = None, **kw: Any) -> Engine:
        engine = make_engine(model, **kw)
        engine.__class__ = Both
        return engine

    async def main() -> None:
        model = FakeModel(context=20)
        async with fake_client(make=make, tokens=20, model=model) as client:
            heard = await asyncio.gather(
                *(
                    hear(
                        client.generate(
                            request(str(i), token_ids=(1, 5 + i), max_tokens=16, ignore_eos=True)
                        )
                    )
                    for i in range(2)
                )
            )
            actions = [n.action for n in heard[1].kinds(Narration)]
            assert "preempted" in actions
            assert actions[-1] == "scheduled"
            assert heard[1].end.usage.preemptions >= 1
            assert heard[1].ids == greedy([1, 6], 16)

    run(main())


def test_an_engine_that_dies_fails_its_requests_and_says_why() -> None:
    class Dying(Engine):
        def step(self) -> Any:
            if self.stats().tokens_out >= 5:
                raise RuntimeError("the card fell out")
            return super().step()

    def make(model: Any = None, **kw: Any) -> Engine:
        engine = make_engine(model, **kw)
        engine.__class__ = Dying
        return engine

    async def main() -> None:
        async with fake_client(make=make) as client:
            heard = await hear(client.generate(request("a", max_tokens=50)))
            last = heard.events[-1]
            assert isinstance(last, Error)
            assert last.code == "ENGINE_LOST"
            assert "RuntimeError: the card fell out" in last.message
            assert client.state == "failed"
            assert client.failure is not None
            assert "the card fell out" in client.failure.message
            with pytest.raises(NotReady, match="failed") as caught:
                await anext(client.generate(request("b")))
            assert caught.value.state == "failed"
            assert not client._live.by_id

    run(main())


def test_closing_the_client_ends_live_requests() -> None:
    async def main() -> None:
        async with fake_client(Slow(context=9999), tokens=9999) as client:
            r = request("a", max_tokens=9000, ignore_eos=True)
            task = asyncio.create_task(hear(client.generate(r)))
            await asyncio.sleep(0.05)
            await client.close()
            last = (await task).events[-1]
            assert isinstance(last, Error)
            assert "shutting down" in last.message
            with pytest.raises(NotReady) as caught:
                await anext(client.generate(request("b")))
            assert caught.value.state == "draining"

    run(main())


def test_load_errors_arrive_with_their_class_and_exit_code() -> None:
    async def start(error: Exception) -> WorkerError:
        def load(*_: Any) -> Any:
            raise error

        client = await EngineClient.start(
            Settings(model="fake"), in_process=True, load=load, text=fake_text
        )
        try:
            assert client.state == "loading"
            with pytest.raises(NotReady, match="loading"):
                await anext(client.generate(request("a")))
            with pytest.raises(WorkerError) as caught:
                await client.ready()
            assert client.state == "failed"
            return caught.value
        finally:
            await client.close()

    error = run(start(UnsupportedModel("no such thing.", fix="use another.")))
    assert isinstance(error, UnsupportedModel)
    assert str(error) == "no such thing. Fix: use another."
    assert error.exit_code == 3
    error = run(start(RuntimeError("CUDA error: no CUDA-capable device is detected")))
    assert isinstance(error, DeviceLost)
    assert error.exit_code == 4
    error = run(start(ZeroDivisionError("oops")))
    assert isinstance(error, ModelError)
    assert "ZeroDivisionError: oops" in str(error)
    assert error.exit_code == 3


def test_a_bad_tokenizer_fails_before_the_weights_are_loaded() -> None:
    async def main() -> None:
        told = threading.Event()

        def load(*_: Any) -> Any:
            told.wait(LIMIT_S)
            return make_engine(), None

        def words() -> Any:
            raise ModelError("no tokenizer.")

        client = await EngineClient.start(
            Settings(model="fake"), in_process=True, load=load, text=words
        )
        try:
            with pytest.raises(ModelError, match="no tokenizer"):
                await asyncio.wait_for(client.ready(), LIMIT_S / 2)  # before there is an engine
        finally:
            told.set()
            await client.close()

    run(main())


def test_closing_while_loading() -> None:
    async def main() -> None:
        def load(settings: Settings, report: Any) -> Any:
            time.sleep(0.3)
            return make_engine(), None

        client = await EngineClient.start(
            Settings(model="fake"), in_process=True, load=load, text=fake_text
        )
        waiting = asyncio.create_task(client.ready())
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(NotReady):
            await waiting

    run(main())


def test_progress_is_told() -> None:
    from rbee_worker.engine.messages import Loading
    from tests.session.fake_text import fake_info

    async def main() -> list[Loading]:
        told: list[Loading] = []

        def load(_: Settings, report: Any) -> Any:
            for i in range(3):
                report(Loading(stage="loading", layers_loaded=i, layers_total=3))
            engine = make_engine()
            return engine, fake_info(engine)

        client = await EngineClient.start(
            Settings(model="fake"),
            in_process=True,
            load=load,
            text=fake_text,
            on_loading=told.append,
        )
        info = await client.ready()
        assert info.model == "fake"
        assert client.loading == told[-1]
        await client.close()
        return told

    assert [t.layers_loaded for t in run(main())] == [0, 1, 2]


def test_the_client_imports_no_torch() -> None:
    code = (
        "import sys, rbee_worker.session.client, rbee_worker.process.main;"
        "import rbee_worker.tokenizer.load, rbee_worker.tokenizer.chat;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
