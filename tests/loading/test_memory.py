"""How much state a model gets, and what a machine is said to have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rbee_worker.config import Settings
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.errors import ModelError, UsageError
from rbee_worker.loading.memory import COMFORT, plan_state, state_bytes
from rbee_worker.machine import allowed_cores, available_memory
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import PagedMemory
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup

FULL = StateGroup(PagedKV(2, 8, 8), 3)  # 3 * 2 * 16 * 2 = 192 bytes a token in f16
WINDOW = StateGroup(PagedKV(2, 8, 8, window=64), 3)
FIXED = StateGroup(Fixed((("h", (4, 2)), ("conv", (3,)))), 2)  # 2 * 11 * 4 = 88 bytes a slot
BIG = StateGroup(PagedKV(2, 8, 8), 8)
PLENTY = 1 << 40
STATES = [CpuState, TorchState]
Memory = CpuState | TorchState


def plan(
    free: int = PLENTY, groups: tuple[StateGroup, ...] = (FULL,), **kw: int
) -> tuple[int, int]:
    settings = Settings(**{"max_seqs": 4, "token_budget": 64, **kw})  # type: ignore[arg-type]
    p = plan_state((FULL,), settings, model_context=4096, kv_dtype="f16", free_bytes=free)
    return p.context, p.tokens


def test_what_is_asked_for() -> None:
    assert plan() == (4096, COMFORT)
    assert plan(ctx=100) == (100, COMFORT)
    assert plan(kv_tokens=5000) == (4096, 5000)
    assert plan(kv_tokens=1000) == (1000, 1000)
    assert plan(kv_tokens=1000, ctx=800) == (800, 1000)
    with pytest.raises(UsageError, match="5000 is more than the 4096"):
        plan(ctx=5000)
    with pytest.raises(UsageError, match="cannot hold one sequence"):
        plan(kv_tokens=700, ctx=800)


def test_what_memory_allows() -> None:
    token = 192
    half = 2 * token * 10_000  # half of the free memory may be used
    context, tokens = plan(free=half)
    assert context == 4096
    assert 10_000 - 32 <= tokens <= 10_000
    context, tokens = plan(free=2 * token * 1000)
    assert context == tokens
    assert 1000 - 32 <= tokens <= 1000
    assert tokens % 16 == 0
    with pytest.raises(ModelError, match="a context of 2000 tokens needs"):
        plan(free=2 * token * 1000, ctx=2000)
    with pytest.raises(ModelError, match="needs"):
        plan(free=2 * token * 30)
    settings = Settings(max_seqs=4, token_budget=64)
    cut = plan_state(
        (FULL,), settings, model_context=4096, kv_dtype="f16", free_bytes=2 * token * 1000
    )
    assert "context cut from 4096 to" in cut.notes[0]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("snapshots", [0, 3])
@pytest.mark.parametrize("groups", [(FULL,), (FULL, WINDOW), (WINDOW, FIXED), (FIXED,)])
def test_planned_bytes_are_what_is_allocated(
    groups: tuple[StateGroup, ...], snapshots: int, state: type[Memory]
) -> None:
    settings = Settings(max_seqs=4, token_budget=64)
    pool = StatePool(
        groups, tokens=2000, block_size=16, max_seqs=4, step_tokens=64, snapshots=snapshots
    )
    made = state(groups, pool.n_blocks, pool.n_slots, block_size=16, dtype="f16")
    assert made.nbytes == state_bytes(groups, settings, "f16", 2000, snapshots)
    for group, memory in zip(groups, made.memory, strict=True):
        if isinstance(memory, PagedMemory):
            assert memory.k.shape[0] == group.layers
            assert memory.k.shape[2:] == (16, 2, 8)
            assert not memory.k.any()
        else:
            slots = 1 + 4 + snapshots
            shapes = {name: tuple(t.shape) for name, t in memory.tensors.items()}
            assert shapes == {"h": (2, slots, 4, 2), "conv": (2, slots, 3)}


@pytest.mark.parametrize("state", STATES)
def test_slots_are_cleared_and_copied_in_order(state: type[Memory]) -> None:
    groups = (FIXED, StateGroup(Fixed((("s", (5,)),)), 1))
    made = state(groups, [0, 0], 6, block_size=16, dtype="f16")
    tensors = [t for memory in made.memory for t in memory.tensors.values()]
    for tensor in tensors:
        for slot in range(6):
            tensor[:, slot] = slot
    made.copy([(1, 2), (2, 3), (4, 1)])  # 3 gets what 1 had, through 2
    made.clear([5])
    for tensor in tensors:
        assert [float(tensor[0, slot].min()) for slot in range(6)] == [0, 4, 1, 1, 4, 0]
        assert [float(tensor[-1, slot].max()) for slot in range(6)] == [0, 4, 1, 1, 4, 0]


def test_snapshots_of_recurrent_state_give_way_to_tokens() -> None:
    def planned(free: int, groups: tuple[StateGroup, ...] = (FULL, FIXED), **kw: bool):
        chosen = Settings(max_seqs=8, token_budget=64, **kw)  # type: ignore[arg-type]
        return plan_state(groups, chosen, model_context=4096, kv_dtype="f16", free_bytes=free)

    assert planned(PLENTY).snapshots == 8
    assert planned(PLENTY, (FULL,)).snapshots == 0
    assert planned(PLENTY, prefix_cache=False).snapshots == 0
    assert planned(PLENTY, kv_cache=False).snapshots == 0
    slot, slots = 88, 9
    assert planned(PLENTY, (FIXED,)).nbytes == (slots + 8) * slot
    all_tokens = (COMFORT + 16) * 192  # the sink's block too
    some = planned(2 * (all_tokens + (slots + 5) * slot))
    assert (some.tokens, some.snapshots) == (COMFORT, 4)
    assert some.notes == (
        "4 snapshots of recurrent state are kept, not 8, because no more fit in memory: "
        "fewer prompts can reuse the computed beginning of another",
    )
    none = planned(2 * (2000 * 192 + slots * slot))
    assert (none.tokens, none.snapshots) == (1984, 0)
    assert "no prompts can reuse" in none.notes[0]
    assert "context cut from 4096" in none.notes[1]
    with pytest.raises(ModelError, match="the recurrent state of 8 sequences needs 792 bytes"):
        planned(2 * slots * slot - 2)


def test_a_window_costs_its_window() -> None:
    settings = Settings(max_seqs=4, token_budget=64)
    full = state_bytes((FULL,), settings, "f16", 100_000)
    assert state_bytes((WINDOW,), settings, "f16", 100_000) < full / 100


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("state", STATES)
def test_a_pool_costs_nothing_until_it_is_touched(state: type[Memory], dtype: str) -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    made = state([BIG], [1 << 16], 0, block_size=16, dtype=dtype)
    assert made.nbytes >= 512 << 20
    k = made.memory[0].k
    address = k.data_ptr() if state is TorchState else k.ctypes.data
    assert address % 64 == 0
    assert resident() - before < 16 << 20
    assert not k[3, 77].any()
    k[3, 77] = 2
    assert int((k[3, 76:79] == 2).sum()) == 16 * 2 * 8
    assert resident() - before < 16 << 20
    latent = StateGroup(PagedKV(1, 16, 0), 8)
    assert state([latent], [4], 0, block_size=16, dtype=dtype).memory[0].v.nbytes == 0


def test_the_machine_and_its_container(tmp_path: Path) -> None:
    proc, cgroup, cpus = tmp_path / "proc", tmp_path / "cgroup", tmp_path / "cpu"
    for folder in (proc, cgroup, cpus):
        folder.mkdir()
    (proc / "meminfo").write_text("MemTotal: 999 kB\nMemAvailable:   5000 kB\n")
    assert available_memory(proc, cgroup) == 5000 * 1024
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("1000\n")
    assert available_memory(proc, cgroup) == 5000 * 1024
    (cgroup / "memory.max").write_text("2000000\n")
    (cgroup / "memory.current").write_text("1500000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 300000\n")
    assert available_memory(proc, cgroup) == 800_000
    (cgroup / "memory.high").write_text("1900000\n")  # beyond it, a process is slowed to a stop
    assert available_memory(proc, cgroup) == 700_000
    assert available_memory(tmp_path, tmp_path) > 1 << 20  # nothing to read: the system's own

    mine = sorted(os.sched_getaffinity(0))
    assert allowed_cores(cpus, cgroup) == len(mine)
    for cpu in mine:  # all are threads of one core
        (cpus / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text("0-63\n")
    assert allowed_cores(cpus, cgroup) == 1
    (cgroup / "cpu.max").write_text("100000 100000\n")
    assert allowed_cores(tmp_path, cgroup) == 1
    (cgroup / "cpu.max").write_text("max 100000\n")
    assert allowed_cores(tmp_path, cgroup) == len(mine)


def test_keys_are_shared_only_where_rope_agrees() -> None:
    plain = RopeSpec(dim=4, inv_freq=(1.0, 0.1))
    none = RopeLengths([plain])
    assert none.salt(10) == none.salt(10**6) == RopeLengths([]).salt(1) == b""
    dynamic = RopeLengths([RopeSpec(4, (1.0, 0.1), dynamic=(1e4, 2.0, 100))]).salt
    assert dynamic(5) == dynamic(100) != dynamic(101) != dynamic(102)
    bent = RopeSpec(4, (1.0, 0.1), long_inv_freq=(0.5, 0.05), switch=50)
    long = RopeLengths([plain, bent]).salt
    assert long(5) == long(50) != long(51) == long(5000)
