"""An engine process that dies: another takes its place, and every request goes on to the tokens it
would have had."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_worker.config import Settings
from rbee_worker.engine.messages import Command, Configure
from rbee_worker.errors import NotReady
from rbee_worker.model_info import ModelInfo
from rbee_worker.models.random import random_checkpoint
from rbee_worker.process import child
from rbee_worker.process.host import ProcessHost
from rbee_worker.process.link import Link
from rbee_worker.session import replacing
from rbee_worker.session.client import EngineClient
from rbee_worker.session.live_request import CRASH, KILL
from rbee_worker.session.replacing import LONG_LIFE_S, PAUSES_S, Replacing
from rbee_worker.session.text import wordless
from rbee_worker.types import End, Error, Event, Narration, PromptLogprobs, Request, Token
from tests import further
from tests.engine.tiny import write_tiny
from tests.process import held
from tests.process.held import Hold, hold
from tests.process.test_process import alive, pid_of, run, tiny

__all__ = ["hold", "tiny"]

RANDOM = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "hidden_act": "silu",
}  # fmt: skip
SCHEMA = {"type": "array", "items": {"type": "string", "maxLength": 9}, "minItems": 3}
POISONED = "tests.process.poisoned_engine"


LONG = ("greedy", "drawn", "penalties")  # requests whose answers have 60 tokens
UNTOLD = 4  # tokens at most that wait until a character is whole


def asked() -> list[Request]:
    """Every kind of request whose tokens could come out otherwise after a restart."""
    long = {"max_tokens": 60, "ignore_eos": True}
    rows: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0},
        "drawn": {"temperature": 1.0, "seed": 5, "top_p": 0.9},
        "penalties": {
            "temperature": 1.0, "seed": 6, "repetition_penalty": 1.3, "presence_penalty": 0.5,
            "frequency_penalty": 0.5,
        },
        "min tokens": {"seed": 7, "ignore_eos": False, "min_tokens": 55},
        "eos": {"seed": 8, "ignore_eos": False},
        "scores": {"seed": 9, "logprobs": 3, "echo": True},
        "stop": {"seed": 10, "stop": ["qq", "e!", "zz"]},
        "long": {"seed": 11, "max_tokens": 120},
        "schema": {"seed": 12, "ignore_eos": False, "json_schema": SCHEMA, "logprobs": 1},
        "regex": {"seed": 13, "regex": r"(?:[a-f]{3} )+[xyz]", "presence_penalty": 0.5},
        "again and again and again and": {"temperature": 0, "logit_bias": {"5": 100, "6": 99.5}},
    }  # fmt: skip
    return [
        Request(id=name, prompt=f"Hello {name}, once upon a time", params=long | params)
        for name, params in rows.items()
    ]


@dataclass
class Heard:
    """What a caller has of a request in the end."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[Any] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    human: list[str] = field(default_factory=list)
    last: Event | None = None

    @property
    def answer(self) -> tuple[Any, ...]:
        """All of it that a crash must not change."""
        assert isinstance(self.last, End), self.last
        used = self.last.usage
        counts = (used.prompt_tokens, used.output_tokens, used.drafted_tokens, used.accepted_tokens)
        return self.ids, self.text, self.logprobs, self.scores, self.last.stop, counts


async def hear(client: EngineClient, request: Request, tell: Any = None) -> Heard:
    heard = Heard()
    async for event in client.generate(request):
        if isinstance(event, Token | End):
            if isinstance(event, Token):
                assert event.i == len(heard.ids), "a token lost or doubled"
                heard.text += event.t
            else:
                heard.text += event.text
            heard.ids += event.ids
            heard.logprobs += event.logprobs or ()
        elif isinstance(event, PromptLogprobs):
            heard.scores += event.logprobs
        elif isinstance(event, Narration):
            heard.said.append(event.action)
            heard.human.append(event.human)
        heard.last = event
        if tell is not None:
            tell(event)
    return heard


@asynccontextmanager
async def engine(settings: Settings, module: str = "") -> AsyncIterator[EngineClient]:
    if module:
        client = EngineClient(settings, ProcessHost(module))
        client._engine.begin()
    else:
        client = await EngineClient.start(settings)
    try:
        await client.ready()
        yield client
    finally:
        await client.close()


