"""200 streamed requests over HTTP against the same work in the engine alone: [SHAPE] [--seqs N].

Prompts of 512 tokens, answers of 128, all sent at once to OpenAI's completions route of a worker on
this machine. Tokens a second count prompts and answers, from the first request to the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rbee_worker.config import Settings

if TYPE_CHECKING:
    from rbee_worker.session.client import EngineClient

PROMPT, TOKENS, REQUESTS = 512, 128, 200


def settings_of(shape: str, seqs: int) -> Settings:
    """Settings of the worker, and of the engine that it is compared with."""
    return Settings(
        model=f"random:bf16:{shape}", backend="cuda", ctx=1024, kv_tokens=200_000,
        token_budget=8192, max_seqs=seqs, max_queue=400, max_connections=500, prefix_cache=False,
        local_mode=True, port=0,
    )  # fmt: skip


class Words:
    """Text of an answer: a word for each token."""

    within = False

    def push(self, token_id: int) -> str:
        """The text that a token completes."""
        return " word"

    def flush(self) -> str:
        """What is left at the end."""
        return ""


async def start(settings: Settings, *, on_loading: Any) -> EngineClient:
    """An engine's process for a model without a vocabulary."""
    from rbee_worker.models.random import open_model
    from rbee_worker.session.client import EngineClient
    from rbee_worker.session.text import wordless

    def text() -> Any:
        side = wordless(open_model(settings.model, cache_dir=settings.cache_dir))
        return replace(side, stream=lambda skip_special: Words())

    return await EngineClient.start(settings, on_loading=on_loading, text=text)


async def ask(host: str, port: int, model: str, number: int) -> tuple[float, int]:
    """One request: when its first event came, and how many came."""
    ids = [(7919 * number + 31 * i) % 30000 for i in range(PROMPT)]
    body = {
        "model": model, "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "stream": True,
        "ignore_eos": True,
    }  # fmt: skip
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    first, events = 0.0, 0
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            first = first or time.perf_counter()
            events += 1
        elif line.startswith(b"HTTP/1.1") and b" 200 " not in line:
            raise SystemExit(f"refused: {line!r} {await reader.read()!r}"[:600])
    writer.close()
    return first, events


async def served(host: str, port: int, model: str, round_: int) -> float:
    """Tokens a second of all requests."""
    began = time.perf_counter()
    found = await asyncio.gather(
        *(ask(host, port, model, round_ * REQUESTS + n) for n in range(REQUESTS))
    )
    rate = REQUESTS * (PROMPT + TOKENS) / (time.perf_counter() - began)
    wait = sorted(first - began for first, _ in found)[REQUESTS // 2]
    sys.stdout.write(
        f"  {rate:,.0f} tok/s, first events after {wait:.2f} s, {found[0][1]} events\n"
    )
    return rate


async def until_ready(host: str, port: int) -> None:
    """Wait until the worker has loaded its model."""
    while True:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            f"GET /v1/ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
        if b" 200 " in answer.split(b"\r\n")[0]:
            return
        await asyncio.sleep(0.2)


async def over_http(shape: str, seqs: int) -> float:
    """The best of some rounds, after one that compiles."""
    command = [sys.executable, "-m", "benchmarks.gpu_http", shape, "--seqs", f"{seqs}", "--serve"]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        line = json.loads(worker.stdout.readline())
        sys.stdout.write(f"{line}\n")
        port = line["port"]
        await until_ready("127.0.0.1", port)
        model = settings_of(shape, seqs).model
        rates = [await served("127.0.0.1", port, model, n) for n in range(5)]
        return sorted(rates[2:])[1]
    finally:
        worker.terminate()
        worker.wait(30)


def in_engine(shape: str, seqs: int) -> float:
    """The same in the engine alone."""
    from benchmarks.gpu import Driver
    from rbee_worker.loading.load import load_engine

    engine, info = load_engine(settings_of(shape, seqs), lambda _: None)
    driver = Driver(engine, info.vocab_size)
    rates = [driver.mixed(REQUESTS) for _ in range(5)]
    return sorted(rates[2:])[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", nargs="?", default="llama-8b")
    parser.add_argument("--seqs", type=int, default=256)
    parser.add_argument("--serve", action="store_true", help="be the worker")
    asked = parser.parse_args()
    if asked.serve:
        from rbee_worker.server.run import serve

        sys.exit(serve(settings_of(asked.shape, asked.seqs), "", start))
    http = asyncio.run(over_http(asked.shape, asked.seqs))
    alone = in_engine(asked.shape, asked.seqs)
    sys.stdout.write(f"HTTP {http:,.0f}, engine {alone:,.0f} tok/s: {http / alone:.3f}\n")


if __name__ == "__main__":
    main()
