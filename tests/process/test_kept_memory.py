"""Weights that outlive the engine that repacked them."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Submit, Tokens
from rbee_worker.errors import ModelError
from rbee_worker.kept_memory import KeptMemory
from rbee_worker.loading.load import load_engine
from rbee_worker.ops.cpu.runtime.arena import LINE, PAGE, Arena
from rbee_worker.ops.cpu.runtime.kept_arena import kept_arena
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.process.host import ProcessHost
from rbee_worker.types import Request, SamplingParams, Token
from tests.patience import LIMIT_S
from tests.process import held
from tests.process.held import Hold, hold
from tests.process.test_process import pid_of, run, tiny
from tests.process.test_replacement import engine, hear, settings_of
from tests.tiny import write_safetensors

__all__ = ["hold", "tiny"]

KEY, OTHER = b"a" * 32, b"b" * 32
SIZES = (1, 100, 3 * PAGE + 5, 64)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")


def made() -> KeptMemory:
    kept = KeptMemory.create()
    assert kept is not None
    return kept


def filled(kept: KeptMemory, key: bytes = KEY) -> Arena:
    """A complete arena of `SIZES`, the nth piece full of n + 1."""
    arena = kept_arena(kept, key, sum(SIZES) + 4096)
    for n, size in enumerate(SIZES):
        piece = arena.take(size)
        assert piece.ctypes.data % LINE == 0
        assert not piece.any()
        piece[:] = n + 1
    arena.done()
    return arena


def test_the_next_engine_finds_every_piece() -> None:
    kept = made()
    assert kept.usable() == 0
    filled(kept)
    assert kept.complete
    assert 0 <= kept.usable() - sum(SIZES) < 2 * PAGE
    again = kept_arena(kept, KEY, sum(SIZES) + 4096)
    assert again.complete
    for n, size in enumerate(SIZES):
        piece = again.take(size)
        assert piece.ctypes.data % LINE == 0
        assert (piece == n + 1).all()
        assert not piece.flags.writeable
    again.done()
    other = kept_arena(kept, KEY, sum(SIZES) + 4096)
    other.take(SIZES[0] + 1)
    with pytest.raises(AssertionError, match="other sizes"):
        other.done()


def test_what_was_not_finished_is_never_used() -> None:
    """An engine that dies while it repacks leaves memory that looks like weights."""
    kept = made()
    arena = kept_arena(kept, KEY, 4 * PAGE)
    arena.take(PAGE)[:] = 7
    assert not kept.complete
    assert kept.usable() == 0
    assert os.fstat(kept.fd).st_blocks == 0, "the memory is given back before another plan is made"
    del arena
    again = filled(kept)
    assert not again.complete  # it was this one that filled it
    assert kept.complete


def test_weights_of_something_else_are_not_used() -> None:
    kept = made()
    filled(kept)
    private = kept_arena(kept, OTHER, 1000)
    assert not private.complete
    private.take(1000)[:] = 3
    piece = kept_arena(kept, KEY, 0).take(SIZES[0])
    assert (piece == 1).all()


@pytest.mark.parametrize("who", ["the engine that filled it", "the next one"])
def test_complete_weights_cannot_be_changed(who: str) -> None:
    """A fault in a kernel that writes at a wrong address must not change later answers."""
    script = f"""
import ctypes
from tests.process.test_kept_memory import KEY, filled, kept_arena, made
kept = made()
arena = filled(kept)
if {who!r} == "the next one":
    arena = kept_arena(kept, KEY, 0)
at = arena._bytes.ctypes.data
ctypes.string_at(at, 100)
print("still here", flush=True)
ctypes.memset(at, 1, 1)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout == "still here\n", ended.stderr
    assert ended.returncode == -signal.SIGSEGV


