"""The heap of a long-lived process: few arenas, and free memory goes back to the system."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest

from rbee_worker.heap import HEAPS, SWEEP_EVERY_S, Sweep

# Eight threads each hold 8 MB at the same time and free it; before that, a block of 16 MB is freed,
# which makes glibc keep blocks of that size unless it is told otherwise. Nothing else may be made
# meanwhile: if it lies behind their blocks, a heap keeps all that is before it, and whether it does
# depends on which thread comes first. So all threads are there before one takes memory, and they
# wait for locks that exist (a Barrier makes one for each that waits). A thread gives back what it
# has at hand when it ends, which is later than `join` returns: the program waits for that, too.
PROGRAM = """
import ctypes, json, os, re, sys, tempfile, threading, time
from rbee_worker.heap import settle
done = settle() if sys.argv[1] == "settled" else True
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(16 << 20))
gates = [[threading.Lock() for _ in range(6)] for _ in range(8)]
for gate in sum(gates, []): gate.acquire()
places = [(ctypes.c_void_p * 80)() for _ in gates]

def work(blocks, here, fill, held, free, empty, end):
    here.release()
    fill.acquire()
    for i in range(80):
        blocks[i] = libc.malloc(100_000)
    held.release()
    free.acquire()
    for block in blocks:
        libc.free(block)
    empty.release()
    end.acquire()

threads = [threading.Thread(target=work, args=(p, *g)) for p, g in zip(places, gates)]
for thread in threads: thread.start()
for step in 0, 2, 4:  # all threads have come so far, before any goes on
    for gate in gates: gate[step].acquire()
    for gate in gates: gate[step + 1].release()
for thread in threads: thread.join()
while len(os.listdir("/proc/self/task")) > 1: time.sleep(0.001)
libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
with tempfile.NamedTemporaryFile() as file:
    stream = libc.fopen(file.name.encode(), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    told = file.read().decode()
size = int(re.findall(r'<system type="current" size="(\\d+)"/>', told)[-1])
print(json.dumps([done, told.count("<heap "), size]))
"""


def heaps(how: str) -> tuple[int, int]:
    """(heaps, bytes that they hold) after the program."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True)
    if "malloc_info" in ran.stderr:
        pytest.skip("the C library is not glibc")
    assert ran.returncode == 0, ran.stderr
    done, count, size = json.loads(ran.stdout)
    assert done
    return count, size


def test_threads_share_few_heaps_that_return_what_they_do_not_need() -> None:
    count, size = heaps("settled")
    assert count <= HEAPS
    before, kept = heaps("as it is")  # what it is about: glibc's own way
    assert before > HEAPS
    assert kept > 10 * size  # 66 MB beside 2


def test_a_sweep_frees_the_tuples_that_the_interpreter_keeps() -> None:
    now = [5.0]
    sweep = Sweep(lambda: now[0])
    gc.collect()
    held = [(n,) * 19 for n in range(1000)]
    del held  # they are still there, for the next tuples of 19
    before = sys.getallocatedblocks()
    now[0] += SWEEP_EVERY_S - 1
    sweep()
    assert before - sys.getallocatedblocks() < 100
    now[0] += 1
    sweep()
    assert before - sys.getallocatedblocks() > 900
    now[0] += 1
    collected = gc.get_stats()[2]["collections"]
    sweep()
    assert gc.get_stats()[2]["collections"] == collected  # it is counted from the last one
