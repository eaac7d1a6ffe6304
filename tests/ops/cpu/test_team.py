"""Threads, barrier and replay: every entry runs once on every thread, in order."""

import gc
import threading
import time

import numpy as np
import pytest

from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.team_memory import SLEEPERS
from tests.patience import LIMIT_S


@pytest.fixture(scope="module")
def entries(best):
    """Each thread adds its part: `team_probe.add` adds 1 to a private cell, `team_probe.copy`
    checks that every thread's cell has the value of this round."""
    best.load(["team_probe.add", "team_probe.check"])
    return best


def program(library, cells, wrong, rounds):
    add = library["team_probe.add"].pack(cells=cells)
    check = library["team_probe.check"].pack(cells=cells, wrong=wrong)
    rows = []
    for _ in range(rounds):
        rows.append(Instruction(library["team_probe.add"].address, add.address, 1))
        rows.append(Instruction(library["team_probe.check"].address, check.address, 1))
    return words(rows), (add, check)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_thread_passes_a_barrier_early(entries, threads):
    team = Team(entries, threads)
    cells, wrong = np.zeros((threads, 8), np.int64), np.zeros(threads * 8, np.int64)
    rows, _keep = program(entries, cells, wrong, 40)
    header = np.zeros(8, np.int64)
    for replay in range(30):
        team.run(rows, header)
        assert (cells[:, 0] == 40 * (replay + 1)).all()
    assert not wrong.any()
    team.close()
    team.close()


def test_asking_for_weights_at_a_barrier_changes_nothing(entries):
    """Also where they end within a thread's share, or are fewer than the threads."""
    for groups in (1, 2, 7, 4096):
        team = Team(entries, 3)
        cells, wrong = np.zeros((3, 8), np.int64), np.zeros(24, np.int64)
        rows, _keep = program(entries, cells, wrong, 20)
        weights = np.zeros(groups * 320, np.uint8)
        rows[:, 3], rows[:, 4], rows[:, 5] = weights.ctypes.data, groups, 320
        for _ in range(10):
            team.run(rows, np.zeros(8, np.int64))
        assert (cells[:, 0] == 200).all()
        assert not wrong.any()
        team.close()


def test_idle_threads_sleep(entries):
    others = set(threading.enumerate())  # teams of other tests may not have been collected yet
    team = Team(entries, 2)
    cells, wrong = np.zeros((2, 8), np.int64), np.zeros(16, np.int64)
    rows, _keep = program(entries, cells, wrong, 1)
    header = np.zeros(8, np.int64)
    team.run(rows, header)
    (thread,) = set(threading.enumerate()) - others
    assert thread.ident is not None
    its_clock = time.pthread_getcpuclockid(thread.ident)  # processor time of that thread
    before, until = time.clock_gettime(its_clock), time.monotonic() + LIMIT_S
    while team._memory[SLEEPERS // 8] == 0:
        assert time.monotonic() < until, "an idle thread never sleeps"
        time.sleep(0.002)
    used = time.clock_gettime(its_clock)
    assert used - before < 0.05  # it spins for 3 million ticks: 3 ms at 1 GHz
    began = time.monotonic()
    time.sleep(0.3)
    share = (time.clock_gettime(its_clock) - used) / (time.monotonic() - began)
    assert share < 0.01, "an idle thread uses the processor"
    for _ in range(20):  # and they wake again
        team.run(rows, header)
        time.sleep(0.003)
    assert cells[1, 0] == 21
    team.close()


def test_threads_end_with_the_team(entries):
    gc.collect()  # teams of other tests
    before = set(threading.enumerate())
    team = Team(entries, 3)
    assert len(set(threading.enumerate()) - before) == 2
    del team
    gc.collect()
    assert not set(threading.enumerate()) - before


def test_times_are_taken_at_each_entry(entries):
    team = Team(entries, 2)
    cells, wrong = np.zeros((2, 8), np.int64), np.zeros(16, np.int64)
    rows, _keep = program(entries, cells, wrong, 3)
    times = np.zeros(7, np.int64)
    team.run(rows, np.zeros(8, np.int64), times)
    assert (np.diff(times) > 0).all()
    team.close()