def test_no_process_can_map_complete_weights_for_writing() -> None:
    kept = made()
    filled(kept)
    with pytest.raises(PermissionError):
        mmap.mmap(kept.fd, PAGE)
    with pytest.raises(PermissionError):
        os.write(kept.fd, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(kept.fd, 0)


def test_where_there_is_no_such_memory_engines_repack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbidden, or a limit of file sizes (ulimit -f) that the weights are larger than."""

    def refused(*_: object) -> None:
        raise OSError(27, "File too large")

    kept = made()
    monkeypatch.setattr(os, "ftruncate", refused)
    assert type(kept_arena(kept, KEY, PAGE)) is Arena
    monkeypatch.setattr(os, "memfd_create", refused)
    assert KeptMemory.create() is None


def test_memory_that_runs_out_is_an_error_and_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    arena = kept_arena(made(), KEY, PAGE)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MemoryError, match="No space left"):
        arena.take(10)


def test_without_huge_pages_the_contents_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux before 6.1: nobody can ask for them."""
    monkeypatch.setattr("rbee_worker.ops.cpu.runtime.kept_arena._COLLAPSE", 999)
    kept = made()
    arena = filled(kept)
    assert arena._huge is False  # type: ignore[attr-defined]
    piece = kept_arena(kept, KEY, 0).take(SIZES[0])
    assert (piece == 1).all()


def drawn(running: Engine) -> list[int]:
    params = SamplingParams(max_tokens=30, temperature=1.0, seed=3, ignore_eos=True)
    running.submit(Submit(seq="a", prompt_ids=tuple(range(5, 20)), params=params))
    ids: list[int] = []
    while not running.idle:
        ids += [i for m in running.step() if isinstance(m, Tokens) for i in m.ids]
    return ids


def test_an_engine_with_the_weights_of_another_draws_the_same(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tiny)
    silent = lambda _: None  # noqa: E731
    alone, _ = load_engine(settings, silent)
    kept = made()
    flushed: list[bool] = []
    run_team = Team.run

    def counted(team: Team, *args: Any, **more: Any) -> None:
        flushed.append(True)
        run_team(team, *args, **more)

    monkeypatch.setattr(Team, "run", counted)
    first, _ = load_engine(settings, silent, kept)
    assert kept.complete
    assert flushed
    flushed.clear()
    second, info = load_engine(settings, silent, kept)
    assert not flushed, "something was repacked"
    assert kept.usable() >= info.weight_bytes
    assert drawn(alone) == drawn(first) == drawn(second)


def test_kept_weights_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept weights are not free memory any more, and are not asked for again."""
    from rbee_worker.ops.cpu.backend import cpu

    model = write_safetensors(tmp_path / "m", layers=8)
    sizes: dict[str, Any] = {"ctx": 64, "kv_tokens": 64, "max_seqs": 1, "token_budget": 64}
    settings = Settings(model=str(model), threads=1, backend="cpu", kv_dtype="f16", **sizes)
    kept = made()
    _, info = load_engine(settings, lambda _: None, kept)
    left = 2 * info.kv_bytes + 1000  # the state takes at most half of it
    assert left < info.weight_bytes
    monkeypatch.setattr(cpu, "available_memory", lambda: left)
    load_engine(settings, lambda _: None, kept)
    with pytest.raises(ModelError, match="the weights need"):
        load_engine(settings, lambda _: None, made())


def test_a_restart_finds_the_weights_and_leaves_nothing(tiny: Path, hold: Hold) -> None:
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    in_shm = {*os.listdir("/dev/shm")}

    async def once() -> None:
        async with engine(settings_of(tiny), held.MODULE) as client:
            request = partial(Request, prompt="once", params={"max_tokens": 50, "seed": 3})
            undisturbed = await hear(client, request(id="a"))
            host = client._engine.host
            assert isinstance(host, ProcessHost)
            kept = host._kept
            assert kept is not None
            assert kept.complete
            assert not os.get_inheritable(kept.fd)  # by the children that run what requests bring
            killed: list[int] = []
            hold.set()

            def tell(event: object) -> None:
                if isinstance(event, Token) and not killed:
                    killed.append(pid_of(client))
                    hold.kill(killed[0])

            assert (await hear(client, request(id="b"), tell)).answer == undisturbed.answer
            host = client._engine.host
            assert isinstance(host, ProcessHost)
            assert host._kept is kept
            assert pid_of(client) != killed[0]

    async def main() -> None:
        await once()  # what the first one opens for good
        await asyncio.sleep(0.1)
        before = open_files()
        await once()
        while open_files() > before:  # transports close in the loop's next turns
            await asyncio.sleep(0.01)

    run(main())
    until = time.monotonic() + LIMIT_S
    while new := {*os.listdir("/dev/shm")} - in_shm:  # other programs have files there for a moment
        assert time.monotonic() < until, new
        time.sleep(0.1)
