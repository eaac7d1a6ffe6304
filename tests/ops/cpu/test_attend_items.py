"""The list of an attention layer's work: every query of a step once, with every key it sees."""

import random

import numpy as np
import pytest

from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.recorder import Recorder
from rbee_worker.ops.cpu.runtime.recording import Recording
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import attend_items as work
from rbee_worker.ops.cpu.shared import paged, step
from rbee_worker.state.specs import PagedKV, StateGroup, StateRef

WORDS = work.ITEM_BYTES // 8
LONGEST = 3000


def listed(library, sequences, heads, kv_heads, threads, window, causal=True):
    """Whether spans are split, and the items int64 [n, 6], for sequences (tokens, keys)."""
    tile, rows = paged.tiling(heads, kv_heads), sum(n for n, _ in sequences)
    starts = np.cumsum([0] + [n for n, _ in sequences])
    lens = np.array([keys for _, keys in sequences])
    header = np.zeros(step.words(0, 0), np.int64)
    for at, value in (
        (step.N, rows), (step.B, len(sequences)),
        (step.SEQ_STARTS, starts.ctypes.data), (step.KV_LENS, lens.ctypes.data),
    ):  # fmt: skip
        header[at // 8] = value
    room = work.list_bytes(rows, tile, kv_heads, threads, LONGEST)
    items = np.full(room // 8 + 8, -7, np.int64)
    for tid in range(threads):
        library["attend.plan"](
            header.ctypes.data, tid, threads, items=items, heads=heads, kv_heads=kv_heads,
            rows=tile.rows, chunk=tile.heads, threads=threads, window=window,
            causal=int(causal), lens=step.KV_LENS,
        )  # fmt: skip
    assert (items[room // 8 :] == -7).all()
    count, first = items[work.COUNT // 8], work.ITEMS // 8
    return bool(items[work.SPLIT // 8]), items[first : first + WORDS * count].reshape(-1, WORDS)


def seen(position, window, length, causal):
    """The keys that a query sees, by the masks' definition."""
    if not causal:
        keys = np.arange(length)
        return keys[abs(position - keys) < window] if window else keys
    keys = np.arange(position + 1)
    if window > 0:
        return keys[position - keys < window]
    return keys if window == 0 else keys[keys // -window == position // -window]


WINDOWS = [(w, True) for w in (0, 1, 100, 700, -64, -300)] + [(w, False) for w in (0, 1, 65, 300)]


@pytest.mark.parametrize(("window", "causal"), WINDOWS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (1, 1), (80, 1), (8, 8)])
@pytest.mark.parametrize("threads", [1, 16])
def test_every_query_comes_once_with_all_its_keys(
    library, heads, kv_heads, threads, window, causal
):
    rng = random.Random(heads + threads + window)
    kinds = [[(1, 1)], [(1, LONGEST)], [(40, 40), (1, 700), (17, 1300)], [(3, 512)] * 3]
    kinds.append([(n, n + rng.randrange(900)) for n in rng.choices(range(1, 60), k=30)])
    for sequences in kinds:
        split, items = listed(library, sequences, heads, kv_heads, threads, window, causal)
        tile, units = paged.tiling(heads, kv_heads), {}
        for *unit, span, left in items.tolist():
            units.setdefault(tuple(unit), []).append((span, left))
        found = set()
        for (sequence, first, last, kv_head, head, count), spans in units.items():
            start = sum(n for n, _ in sequences[:sequence])
            tokens, keys = sequences[sequence]
            assert start <= first < last <= start + tokens
            assert last - first <= tile.rows
            base = keys - start - tokens
            end = spans[0][0] + spans[0][1]
            assert spans == [
                (n, end - n) for n in range(spans[0][0], end if split else spans[0][0] + 1)
            ]
            visible = [seen(base + row, window, keys, causal) for row in range(first, last)]
            assert spans[0][0] == min(v[0] for v in visible) // paged.SPAN
            assert end == max(v[-1] for v in visible) // paged.SPAN + 1
            assert 0 < count <= tile.heads
            assert {h * kv_heads // heads for h in range(head, head + count)} == {kv_head}
            queries = {(row, head + k) for row in range(first, last) for k in range(count)}
            assert not queries & found
            found |= queries
        rows = sum(n for n, _ in sequences)
        assert found == {(row, h) for row in range(rows) for h in range(heads)}
        assert split == (len(units) < 2 * threads)


def test_layers_of_one_shape_share_a_list(best):
    """The first of them writes it, before the barrier that keys need anyway."""
    team = Team(best, 2)
    ops, recorder = CpuOps(best, team), Recorder(4, 2)
    group = StateGroup(PagedKV(2, 32, 32), 3)
    ops.recording = Recording(recorder, (group,), "f32", 16, LONGEST)
    q, kv = recorder.buffer(4 * 32), recorder.buffer(2 * 32)
    for layer, window in enumerate((None, 100, None)):
        ops.attend(q, kv, kv, StateRef(0, layer), None, heads=4, scale=0.1, window=window)
    names = [entry.kernel for entry in recorder.entries]
    layers = [["kv.f32", "attend.plan"], ["kv.f32", "attend.plan"], ["kv.f32"]]
    assert names == [n for layer in layers for n in [*layer, "attend.f32", "attend.combine"]]
    assert [e.kernel for e in recorder.entries if e.barrier] == ["attend.f32", "attend.combine"] * 3
    team.close()
