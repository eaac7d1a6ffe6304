"""An engine process that is stopped, or hangs in a step: what is told, and that nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Configure, LoadAdapter, Ping, Pong, Shutdown, Tokens
from rbee_worker.errors import NotReady
from rbee_worker.model_info import Loss, WorkerState
from rbee_worker.process.host import ProcessHost
from rbee_worker.process.link import Link, socket_pair
from rbee_worker.process.main import serve
from rbee_worker.process.port import Port
from rbee_worker.session import watchdog
from rbee_worker.session.client import EngineClient
from rbee_worker.session.watchdog import CHECK_S, SILENT_S, Watchdog
from rbee_worker.types import End, Error, Event, Request, Started, Token
from tests.cli.fakes import INFO
from tests.process import held
from tests.process.held import Hold, hold
from tests.process.test_process import alive, pid_of, run, tiny
from tests.process.test_replacement import POISONED, Heard, engine, hear, settings_of

__all__ = ["hold", "tiny"]

LONG = {"max_tokens": 200, "ignore_eos": True, "seed": 2}


async def until(client: EngineClient, state: WorkerState) -> None:
    while client.state != state:
        await asyncio.sleep(0.01)


def test_a_stopped_engine_is_found_within_two_seconds() -> None:
    """One check in vain may have begun before it was stopped."""
    checks = -(-SILENT_S // CHECK_S)
    assert (checks + 1) * CHECK_S <= 2


def test_an_idle_engine_that_is_stopped_takes_nothing_new(tiny: Path) -> None:
    async def main() -> None:
        async with engine(settings_of(tiny)) as client:
            request = Request(id="a", prompt="once", params=LONG)
            undisturbed = await hear(client, request)
            os.kill(pid_of(client), signal.SIGSTOP)
            await until(client, "stalled")
            with pytest.raises(NotReady) as refused:
                await anext(client.generate(request))
            assert refused.value.state == "stalled"
            os.kill(pid_of(client), signal.SIGCONT)
            await until(client, "ready")
            assert (await hear(client, request)).answer == undisturbed.answer
            assert client.restarts == 0

    run(main())


def test_answers_go_on_when_a_stopped_engine_does(tiny: Path, hold: Hold) -> None:
    """`hear` checks that no token comes twice."""

    async def main() -> tuple[list[Heard], list[Heard]]:
        async with engine(settings_of(tiny), held.MODULE) as client:
            requests = [Request(id=str(n), prompt=f"once {n}", params=LONG) for n in range(3)]
            before = await asyncio.gather(*(hear(client, request) for request in requests))
            begun = asyncio.Event()
            hold.set()

            def tell(event: Event) -> None:
                if isinstance(event, Token) and not begun.is_set():
                    begun.set()
                    hold.kill(pid_of(client), signal.SIGSTOP)

            tasks = [asyncio.create_task(hear(client, r, tell)) for r in requests]
            await until(client, "stalled")
            assert not all(task.done() for task in tasks)
            os.kill(pid_of(client), signal.SIGCONT)
            after = await asyncio.gather(*tasks)
            assert client.restarts == client._engine._replacing.lost == 0
            return before, after

    for before, after in zip(*run(main()), strict=True):
        assert after.answer == before.answer
        assert "restarting" not in after.said


def test_requests_of_a_stopped_engine_can_be_ended(tiny: Path, hold: Hold) -> None:
    """What the engine still says of them when it goes on is not heard."""

    async def main() -> None:
        async with engine(settings_of(tiny), held.MODULE) as client:
            begun = asyncio.Event()
            hold.set()

            def tell(event: Event) -> None:
                if isinstance(event, Token) and not begun.is_set():
                    begun.set()
                    hold.kill(pid_of(client), signal.SIGSTOP)

            request = Request(id="a", prompt="once", params=LONG)
            task = asyncio.create_task(hear(client, request, tell))
            await until(client, "stalled")
            await client.cancel("a")
            heard = await task
            assert isinstance(heard.last, End)
            assert heard.last.stop.rule == "CANCELLED"
            assert not client.losses
            os.kill(pid_of(client), signal.SIGCONT)
            await until(client, "ready")
            again = await hear(client, request)
            assert len(again.ids) == LONG["max_tokens"]
            assert again.ids[: len(heard.ids)] == heard.ids

    run(main())


@pytest.mark.parametrize(("why", "hangs"), [("TIMEOUT", False), ("CANCELLED", True)])
def test_nobody_waits_for_an_engine_that_cannot_confirm_an_end(
    tiny: Path, tmp_path: Path, why: str, hangs: bool, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine stops, or hangs in a step, before anybody knows it; its step has all time."""
    monkeypatch.setenv("RBEE_TEST_HANGING", str(tmp_path / "hanging"))
    hold.set()

    async def main() -> None:
        module = POISONED if hangs else held.MODULE
        async with engine(settings_of(tiny, step_timeout=0), module) as client:
            asked = Request(
                id="a",
                prompt="a % of poison" if hangs else "once",
                params=LONG,
                timeout_s=0.5 if why == "TIMEOUT" else None,
            )
            begun = asyncio.Event()

            def tell(event: Event) -> None:
                if isinstance(event, Started):
                    begun.set()
                    if not hangs:
                        os.kill(pid_of(client), signal.SIGSTOP)

            task = asyncio.create_task(hear(client, asked, tell))
            await begun.wait()
            if why == "CANCELLED":
                await client.cancel("a")
            heard = await task
            assert isinstance(heard.last, End)
            assert heard.last.stop.rule == why

    run(main())


