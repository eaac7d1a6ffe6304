"""Recording: memory is shared only by what does not live together, barriers stand where needed."""

import random
from itertools import pairwise

import numpy as np
import pytest

from rbee_worker.ops.cpu.runtime.header import Header, Shape
from rbee_worker.ops.cpu.runtime.matrix import Part
from rbee_worker.ops.cpu.runtime.program import finish
from rbee_worker.ops.cpu.runtime.recorder import (
    ALL,
    ROWS,
    Recorder,
    Result,
    Touch,
    cells,
    reads,
    writes,
)
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.held import HELD
from rbee_worker.ops.cpu.shared.regions import Place


def test_buffers_alive_together_never_overlap():
    rng, recorder = random.Random(1), Recorder(7, 1)
    alive = []
    for _ in range(400):
        if alive and rng.random() < 0.5:
            alive.pop(rng.randrange(len(alive)))
        alive.append(recorder.buffer(rng.choice([1, 8, 64, 576, 1000])))
        places = sorted((b.region.place.first, b.region.place.last) for b in alive)
        assert all(a[1] <= b[0] for a, b in pairwise(places))
        assert all(p.region.place.first % 64 == 0 for p in alive)


def test_memory_is_not_lent_again_while_somebody_may_use_it():
    recorder = Recorder(16, 1)
    first = recorder.buffer(64)
    view = first.columns(16, 32)
    place = first.region.place
    del first
    assert recorder.buffer(64).region.place != place  # the view holds it
    del view
    assert recorder.buffer(64).region.place != place  # another thread may still be at it


def test_memory_is_lent_again_after_the_next_barrier():
    recorder = Recorder(16, 1)
    kept, dropped = recorder.buffer(64), recorder.buffer(64)
    place = dropped.region.place
    recorder.call("a", [writes(kept), writes(dropped)])
    del dropped
    recorder.call("b", [reads(kept)])  # every thread reads what it wrote itself
    assert recorder.buffer(64).region.place != place
    recorder.call("c", [reads(kept, ALL)])
    assert [e.barrier for e in recorder.entries] == [False, False, True]
    assert recorder.buffer(64).region.place == place


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (("w", ROWS), ("r", ROWS), False),
        (("w", ROWS), ("r", ALL), True),
        (("w", ALL), ("r", ALL), True),
        (("r", ALL), ("r", ALL), False),
        (("r", ALL), ("w", ROWS), True),
        (("w", cells(4)), ("r", cells(4)), False),
        (("w", cells(4)), ("r", cells(8)), True),
        (("w", cells(4)), ("w", ROWS), True),
    ],
)
def test_threads_wait_where_they_may_meet(before, after, expected):
    place = Place(0, 64)
    a, b = (Touch(place, share, how == "w") for how, share in (before, after))
    assert a.conflicts(b) == b.conflicts(a) == expected
    assert not a.conflicts(Touch(Place(64, 128), ALL, True))
    overlapping = Touch(Place(0, 128), before[1], True)  # another shape: other rows, other threads
    assert a.conflicts(overlapping)


def test_one_barrier_serves_all_that_came_before():
    recorder = Recorder(4, 1)
    x, y, z = (recorder.buffer(32) for _ in range(3))
    recorder.call("a", [writes(x, ALL)])
    recorder.call("b", [writes(y, ALL)])
    recorder.call("c", [reads(x, ROWS), writes(z, ROWS)])
    recorder.call("d", [reads(y, ROWS), reads(z, ROWS)])
    recorder.call("e", [reads(z, ALL)])
    assert [e.barrier for e in recorder.entries] == [False, False, True, False, True]


def test_addresses_lie_in_the_arena(best):
    recorder = Recorder(3, 1)
    x, y = recorder.buffer(20), recorder.buffer(20)
    recorder.call(
        "each.scale", [reads(x), writes(y)], x=x.slot, x_stride=x.stride, y=y.slot,
        y_stride=y.stride, width=20, cell=20, a=2.0,
    )  # fmt: skip
    program = finish(recorder, best, y)
    assert program.names == ["each.scale"]
    assert program.barriers == 0
    assert program.view(y, 3).shape == (3, 20)
    first, second = (program.view(b, 3).ctypes.data for b in (x, y))
    assert second - first == y.slot.offset - x.slot.offset
    assert np.isfinite(program.nbytes)


