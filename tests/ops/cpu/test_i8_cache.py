"""`--kv-dtype i8` from settings to tokens, on a tiny model."""

from __future__ import annotations

import asyncio

import pytest
import torch

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.models import build_model
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.session.client import EngineClient
from rbee_worker.types import End, Request, Token
from tests.driver import Driver
from tests.engine.tiny import write_tiny

PROMPT = "The quick brown fox jumps over the lazy dog, " * 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def logits(path, kv, counts):
    library = Library(isa.choose())
    team = Team(library, 2)
    ops = CpuOps(library, team, exact=True)
    built, shape = build_model(open_checkpoint(str(path)), ops), Shape(128, 8, 256, 16, kv)
    driver = Driver(CpuModel(built, ops, shape), dtype=kv)
    if kv == "i8":
        for memory in driver.memory.memory:
            memory.k.fill(-1)
            memory.v.fill(-1)
    seq = driver.start([1 + i * 7 % 250 for i in range(sum(counts))])
    out = torch.cat([driver.feed([(seq, n)])[0] for n in counts])
    team.close()
    return out


def test_logits_are_near_those_of_a_float_cache(tiny):
    """And bitwise the same in other chunks."""
    exact, whole = logits(tiny, "f32", [90]), logits(tiny, "i8", [90])
    error = float((whole - exact).norm() / exact.norm())
    assert 1e-6 < error < 2e-2
    assert torch.equal(logits(tiny, "i8", [1] * 5 + [33, 17, 35]), whole)


def ask(settings):
    async def main():
        client = await EngineClient.start(settings, in_process=True)
        try:
            info = await client.ready()
            params = {"max_tokens": 40, "ignore_eos": True, "temperature": 0}
            ids = []
            async for event in client.generate(Request(id="a", prompt=PROMPT, params=params)):
                if isinstance(event, Token | End):
                    ids += event.ids
            return info, ids
        finally:
            await client.close()

    return asyncio.run(main())


def test_the_engine_keeps_what_the_plan_says(tiny):
    common = {"model": str(tiny), "backend": "cpu", "kv_tokens": 512, "threads": 2}
    settings = Settings(**common, kv_dtype="i8")
    planned = report(settings)
    info, ids = ask(settings)
    assert (planned["kv_dtype"], info.kv_dtype) == ("i8", "i8")
    assert planned["memory"]["cache"] == info.kv_bytes
    # 2 layers x (key + value) x 2 heads x (8 numbers and a scale)
    assert planned["memory"]["kv_per_token"] == 2 * 2 * 2 * (8 + 4)
    assert len(ids) == 40
    for other in (
        Settings(**common, kv_dtype="i8", token_budget=16),
        Settings(**{**common, "threads": 1}, kv_dtype="i8", prefix_cache=False),
    ):
        assert ask(other)[1] == ids