@pytest.mark.parametrize("busy", [False, True])
def test_closing_ends_a_stopped_engine(tiny: Path, busy: bool, hold: Hold) -> None:
    hold.set()

    async def main() -> int:
        async with engine(settings_of(tiny), held.MODULE) as client:
            pid = pid_of(client)
            if not busy:
                os.kill(pid, signal.SIGSTOP)
                return pid
            events = client.generate(Request(id="a", prompt="once", params=LONG))
            await anext(events)
            os.kill(pid, signal.SIGSTOP)
            await client.close()
            assert isinstance([event async for event in events][-1], Error)
            return pid

    assert not alive(run(main()))


def test_a_step_that_hangs_counts_against_its_request(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine still answers pings: it is the step that takes too long."""
    hanging = tmp_path / "hanging"
    hanging.touch()
    monkeypatch.setenv("RBEE_TEST_HANGING", str(hanging))
    held.watch_only(monkeypatch, lambda: [int(line) for line in hanging.read_text().split()])

    def words(name: str, prompt: str) -> Request:
        return Request(id=name, prompt=prompt, params=LONG | {"max_tokens": 30})

    async def main() -> tuple[Heard, Heard, Heard]:
        async with engine(settings_of(tiny, step_timeout=1), POISONED) as client:
            alone = await hear(client, words("good", "words"))
            bad, beside = await asyncio.gather(
                hear(client, words("bad", "a % of poison")), hear(client, words("good", "words"))
            )
            assert client.state == "ready"
            assert client.losses == {"step": 3}
            return alone, bad, beside

    alone, bad, beside = run(main())
    assert isinstance(bad.last, Error)
    assert bad.last.code == "ENGINE_LOST"
    assert "3 times while it ran this request" in bad.last.message
    assert "a step took longer than 1 s" in bad.last.message
    assert beside.answer == alone.answer


def test_reading_an_adapter_counts_as_a_step() -> None:
    """It happens between two steps, and may hang like one: on a disk, or in a hostile file."""

    class Reading:
        idle = True
        tell: Any = None
        hangs = threading.Event()

        def load_adapter(self, m: LoadAdapter) -> None:
            assert self.hangs.wait(60)

    def load(settings: Settings, report: Any) -> Any:
        return Reading(), INFO

    async def main() -> None:
        ours, theirs = socket_pair()
        port = Port(theirs)
        thread = threading.Thread(target=serve, args=(port, load), daemon=True)
        thread.start()
        link = await Link.over(ours)
        link.send(Configure(settings=Settings()))
        link.send(LoadAdapter(spec=AdapterSpec(name="a", ref="a")))
        step_s = 0.0
        while not step_s:
            link.send(Ping())
            heard = await link.receive()
            assert heard is not None
            step_s = max([step_s, *(m.step_s for m in heard if isinstance(m, Pong))])
        Reading.hangs.set()
        link.send(Shutdown())
        await asyncio.to_thread(thread.join, 60)
        port.close()
        await link.close()

    run(main())


def test_what_the_watchdog_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions without an answer, not seconds: no clock is asked."""
    told: list[bool] = []
    asked: list[Ping] = []
    killed: list[tuple[str, Loss]] = []

    class Host(ProcessHost):
        def kill(self, why: str, loss: Loss) -> None:
            killed.append((why, loss))

    class Line:
        def send(self, *commands: Ping) -> None:
            asked.extend(commands)

    async def main() -> None:
        turns = asyncio.Queue[None]()

        real_sleep, own = asyncio.sleep, asyncio.get_running_loop()

        async def turn(seconds: float) -> None:
            if asyncio.get_running_loop() is own:
                await turns.get()
            else:  # a thread that another test has left
                await real_sleep(seconds)

        async def checks(n: int) -> None:
            for _ in range(n):
                turns.put_nowait(None)
                for _ in range(4):
                    await real_sleep(0)

        dog = Watchdog(10, told.append)
        host = Host()
        host.link = Line()  # type: ignore[assignment]
        host._open = True
        monkeypatch.setattr("rbee_worker.session.watchdog.asyncio.sleep", turn)
        with dog.over(host, lambda: True):
            await checks(20)
            assert told == [True]
            dog.heard([Tokens(seq="a", ids=(1,))])
            assert told == [True, False]
            await checks(2)  # not enough to be silent
            dog.heard([Pong(step_s=99.0)])  # most of it while the client itself was stopped
            await checks(1)
            assert not killed
            dog.heard([Tokens(seq="a", ids=(1,))])
            await checks(1)
            for n in range(1, 25):
                dog.heard([Pong(step_s=n * CHECK_S)])
                await checks(1)
            assert not killed
            assert told == [True, False]
            dog.heard([Pong(step_s=10.0)])
            await checks(1)
            assert killed == [("a step took longer than 10 s", "step")]
        assert len(asked) >= 24

    run(main())


def test_an_engine_that_is_stopped_while_it_loads_is_replaced(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOADING_S", 1.0)
    monkeypatch.setattr(watchdog, "SILENT_S", 0.2)
    stopped: list[int] = []
    held.watch_only(monkeypatch, lambda: stopped)

    async def main() -> None:
        async with engine(settings_of(tiny, step_timeout=1)) as client:
            before = pid_of(client)
            os.kill(before, signal.SIGKILL)
            await until(client, "restarting")
            while client._engine.host.pid in (None, before):  # type: ignore[attr-defined]
                await asyncio.sleep(0.001)
            os.kill(pid_of(client), signal.SIGSTOP)
            stopped.append(pid_of(client))
            await until(client, "ready")
            assert pid_of(client) not in stopped
            assert not alive(stopped[0])
            assert client.losses == {"killed": 1, "stopped": 1}

    run(main())