def settings_of(model: Path, **more: Any) -> Settings:
    return Settings(model=str(model), threads=1, backend="cpu", kv_dtype="f32", **more)


@pytest.mark.parametrize(
    "speculate",
    ["off", "ngram", *(pytest.param(how, marks=pytest.mark.slow) for how in ("draft", "mtp"))],
)
def test_killed_again_and_again_the_answers_are_the_same(
    tiny: Path, tmp_path: Path, speculate: str, hold: Hold
) -> None:
    """Once undisturbed; then the engine is killed whenever some tokens of `LONG` have come. Each
    engine goes so far in every answer that its time to be killed comes, and no further."""
    model = further.glm(right=1.0).save(tmp_path / "m") if speculate == "mtp" else tiny

    hit: set[str] = set()  # requests that were in the middle of their answer at a kill

    async def main(kills: int) -> list[Heard]:
        dice = random.Random(kills)
        how = {"draft_model": str(tiny)} if speculate == "draft" else {"speculate": speculate}
        ends = [*accumulate(dice.randrange(6, 12) for _ in range(kills))]  # of the nth engine
        dues = [
            dice.randrange(len(LONG) * begin + 1, len(LONG) * (end - UNTOLD) + 1)
            for begin, end in pairwise([0, *ends])
        ]
        assert not ends or ends[-1] < 60, "an answer of so many tokens might be complete"
        async with engine(settings_of(model, **how), held.MODULE) as client:
            killed: list[int] = []
            told: Counter[str] = Counter()

            def tell(name: str, event: Event) -> None:
                if isinstance(event, Token):
                    told[name] += len(event.ids)
                done = len(killed)
                if done < kills and sum(told[name] for name in LONG) >= dues[done]:
                    assert pid_of(client) not in killed
                    killed.append(pid_of(client))
                    hold.kill(killed[-1], then=ends[done + 1] if done + 1 < kills else 0)
                    hit.update(name for name in LONG if told[name])

            if kills:
                hold.set(ends[0])

            for request in asked():  # a grammar that was checked before is there at once
                await client._prepare(request)
            heard = await asyncio.gather(*(hear(client, r, partial(tell, r.id)) for r in asked()))
            assert len(killed) == kills, "not every kill came to pass"
            assert client._engine._replacing.lost == kills
            assert client.losses == ({"killed": kills} if kills else {})
            assert client.state == "ready"
            assert not client._live.by_id
            return heard

    undisturbed = run(main(0))
    killed = run(main(4))
    for request, before, after in zip(asked(), undisturbed, killed, strict=True):
        *want, counts = before.answer
        *got, counted = after.answer
        assert got == want, request.id
        if speculate in ("draft", "mtp"):  # how much these draft follows from how long steps take
            counts, counted = counts[:2], counted[:2]
        assert counted == counts, request.id
    assert hit == {*LONG}
    for request, heard in zip(asked(), killed, strict=True):
        assert request.id not in hit or {"restarting", "resumed"} <= set(heard.said), request.id
    assert isinstance(killed[-1].last, End)
    assert killed[-1].last.usage.decode_ms > 0
    drafted = sum(
        heard.last.usage.drafted_tokens for heard in killed if isinstance(heard.last, End)
    )
    assert (drafted > 0) == (speculate != "off")


def test_what_a_resubmitted_request_counts_is_counted_once(tiny: Path, hold: Hold) -> None:
    """Neither the prompt again, nor less than all tokens: the last figures of an engine that dies
    are up to a quarter of a second old."""

    async def main() -> None:
        async with engine(settings_of(tiny), held.MODULE) as client:
            killed: list[int] = []
            hold.set()

            def tell(event: Event) -> None:
                pid = pid_of(client)
                if isinstance(event, Token) and len(killed) < 2 and pid not in killed:
                    killed.append(pid)
                    hold.kill(pid, then=0 if len(killed) == 2 else 2 * held.TOKENS)

            params = {"max_tokens": 200, "ignore_eos": True, "seed": 1}
            heard = await hear(client, Request(id="a", prompt="one two", params=params), tell)
            assert 0 < client.restarts == len(killed)
            assert isinstance(heard.last, End)
            assert client.stats is not None
            assert client.stats.tokens_in == heard.last.usage.prompt_tokens
            assert client.stats.tokens_out == heard.last.usage.output_tokens == 200
            assert client.stats.cached_tokens == heard.last.usage.cached_tokens == 0

    run(main())


