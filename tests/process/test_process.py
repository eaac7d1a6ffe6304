"""The engine as a process of its own, on a real (tiny) checkpoint: life, death, the same tokens."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading, Output
from rbee_worker.errors import BadReference, CheckpointError, ModelError, UsageError, WorkerError
from rbee_worker.process.host import ProcessHost
from rbee_worker.session.client import EngineClient
from rbee_worker.types import End, Event, Request, Started, Token
from tests.engine.tiny import write_tiny
from tests.patience import LIMIT_S
from tests.process.held import state_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, LIMIT_S))


@asynccontextmanager
async def started(settings: Settings, **options: Any) -> AsyncIterator[EngineClient]:
    client = await EngineClient.start(settings, **options)
    try:
        yield client
    finally:
        await client.close()


def pid_of(client: EngineClient) -> int:
    assert isinstance(client._engine.host, ProcessHost)
    assert client._engine.host.pid is not None
    return client._engine.host.pid


def alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z", "X")


def ask(name: str, n: int = 20, prompt: str = "Hello", **params: Any) -> Request:
    return Request(id=name, prompt=prompt, params={"max_tokens": n, "ignore_eos": True, **params})


async def collect(client: EngineClient, r: Request) -> tuple[list[int], Event]:
    ids: list[int] = []
    async for event in client.generate(r):
        if isinstance(event, Token | End):
            ids += event.ids
    return ids, event


def test_a_process_from_start_to_end(tiny: Path) -> None:
    told: list[Loading] = []

    async def main() -> int:
        settings = Settings(model=str(tiny), threads=1, backend="reference")
        async with started(settings, on_loading=told.append) as client:
            assert client.state == "loading"
            assert isinstance(client._engine.host, ProcessHost)
            assert client._engine.host.pid is None  # `start` waits for no process
            info = await client.ready()
            assert client.state == "ready"
            assert (info.arch, info.dtype, info.kv_dtype) == ("llama", "f32", "f32")
            assert (info.context, info.n_layers, info.vocab_size) == (256, 2, 260)
            assert info.weight_bytes > 4 * 260 * 32
            assert set(info.load_s) == {"open", "kernels", "weights", "adapters", "state"}
            assert [(e.text, e.origins[0]) for e in client.eos] == [
                ("</s>", "config.json"),
                ("<|im_end|>", "generation_config.json"),
            ]
            messages = ({"role": "user", "content": "Hi"},)
            r = Request(id="c", messages=messages, params={"max_tokens": 4}, surface="chat")
            events = [e async for e in client.generate(r)]
            assert isinstance(events[0], Started)
            text = "".join(client.tokenizer.token_text(i) for i in events[0].prompt_ids)
            assert text == "<|im_start|>userĊHi<|im_end|>Ċ<|im_start|>assistantĊ"
            assert isinstance(events[-1], End)
            pid = pid_of(client)
            assert alive(pid)
        assert client._engine.host._process.returncode == 0  # type: ignore[attr-defined]
        return pid

    assert not alive(run(main()))
    assert "torch" not in sys.modules or "pytest" in sys.modules
    assert told[-1].layers_loaded == told[-1].layers_total == 2
    assert told[-1].bytes_total >= told[-1].bytes_loaded > 0


def test_the_same_tokens_in_a_process_and_in_a_thread_with_and_without_cache(tiny: Path) -> None:
    requests = [
        ask("greedy", temperature=0),
        ask("drawn", temperature=1.0, seed=5, top_p=0.9, repetition_penalty=1.2),
        ask("long", prompt="once upon a time " * 8, temperature=0.7, seed=6),
    ]

    async def main(**options: Any) -> list[list[int]]:
        in_process = options.pop("in_process", False)
        settings = Settings(model=str(tiny), threads=1, backend="reference", **options)
        async with started(settings, in_process=in_process) as client:
            await client.ready()
            done = await asyncio.gather(*(collect(client, r) for r in requests))
            return [ids for ids, _ in done]

    there = run(main())
    assert [len(ids) for ids in there] == [20, 20, 20]
    assert run(main(in_process=True)) == there
    assert run(main(in_process=True, kv_cache=False, token_budget=64)) == there
    assert run(main(in_process=True, prefix_cache=False, max_seqs=1)) == there
    assert run(main(in_process=True, kv_tokens=192, ctx=192, block_size=4)) == there


def test_signals_and_idleness(tiny: Path) -> None:
    async def main() -> None:
        async with started(Settings(model=str(tiny), threads=1, backend="reference")) as client:
            await client.ready()
            pid = pid_of(client)
            for number in (signal.SIGINT, signal.SIGTERM):  # the client decides, not the terminal
                os.kill(pid, number)
            ids, last = await collect(client, ask("a", 5))
            assert isinstance(last, End)
            assert len(ids) == 5

            share = 1.0  # of a core; one that spins takes as much in every second
            while share >= 0.05:
                began, before = time.monotonic(), _cpu_s(pid)
                await asyncio.sleep(1.0)
                share = (_cpu_s(pid) - before) / (time.monotonic() - began)

    run(main())


PARENT = """
import asyncio, sys, os, signal
from rbee_worker.config import Settings
from rbee_worker.session.client import EngineClient
async def main():
    client = await EngineClient.start(Settings(model=sys.argv[1], threads=1, backend="reference"))
    if sys.argv[2] == "ready":
        await client.ready()
    while client._engine.host.pid is None:
        await asyncio.sleep(0.01)
    print(client._engine.host.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["ready", "loading"])