def test_entries_know_what_the_next_product_reads(best):
    recorder = Recorder(1, 1)
    x = recorder.buffer(16)
    parts = [
        Part(HELD["q4_0"], np.zeros(288 * groups, np.uint8), 0, 16 * groups) for groups in (2, 3)
    ]
    for part in (None, parts[0], None, parts[1], None):
        recorder.call(
            "each.scale", [reads(x), writes(x)], product=part,
            dealt=part.groups - 1 if part else 0, x=x.slot, x_stride=16, y=x.slot,
            y_stride=16, width=16, cell=16, a=1.0,
        )  # fmt: skip
    entries = finish(recorder, best, x).entries
    told = [(p.data.ctypes.data, p.rows // 16 - 1, 288) for p in parts]
    assert entries[:, 3:6].tolist() == [list(told[i]) for i in (0, 0, 1, 1)] + [[0, 0, 0]]


def test_each_thread_has_its_own_row(best):
    """What every thread made for itself needs no barrier, and is right in every copy."""
    width, threads = 32 * 6, 3
    recorder = Recorder(1, threads)
    assert recorder.replicates(width)
    assert not recorder.replicates(1 << 20)
    assert not Recorder(2, threads).replicates(width)
    x, y = recorder.buffer(width), recorder.buffer(width)
    a, b = (recorder.buffer(width, private=True) for _ in range(2))

    def scale(source, to, share, factor):
        recorder.call(
            "each.scale", [reads(source, share), writes(to, share)], x=source.slot,
            x_stride=width, y=to.slot, y_stride=width, width=width, cell=32, a=factor,
        )  # fmt: skip

    scale(x, a, cells(6), 2.0)
    scale(a, b, cells(6), 3.0)
    scale(b, y, cells(6), 5.0)  # each thread some cells, from its own copy
    scale(y, a, cells(6), 7.0)
    assert [e.barrier for e in recorder.entries] == [False, False, False, True]
    with pytest.raises(AssertionError):
        recorder.call("each.scale", [writes(a), writes(y)])  # all of it, or a share?
    program = finish(recorder, best, y)
    team = Team(best, threads)
    given = np.random.default_rng(1).standard_normal((1, width)).astype(np.float32)
    np.copyto(program.view(x, 1), given)
    header = Header((), (), Shape(1, 1, 1, 16, "f32")).rows(1)
    assert np.array_equal(program.run(team, header, 1), given * 2 * 3 * 5)
    assert np.array_equal(program.view(a, 1), given * 2 * 3 * 5 * 7)
    team.close()


def test_a_replay_may_end_with_a_stage(best):
    """A stage, the whole, a stage again."""
    team = Team(best, 2)
    recorder = Recorder(4, team.threads)
    x, y, z = (recorder.buffer(16) for _ in range(3))
    stages = []
    for a, source, to in ((2.0, x, y), (5.0, y, z)):
        recorder.call(
            "each.scale", [reads(source), writes(to)], x=source.slot, x_stride=16, y=to.slot,
            y_stride=16, width=16, cell=16, a=a,
        )  # fmt: skip
        stages.append(Result(to, len(recorder.entries)))
    program = finish(recorder, best, z, stages[:1])
    given = program.view(x, 4)
    header = Header((), (), Shape(4, 4, 16, 16, "f32"))
    for n in (3, 4):
        given[:] = np.arange(64.0).reshape(4, 16) + n
        program.view(z, 4)[:] = 0
        first = program.run(team, header.rows(n), n, stage=0)
        assert np.array_equal(first, 2 * given[:n])
        assert not program.view(z, 4).any()
        last = program.run(team, header.rows(n), n)
        assert np.array_equal(last, 10 * given[:n])
        times = []
        assert program.run(team, header.rows(n), n, times, stage=0) is first
        assert program.run(team, header.rows(n), n, times) is last
        assert [len(t) for t in times] == [2, 3]  # the clock before each entry, and at the end
    team.close()