@pytest.mark.parametrize(
    "loss",
    [
        "gone",
        *(
            pytest.param(how, marks=pytest.mark.slow)
            for how in ("changed", "of another vocabulary")
        ),
    ],
)
def test_without_its_draft_model_an_engine_goes_on_alone(
    tiny: Path, tmp_path: Path, hold: Hold, loss: str
) -> None:
    """Its files are no longer what they were when the engine dies (the last is seen by the next
    engine alone): the answer has the same tokens, and all that can be asked says what has
    happened."""
    draft = tmp_path / "draft"
    shutil.copytree(tiny, draft)
    params = {"max_tokens": 60, "ignore_eos": True, "seed": 1}
    request = Request(id="a", prompt="one two", params=params)

    def lose() -> None:
        if loss == "gone":
            shutil.rmtree(draft)
        elif loss == "changed":
            os.utime(draft / "model.safetensors", ns=(1, 1))
        else:
            vocabulary = json.loads((draft / "tokenizer.json").read_text())
            words = vocabulary["model"]["vocab"]
            words["a"], words["b"] = words["b"], words["a"]
            (draft / "tokenizer.json").write_text(json.dumps(vocabulary))

    async def main() -> None:
        async with engine(settings_of(tiny)) as client:
            want = await hear(client, request)
        async with engine(settings_of(tiny, draft_model=str(draft)), held.MODULE) as client:
            assert client.info is not None
            assert client.info.speculate == "draft"
            killed: list[int] = []
            hold.set()

            def tell(event: Event) -> None:
                if isinstance(event, Token) and not killed:
                    killed.append(pid_of(client))
                    lose()
                    hold.kill(killed[0])

            heard = await hear(client, request, tell)
            assert heard.answer[:5] == want.answer[:5]
            assert heard.said.count("drafts_ended") == 1
            why = {
                "gone": "the files of the draft model are gone",
                "changed": "the files of the draft model have changed since they were read",
                "of another vocabulary": f"--draft-model {draft} has another vocabulary: token ",
            }[loss]
            [human] = [human for human in heard.human if "drafted any more" in human]
            assert human.startswith(f"Nothing is drafted any more ({why}")
            assert "Fix:" not in human
            assert (client.info.speculate, client.info.draft_model) == ("off", "")
            assert client.info.draft_bytes == 0
            [note] = [note for note in client.info.notes if "drafted any more" in note]
            assert note.startswith(f"nothing is drafted any more: {why}")
            later = await hear(client, msgspec.structs.replace(request, id="b"))
            assert later.answer == want.answer
            assert client.state == "ready"

    run(main())


def test_figures_go_on_over_a_restart(tiny: Path) -> None:
    async def main() -> None:
        async with engine(settings_of(tiny)) as client:
            await hear(client, Request(id="a", prompt="one", params={"max_tokens": 9, "seed": 1}))
            assert client.stats is not None
            before = client.stats
            os.kill(pid_of(client), signal.SIGKILL)
            while client.state == "ready":
                await asyncio.sleep(0.01)
            assert client.stats.tokens_out == before.tokens_out
            while client.state != "ready":
                await asyncio.sleep(0.01)
            params = {"max_tokens": 5, "ignore_eos": True, "seed": 1}
            await hear(client, Request(id="b", prompt="two", params=params))
            assert client.stats.tokens_out == before.tokens_out + 5
            assert client.stats.steps > before.steps

    run(main())


