"""Adapters of a worker whose engine is a process: loaded while it runs, kept when it is lost."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.config import Settings
from rbee_worker.errors import AdapterError, InvalidRequest
from rbee_worker.process import child
from rbee_worker.process.host import ProcessHost
from rbee_worker.session.client import EngineClient
from rbee_worker.types import End, Error, Event, Request, Token
from tests import tiny
from tests.adapters.made import factors, places, write_peft
from tests.process import held
from tests.process.held import Hold, hold
from tests.process.test_process import pid_of

__all__ = ["hold"]

pytestmark = pytest.mark.slow
LONG, KILLED = 60, 9  # tokens of an answer; after which its engine is killed


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("worker") / "tiny")


@pytest.fixture
def adapters(base: Path, tmp_path: Path) -> dict[str, Path]:
    shapes = places(base)
    return {
        name: write_peft(tmp_path / name, factors(shapes, rank, seed=rank))
        for name, rank in (("a", 3), ("b", 5), ("c", 2))
    }


async def started(base: Path, module: str = child.MODULE, **settings: Any) -> EngineClient:
    options = Settings(model=str(base), backend="cpu", threads=1, **settings)
    client = EngineClient(options, ProcessHost(module))
    client._engine.begin()
    await client.ready()
    return client


async def ask(
    client: EngineClient, name: str, adapter: str, *, tokens: int = 12, hold: Hold | None = None
) -> tuple[list[int], Event]:
    """The ids of a greedy answer, and the last event. hold: the engine is ended in its middle."""
    ids: list[int] = []
    params = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    request = Request(id=name, token_ids=(5, 6, 7) * 8, params=params, adapter=adapter)
    last: Event | None = None
    async for event in client.generate(request):
        last = event
        if isinstance(event, Token | End):
            ids += event.ids
        if hold is not None and len(ids) >= KILLED:
            hold.kill(pid_of(client))
            hold = None
    assert last is not None
    return ids, last


def test_loaded_named_unloaded(base: Path, adapters: dict[str, Path]) -> None:
    async def main() -> None:
        client = await started(base, lora=f"a={adapters['a']}", lora_slots=1)
        try:
            assert [info.name for info in client.adapters.infos] == ["a"]
            assert client.adapters.most == 2
            plain, _ = await ask(client, "1", "")
            first, _ = await ask(client, "2", "a")
            with pytest.raises(InvalidRequest, match="'b' is not loaded"):
                await ask(client, "3", "b")
            info = await client.adapters.load(AdapterSpec(name="b", ref=str(adapters["b"])))
            assert (info.name, info.rank) == ("b", 5)
            second, _ = await ask(client, "4", "b")
            assert len({tuple(plain), tuple(first), tuple(second)}) == 3
            with pytest.raises(AdapterError, match="named 'b' is loaded already"):
                await client.adapters.load(AdapterSpec(name="b", ref=str(adapters["b"])))
            with pytest.raises(AdapterError, match="all 2 places"):
                await client.adapters.load(AdapterSpec(name="c", ref=str(adapters["c"])))
            running = asyncio.create_task(ask(client, "5", "b", tokens=LONG))
            await asyncio.sleep(0)
            with pytest.raises(AdapterError, match="1 request uses the adapter 'b' now"):
                client.adapters.unload("b")
            await running
            client.adapters.unload("b")
            with pytest.raises(AdapterError, match="not an adapter"):
                await client.adapters.load(AdapterSpec(name="c", ref=str(adapters["c"].parent)))
            await client.adapters.load(AdapterSpec(name="c", ref=str(adapters["c"])))
            assert (await ask(client, "8", "a"))[0] == first
            assert (await ask(client, "9", ""))[0] == plain
        finally:
            await client.close()

    asyncio.run(main())


def test_a_lost_engine_comes_back_with_its_adapters(
    base: Path, adapters: dict[str, Path], hold: Hold
) -> None:
    async def main() -> None:
        client = await started(base, held.MODULE, lora=f"a={adapters['a']}", lora_slots=2)
        try:
            await client.adapters.load(AdapterSpec(name="b", ref=str(adapters["b"]), scale=0.5))
            await client.adapters.load(AdapterSpec(name="c", ref=str(adapters["c"])))
            names = ["", "a", "b", "c"]
            want = {n: (await ask(client, f"x{n}", n, tokens=LONG))[0] for n in names}
            assert len({tuple(ids) for ids in want.values()}) == len(names)
            client.adapters.unload("a")
            shutil.rmtree(adapters["a"])  # not needed any more
            hold.set()
            found = await asyncio.gather(
                ask(client, "yb", "b", tokens=LONG, hold=hold),
                *(ask(client, f"y{n}", n, tokens=LONG) for n in ("c", "")),
            )
            assert client.restarts == 1
            for name, (ids, end) in zip(("b", "c", ""), found, strict=True):
                assert isinstance(end, End)
                assert ids == want[name], name
            assert [info.name for info in client.adapters.infos] == ["b", "c"]
            # another adapter in the place of one that is loaded, and one that is gone
            shutil.rmtree(adapters["b"])
            write_peft(adapters["b"], factors(places(base), 5, seed=99))
            shutil.rmtree(adapters["c"])
            hold.set()
            ids, end = await ask(client, "z", "b", tokens=LONG, hold=hold)
            assert isinstance(end, Error)
            assert end.message == "its adapter is not loaded any more."
            assert ids == want["b"][: len(ids)]
            assert client.adapters.infos == ()
            assert (await ask(client, "zz", "", tokens=LONG))[0] == want[""]
        finally:
            await client.close()

    asyncio.run(main())


def test_one_that_is_damaged_costs_nobody_else(
    base: Path, adapters: dict[str, Path], hold: Hold
) -> None:
    """Its files are cut short while it is loaded, and then the engine is lost."""

    async def main() -> None:
        client = await started(base, held.MODULE, lora=f"a={adapters['a']}", lora_slots=2)
        try:
            await client.adapters.load(AdapterSpec(name="b", ref=str(adapters["b"])))
            want = {name: (await ask(client, f"x{name}", name))[0] for name in ("", "a")}
            weights = adapters["b"] / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:50])
            hold.set()
            _, end = await ask(client, "y", "b", tokens=LONG, hold=hold)
            assert isinstance(end, Error)
            assert [info.name for info in client.adapters.infos] == ["a"]
            for name, ids in want.items():
                assert (await ask(client, f"z{name}", name))[0] == ids
        finally:
            await client.close()

    asyncio.run(main())


def test_what_keeps_a_worker_from_starting(base: Path, adapters: dict[str, Path]) -> None:
    async def main(**settings: Any) -> str:
        client = await EngineClient.start(
            Settings(model=str(base), backend="cpu", threads=1, **settings)
        )
        try:
            with pytest.raises(AdapterError) as caught:
                await client.ready()
            return str(caught.value)
        finally:
            await client.close()

    wide = factors({n: (2 * r, c) for n, (r, c) in places(base).items()}, 2)
    write_peft(adapters["a"], wide)
    told = asyncio.run(main(lora=f"a={adapters['a']}"))
    assert "factor B is" in told
    assert told.count("\n") == 0
