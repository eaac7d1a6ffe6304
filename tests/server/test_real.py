"""The whole worker, engine process included: many jobs at once, and cancelled anywhere.

Slow: SmolLM2's weights come through the alias, as a user's do; `RBEE_TEST_MODEL` names a local
copy. It runs on the compiled kernels, without rounding; `RBEE_TEST_BACKEND` chooses others.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rbee_worker.client import AsyncClient, End, Started, Token
from tests import tiny
from tests.server.spawned import Spawned

pytestmark = pytest.mark.slow

MODEL = os.environ.get("RBEE_TEST_MODEL", "smollm2")
BACKEND = os.environ.get("RBEE_TEST_BACKEND", "cpu")
WORDS = "honey bees the of flower queen hive dance sun wax comb nectar garden and summer".split()  # noqa: SIM905


@contextmanager
def served(*args: str) -> Iterator[Spawned]:
    """A worker that must leave with exit code 0."""
    with Spawned.daemon("--local-mode", "--port", "0", "--max-queue", "4000", *args) as spawned:
        spawned.ready(600)
        yield spawned
        spawned.signal()
        assert spawned.wait() == 0, spawned.errors


@pytest.fixture(scope="module")
def worker() -> Iterator[Spawned]:
    args = ("--model-ref", MODEL, "--backend", BACKEND, "--exact-activations", "--ctx", "512")
    with served(*args, "--kv-tokens", "16384") as spawned:
        yield spawned


def prompt(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 30)))


def metrics(worker: Spawned) -> str:
    return str(worker.http.get("/metrics").text)


def blocks(worker: Spawned) -> float:
    """KV blocks that live sequences hold."""
    found = re.search(r"^rbee_kv_blocks_used (\S+)$", metrics(worker), re.M)
    assert found is not None
    return float(found[1])


def stops(worker: Spawned) -> dict[str, int]:
    """How many requests each rule has ended."""
    found = re.findall(r'^rbee_stops_total\{rule="(\w+)"\} (\S+)$', metrics(worker), re.M)
    return {rule: int(float(count)) for rule, count in found}


async def idle(worker: Spawned) -> None:
    """Until no job is live and the engine has said so."""
    async with httpx.AsyncClient(base_url=worker.line["url"]) as http:
        for _ in range(600):
            stats = (await http.get("/v1/stats")).json()
            if stats["jobs"] == stats["running"] == stats["queue_depth"] == 0:
                return
            await asyncio.sleep(0.1)
    raise AssertionError(stats)


async def whole(client: AsyncClient, words: str, tokens: int) -> list[int]:
    """Greedy ids of one job, read from its stream."""
    ids: list[int] = []
    async for event in client.generate(prompt=words, max_tokens=tokens, temperature=0):
        if isinstance(event, Token | End):
            ids += event.ids
    return ids


def test_200_jobs_at_once_answer_as_each_does_alone(worker: Spawned) -> None:
    rng = random.Random(1)
    prompts = [prompt(rng) for _ in range(50)]
    baseline = blocks(worker)

    async def run() -> tuple[list[list[int]], list[list[int]]]:
        async with AsyncClient(worker.line["url"]) as client:
            client.http.timeout = httpx.Timeout(600)
            alone = [await whole(client, words, 12) for words in prompts]
            together = await asyncio.gather(
                *(whole(client, prompts[i % 50], 12) for i in range(200))
            )
            await idle(worker)
            return alone, list(together)

    alone, together = asyncio.run(run())
    assert all(len(ids) >= 1 for ids in alone)
    assert together == [alone[i % 50] for i in range(200)]
    assert blocks(worker) == baseline == 0


@pytest.mark.parametrize("requests", [400, pytest.param(2000, marks=pytest.mark.long)])
def test_requests_on_the_default_model_half_of_them_cancelled(
    worker: Spawned, requests: int
) -> None:
    churn(worker, requests)


def test_2000_requests_half_of_them_cancelled_anywhere_leak_nothing(tmp_path: Path) -> None:
    # so many layers that whoever reads the streams keeps up with the engine and cancels in time
    model = tiny.write_safetensors(tmp_path / "tiny", layers=64, max_position_embeddings=1024)
    # a small pool: some sequences are also preempted on the way
    with served("--model-ref", str(model), "--kv-tokens", "2048", "--max-seqs", "32") as small:
        churn(small, 2000, tokens=40)
        assert "rbee_preemptions_total 0.0" not in metrics(small)


def churn(worker: Spawned, n: int, tokens: int = 6) -> None:
    """Job streams, OpenAI streams and blocking requests; every other one is cancelled, while it is
    queued, before its first token, or after any token, long before it would have ended."""
    rng = random.Random(2)
    outcomes: dict[str, int] = {}
    gate = asyncio.Semaphore(160)  # more than run at once: some always wait in the queue

    def asked(words: str, cut: int | None) -> dict[str, Any]:
        length = {"max_tokens": tokens} if cut is None else {"max_tokens": 400, "ignore_eos": True}
        return {"prompt": words, "temperature": 0, **length}

    async def job(client: AsyncClient, words: str, cut: int | None) -> str:
        started = await client.submit(**asked(words, cut))
        if cut == 0:
            await started.cancel()
        seen = 0
        async for event in started.events():
            if isinstance(event, Token):
                seen += 1
                if cut is not None and seen == cut:
                    await started.cancel()
            if isinstance(event, End):
                return event.stop_reason
        raise AssertionError("no end")

    async def openai(http: httpx.AsyncClient, words: str, cut: int | None, stream: bool) -> str:
        body = {**asked(words, cut), "stream": stream, "n": 1}
        if not stream:
            patience = None if cut is None else rng.uniform(0.0, 3.0)
            try:
                await asyncio.wait_for(http.post("/v1/completions", json=body), patience)
            except TimeoutError:
                return "left"
            return "answered"
        seen = 0
        async with http.stream("POST", "/v1/completions", json=body) as response:
            async for _ in response.aiter_lines():
                seen += 1
                if cut is not None and seen > cut:
                    return "left"
        return "answered"

    async def one(client: AsyncClient, number: int) -> None:
        words, kind = prompt(rng), rng.randrange(3)
        cut = rng.randint(0, 5) if number % 2 else None
        async with gate:
            if kind == 0:
                ended = await job(client, words, cut)
            else:
                ended = await openai(client.http, words, cut, stream=kind == 1)
        outcomes[ended] = outcomes.get(ended, 0) + 1

    async def run() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with AsyncClient(worker.line["url"]) as client:
            await client.http.aclose()
            client.http = httpx.AsyncClient(base_url=worker.line["url"], timeout=900, limits=limits)
            await asyncio.gather(*(one(client, number) for number in range(n)))
        await idle(worker)

    before = stops(worker)
    asyncio.run(run())
    ended = {rule: count - before.get(rule, 0) for rule, count in stops(worker).items()}
    print(outcomes, ended)  # noqa: T201
    assert sum(outcomes.values()) == n
    assert outcomes["CANCELLED"] + outcomes["left"] >= n // 4
    assert ended["CANCELLED"] >= n // 4  # as the worker counts: who leaves late cancels nothing
    assert blocks(worker) == 0
    assert worker.http.get("/v1/stats").json()["kv_usage"] == 0
    # and it still answers
    answer = worker.http.post("/v1/infer", json={"prompt": "The bee", "max_tokens": 3})
    assert answer.json()["tokens_generated"] > 0


def test_the_stream_names_what_was_resolved(worker: Spawned) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(worker.line["url"]) as client:
            talk = [{"role": "user", "content": "What is the capital of France?"}]
            return [e async for e in client.generate(messages=talk, max_tokens=40, temperature=0)]

    found = asyncio.run(run())
    assert isinstance(found[0], Started)
    assert found[0].exempt_ids
    text = "".join(e.t for e in found if isinstance(e, Token))
    assert "Paris" in text
    assert found[-1].stop.rule == "EOS"
    assert found[-1].stop.token_text == "<|im_end|>"