@pytest.mark.parametrize("decoding", ["", "1"])
def test_the_request_that_kills_engines_fails_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, decoding: str
) -> None:
    """In every step that computes it; or only where it goes on by one token, so that each engine
    makes one token of it, from all tokens before, and dies."""
    monkeypatch.setenv("RBEE_TEST_DECODING", decoding)

    def words(name: str, prompt: str) -> Request:
        params = {"max_tokens": 40, "ignore_eos": True, "seed": 3}
        return Request(id=name, prompt=prompt, params=params)

    good = [words(f"good {n}", f"number {n}") for n in range(3)]

    async def main() -> tuple[list[Heard], list[Heard], Heard]:
        async with engine(settings_of(tiny), POISONED) as client:
            alone = [await hear(client, request) for request in good]
            bad = asyncio.create_task(hear(client, words("bad", "a % of poison")))
            beside = await asyncio.gather(*(hear(client, request) for request in good))
            heard = await bad
            assert client.losses.keys() == {"crashed"}
            return alone, beside, heard

    alone, beside, bad = run(main())
    assert isinstance(bad.last, Error)
    assert bad.last.code == "ENGINE_LOST"
    assert "3 times while it ran this request" in bad.last.message
    assert bad.last.message.endswith("killed by SIGSEGV.")
    assert ".." not in bad.last.message
    for before, after in zip(alone, beside, strict=True):
        assert after.answer == before.answer


