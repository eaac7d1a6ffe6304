"""Adapters of a worker whose engine is a process: loaded while it runs, kept when it is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.config import Settings
from rbee_worker.errors import AdapterError, InvalidRequest
from rbee_worker.session.client import EngineClient
from rbee_worker.types import End, Error, Event, Request, Token
from tests import tiny
from tests.adapters.made import factors, places, write_peft

pytestmark = pytest.mark.slow
LONG = 60


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


async def started(base: Path, **settings: Any) -> EngineClient:
    client = await EngineClient.start(
        Settings(model=str(base), backend="cpu", threads=1, **settings)
    )
    await client.ready()
    return client


async def ask(
    client: EngineClient, name: str, adapter: str, *, tokens: int = 12, kill: int = 0
) -> tuple[list[int], Event]:
    """The ids of a greedy answer, and the last event. kill: the engine is ended after so many."""
    ids: list[int] = []
    params = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    request = Request(id=name, token_ids=(5, 6, 7) * 8, params=params, adapter=adapter)
    last: Event | None = None
    async for event in client.generate(request):
        last = event
        if isinstance(event, Token | End):
            ids += event.ids
        if kill and len(ids) >= kill:
            kill = 0
            process = client._host._process  # type: ignore[attr-defined]
            os.kill(process.pid, signal.SIGKILL)
    assert last is not None
    return ids, last


def test_loaded_named_unloaded(base: Path, adapters: dict[str, Path]) -> None:
    async def main() -> None:
        client = await started(base, lora=f"a={adapters['a']}", lora_slots=1)
        try:
            assert [info.name for info in client.adapters] == ["a"]
            assert client.adapter_slots == 2
            plain, _ = await ask(client, "1", "")
            first, _ = await ask(client, "2", "a")
            with pytest.raises(InvalidRequest, match="'b' is not loaded"):
                await ask(client, "3", "b")
            info = await client.load_adapter(AdapterSpec(name="b", ref=str(adapters["b"])))
            assert (info.name, info.rank) == ("b", 5)
            second, _ = await ask(client, "4", "b")
            assert len({tuple(plain), tuple(first), tuple(second)}) == 3
            with pytest.raises(AdapterError, match="named 'b' is loaded already"):
                await client.load_adapter(AdapterSpec(name="b", ref=str(adapters["b"])))
            with pytest.raises(AdapterError, match="all 2 places"):
                await client.load_adapter(AdapterSpec(name="c", ref=str(adapters["c"])))
            running = asyncio.create_task(ask(client, "5", "b", tokens=LONG))
            await asyncio.sleep(0)
            with pytest.raises(AdapterError, match="1 request uses the adapter 'b' now"):
                client.unload_adapter("b")
            await running
            client.unload_adapter("b")
            with pytest.raises(AdapterError, match="not an adapter"):
                await client.load_adapter(AdapterSpec(name="c", ref=str(adapters["c"].parent)))
            await client.load_adapter(AdapterSpec(name="c", ref=str(adapters["c"])))
            assert (await ask(client, "8", "a"))[0] == first
            assert (await ask(client, "9", ""))[0] == plain
        finally:
            await client.close()

    asyncio.run(main())


def test_a_lost_engine_comes_back_with_its_adapters(base: Path, adapters: dict[str, Path]) -> None:
    async def main() -> None:
        slow = {"kv_cache": False, "token_budget": 16}  # every token takes some steps
        client = await started(base, lora=f"a={adapters['a']}", lora_slots=2, **slow)
        try:
            await client.load_adapter(AdapterSpec(name="b", ref=str(adapters["b"]), scale=0.5))
            await client.load_adapter(AdapterSpec(name="c", ref=str(adapters["c"])))
            names = ["", "a", "b", "c"]
            want = {n: (await ask(client, f"x{n}", n, tokens=LONG))[0] for n in names}
            assert len({tuple(ids) for ids in want.values()}) == len(names)
            client.unload_adapter("a")
            shutil.rmtree(adapters["a"])  # not needed any more
            found = await asyncio.gather(
                *(ask(client, f"y{n}", n, tokens=LONG, kill=9) for n in ("b", "c", ""))
            )
            assert client.restarts >= 1
            for name, (ids, end) in zip(("b", "c", ""), found, strict=True):
                assert isinstance(end, End)
                assert ids == want[name], name
            assert [info.name for info in client.adapters] == ["b", "c"]
            # another adapter in the place of one that is loaded, and one that is gone
            shutil.rmtree(adapters["b"])
            write_peft(adapters["b"], factors(places(base), 5, seed=99))
            shutil.rmtree(adapters["c"])
            ids, end = await ask(client, "z", "b", tokens=LONG, kill=9)
            assert isinstance(end, Error)
            assert end.message == "its adapter is not loaded any more."
            assert ids == want["b"][: len(ids)]
            assert client.adapters == ()
            assert (await ask(client, "zz", "", tokens=LONG))[0] == want[""]
        finally:
            await client.close()

    asyncio.run(main())


def test_one_that_is_damaged_costs_nobody_else(base: Path, adapters: dict[str, Path]) -> None:
    """Its files are cut short while it is loaded, and then the engine is lost."""

    async def main() -> None:
        client = await started(base, lora=f"a={adapters['a']}", lora_slots=2)
        try:
            await client.load_adapter(AdapterSpec(name="b", ref=str(adapters["b"])))
            want = {name: (await ask(client, f"x{name}", name))[0] for name in ("", "a")}
            weights = adapters["b"] / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:50])
            _, end = await ask(client, "y", "b", tokens=LONG, kill=9)
            assert isinstance(end, Error)
            assert [info.name for info in client.adapters] == ["a"]
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