def test_the_engine_dies_with_its_parent(tiny: Path, when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(tiny), when],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + LIMIT_S
    while alive(pid):
        assert time.monotonic() < deadline, "the engine outlives its parent"
        time.sleep(0.02)


def fails(settings: Settings, **options: Any) -> WorkerError:
    async def main() -> WorkerError:
        async with started(settings, **options) as client:
            with pytest.raises(WorkerError) as caught:
                await client.ready()
            assert client.state == "failed"
            return caught.value

    return run(main())  # type: ignore[no-any-return]


def test_what_cannot_be_loaded_says_so(tiny: Path, tmp_path: Path) -> None:
    assert isinstance(fails(Settings(model=str(tmp_path / "nowhere"))), BadReference)
    error = fails(Settings(model=str(tiny), ctx=257, backend="reference"))
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "257" in str(error)
    broken = write_tiny(tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    error = fails(Settings(model=str(broken), backend="reference"))
    assert isinstance(error, CheckpointError)
    assert error.exit_code == 3


def test_an_engine_that_ends_while_loading_leaves_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "dying_engine.py").write_text(
        "import sys, time\n"
        "print('warming up', file=sys.stderr)\n"
        "print('cannot map the device', file=sys.stderr)\n"
        "sys.exit(7)\n"
    )

    async def main() -> str:
        client = EngineClient(Settings(model="x"), ProcessHost("dying_engine"))
        await client._engine.run(lambda: None)  # type: ignore[arg-type, return-value]
        assert isinstance(client.failure, ModelError)
        await client.close()
        return str(client.failure)

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        message = run(main())
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    assert "exit status 7" in message
    assert "cannot map the device" in message


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_outputs_are_one_message_a_step() -> None:
    """What a step produced crosses as one frame, whatever it holds."""
    from rbee_worker.engine.messages import Shutdown, Tokens
    from rbee_worker.process.link import Link, socket_pair
    from rbee_worker.process.port import Port

    async def main() -> None:
        ours, theirs = socket_pair()
        port = Port(theirs)
        link = await Link.over(ours)
        frame: list[Output] = [Tokens(seq=str(i), ids=(i, i + 1)) for i in range(500)]
        port.send(frame)
        port.send([Tokens(seq="x", ids=())])
        assert await link.receive() == frame
        assert await link.receive() == [Tokens(seq="x", ids=())]
        link.send(Shutdown(), Shutdown())
        assert await asyncio.to_thread(port.receive, wait=True) == [Shutdown(), Shutdown()]
        assert port.receive(wait=False) == []
        await asyncio.to_thread(port.close)
        assert await link.receive() is None
        link.send(Shutdown())  # nobody is there: nothing happens
        await link.close()

    run(main())