def test_requests_that_kill_engines_fail_alone_however_many_they_are(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them (the choices of one request, for example) than engines that may be lost in a
    row: the worker and the other requests outlive them all."""
    monkeypatch.setattr(replacing, "PAUSES_S", (0.0, 0.0, 0.0))

    async def main() -> tuple[list[Heard], Heard, Heard]:
        async with engine(settings_of(tiny), POISONED) as client:

            def ask(name: str, prompt: str) -> Request:
                params = {"max_tokens": 20, "ignore_eos": True, "seed": 3}
                return Request(id=name, prompt=prompt, params=params)

            alone = await hear(client, ask("good", "words"))
            asked = [*(ask(f"bad {n}", "a % of poison") for n in range(4)), ask("last", "words")]
            *bad, last = await asyncio.gather(*(hear(client, request) for request in asked))
            assert client.state == "ready"
            return bad, last, alone

    bad, last, alone = run(main())
    for heard in bad:
        assert isinstance(heard.last, Error)
        assert heard.last.code == "ENGINE_LOST"
    assert last.answer == alone.answer


def test_an_engine_that_is_never_of_use_is_given_up(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBEE_TEST_ALWAYS", "1")
    monkeypatch.setattr(replacing, "PAUSES_S", (0.0, 0.0))

    async def main() -> None:
        async with engine(settings_of(tiny), POISONED) as client:
            requests = [Request(id=str(n), prompt="x", params={"seed": 1}) for n in range(2)]
            for heard in await asyncio.gather(*(hear(client, r) for r in requests)):
                assert isinstance(heard.last, Error)
                assert heard.last.code == "ENGINE_LOST"
            assert client.state == "failed"
            assert client.failure is not None
            told = r"[34] engines in a row made no token; the engine is gone: killed by SIGSEGV"
            assert re.match(told, client.failure.message)
            with pytest.raises(NotReady, match="SIGSEGV"):
                await anext(client.generate(Request(id="c", prompt="x")))

    run(main())


def test_while_there_is_no_engine_requests_can_be_ended(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, hold: Hold
) -> None:
    """By their caller, by their time limit; new ones hear what is going on."""

    async def main() -> None:
        async with engine(settings_of(tiny), held.MODULE) as client:
            hold.set()
            next_one = asyncio.Event()  # may be started
            host, close = client._engine.host, client._engine.host.close

            async def closed(*, patient: bool = True) -> None:
                await next_one.wait()
                await close(patient=patient)

            monkeypatch.setattr(host, "close", closed)
            endless = {"max_tokens": 200, "ignore_eos": True, "seed": 2}
            begun = asyncio.Event()
            tell = lambda event: begun.set() if isinstance(event, Token) else None  # noqa: E731
            names = ("cancelled", "late", "left", "stays")
            tasks = {
                name: asyncio.create_task(
                    hear(
                        client,
                        Request(
                            id=name,
                            prompt="once",
                            params=endless,
                            timeout_s=0.5 if name == "late" else None,
                        ),
                        tell,
                    )
                )
                for name in names
            }
            await begun.wait()
            hold.kill(pid_of(client))
            while client.state != "restarting":
                await asyncio.sleep(0.005)
            await client.cancel("cancelled")
            tasks["left"].cancel()
            last = (await tasks["cancelled"]).last
            assert isinstance(last, End)
            assert last.stop.rule == "CANCELLED"
            last = (await tasks["late"]).last
            assert isinstance(last, End)
            assert last.stop.rule == "TIMEOUT"
            assert client.state == "restarting"
            with pytest.raises(NotReady) as refused:
                await anext(client.generate(Request(id="new", prompt="x")))
            assert refused.value.state == "restarting"
            next_one.set()
            last = (await tasks["stays"]).last
            assert isinstance(last, End)
            assert last.stop.rule == "MAX_TOKENS"
            assert not client._live.by_id
            assert not client._live.by_seq

    run(main())


def test_a_step_that_never_ends_is_a_crash(
    tiny: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []
    held.watch_only(monkeypatch, lambda: stopped)

    async def main(stop: bool) -> Heard:
        async with engine(settings_of(tiny, step_timeout=1), held.MODULE) as client:
            if stop:
                hold.set()

            def tell(event: Event) -> None:
                if isinstance(event, Token) and stop and not stopped:
                    hold.kill(pid_of(client), signal.SIGSTOP)
                    stopped.append(pid_of(client))

            params = {"max_tokens": 200, "ignore_eos": True, "seed": 2}
            heard = await hear(client, Request(id="a", prompt="once", params=params), tell)
            assert client._engine._replacing.lost == len(stopped) == stop
            assert client.losses == ({"stopped": 1} if stop else {})
            assert client._engine._replacing._useless <= KILL  # it was stopped from outside
            assert not [pid for pid in stopped if alive(pid)]
            return heard

    undisturbed, stopped = run(main(stop=False)), run(main(stop=True))
    assert stopped.answer == undisturbed.answer
    assert "restarting" in stopped.said
    assert any("a step took longer than 1 s" in told for told in stopped.human)


def test_another_engine_has_the_context_of_the_lost_one(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests were admitted with it, so they may not end earlier because less memory is free."""
    sent: list[Configure] = []
    send = Link.send

    def seen(link: Link, *commands: Command) -> None:
        sent.extend(c for c in commands if isinstance(c, Configure))
        send(link, *commands)

    monkeypatch.setattr(Link, "send", seen)

    async def main() -> tuple[ModelInfo | None, ModelInfo | None]:
        async with engine(settings_of(tiny)) as client:
            before = client.info
            os.kill(pid_of(client), signal.SIGKILL)
            while client.state == "ready":
                await asyncio.sleep(0.005)
            while client.state != "ready":
                await asyncio.sleep(0.005)
            return before, client.info

    before, after = run(main())
    first, second = (c.settings for c in sent)
    assert first.ctx == 0  # as memory allows
    assert second == msgspec.structs.replace(first, ctx=before.context, backend="cpu")
    assert after == msgspec.structs.replace(before, load_s=after.load_s)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_no_other_model_takes_the_place_of_the_lost_one(
    tmp_path: Path, name: str, hold: Hold
) -> None:
    """Other weights under the same name would go on with an answer, and nobody would know."""
    model = write_tiny(tmp_path)

    async def main() -> None:
        async with engine(settings_of(model), held.MODULE) as client:
            for file in (model / "notes.txt", model / name):
                begun = asyncio.Event()
                hold.set()
                tell = lambda event: begun.set() if isinstance(event, Token) else None  # noqa: B023, E731
                params = {"max_tokens": 200, "ignore_eos": True, "seed": 2}
                request = Request(id="a", prompt="once", params=params)
                task = asyncio.create_task(hear(client, request, tell))
                await begun.wait()
                file.touch()
                hold.kill(pid_of(client))
                last = (await task).last
                assert isinstance(last, Error if file.name == name else End)
            assert isinstance(last, Error)
            assert "files have changed" in last.message
            assert client.state == "failed"
            # 3 would tell a supervisor that starting the worker again is of no use
            assert client.failure is not None
            assert client.failure.exit_code == 1

    run(main())


def test_another_engine_has_the_same_random_weights(tmp_path: Path) -> None:
    """A config.json that exists is not a model; only the reference as a whole is."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(RANDOM))
    ckpt = random_checkpoint(str(config), "f32")

    async def main() -> None:
        settings = Settings(model=ckpt.ref, threads=1, backend="cpu", kv_dtype="f32", ctx=64)
        client = await EngineClient.start(settings, text=lambda: wordless(ckpt))
        try:
            before = await client.ready()
            os.kill(pid_of(client), signal.SIGKILL)
            while client.state == "ready":
                await asyncio.sleep(0.005)
            while client.state == "restarting":
                await asyncio.sleep(0.005)
            assert client.state == "ready", client.failure
            assert client.info == msgspec.structs.replace(before, load_s=client.info.load_s)
        finally:
            await client.close()

    run(main())


@pytest.mark.parametrize("rule", ["CANCELLED", "TIMEOUT"])
def test_a_request_that_is_ended_while_its_engine_dies_has_ended(
    tiny: Path, rule: Any, hold: Hold
) -> None:
    """The engine that was told is dead already, and nobody has noticed yet."""

    async def main() -> Heard:
        async with engine(settings_of(tiny), held.MODULE) as client:
            hold.set()
            begun = asyncio.Event()
            tell = lambda event: begun.set() if isinstance(event, Token) else None  # noqa: E731
            params = {"max_tokens": 200, "ignore_eos": True, "seed": 2}
            request = Request(id="a", prompt="once", params=params)
            task = asyncio.create_task(hear(client, request, tell))
            await begun.wait()
            hold.kill(pid_of(client))
            await client.cancel("a", rule)
            return await task

    heard = run(main())
    assert isinstance(heard.last, End)
    assert heard.last.stop.rule == rule
    assert len(heard.ids) < 200


def test_closing_while_the_dead_engine_is_reaped_starts_no_other(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[subprocess.Popen[bytes]] = []
    spawn = child.spawn

    def counted(*args: Any) -> child.Child:
        made = spawn(*args)
        spawned.append(made.process)
        return made

    monkeypatch.setattr(child, "spawn", counted)

    async def main() -> None:
        async with engine(settings_of(tiny)) as client:
            closing = asyncio.Event()
            host, close = client._engine.host, client._engine.host.close

            async def closed(*, patient: bool = True) -> None:
                closing.set()
                await close(patient=patient)

            monkeypatch.setattr(host, "close", closed)
            os.kill(pid_of(client), signal.SIGKILL)
            await closing.wait()

    run(main())
    assert not [process.pid for process in spawned if process.returncode is None]


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_closing_in_the_middle_of_a_restart_leaves_no_process(tiny: Path, after_s: float) -> None:
    async def main() -> list[int]:
        async with engine(settings_of(tiny)) as client:
            pids = [pid_of(client)]
            os.kill(pids[0], signal.SIGKILL)
            while client.state == "ready":
                await asyncio.sleep(0.005)
            await asyncio.sleep(after_s)
            host = client._engine.host
            assert isinstance(host, ProcessHost)
            pids += [host.pid] if host.pid is not None else []
        return pids

    assert not [pid for pid in run(main()) if alive(pid)]


def test_how_often_an_engine_is_replaced() -> None:
    now = [0.0]
    policy = Replacing(clock=lambda: now[0])

    def lost_after(
        seconds: float, *, useful: bool = False, load_s: float = 1.0, loads: bool = True
    ) -> float | None:
        now[0] += load_s
        if loads:
            policy.ready()
        now[0] += seconds
        if useful:
            policy.useful()
        return policy.pause_s()

    assert [lost_after(1.0) for _ in PAUSES_S] == [*PAUSES_S]
    assert lost_after(1.0) is None
    assert policy.in_row == len(PAUSES_S) + 1
    assert lost_after(1.0, useful=True) == PAUSES_S[0]
    assert policy.in_row == 1
    assert lost_after(1.0) == PAUSES_S[1]
    assert lost_after(LONG_LIFE_S + 1) == PAUSES_S[0]
    assert [lost_after(1.0, useful=True) for _ in range(100)] == [PAUSES_S[0]] * 100
    assert policy.lost == len(PAUSES_S) + 104
    long_s = LONG_LIFE_S + 1  # a large model takes so long to load; that is no use of it
    slow = [lost_after(1.0, load_s=long_s) for _ in PAUSES_S[1:]]
    assert slow == [*PAUSES_S[1:]]
    assert lost_after(0.0, load_s=long_s, loads=False) is None
    killed = Replacing(clock=lambda: now[0])
    pauses = [killed.pause_s(KILL) for _ in range(CRASH * len(PAUSES_S))]
    assert pauses == [pause for pause in PAUSES_S for _ in range(CRASH)]
    assert killed.pause_s(KILL) is None
