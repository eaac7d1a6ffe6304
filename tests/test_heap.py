"""The heap of a long-lived process: few arenas, and free memory goes back to the system."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rbee_worker.heap import HEAPS

# Eight threads each hold 8 MB at the same time and free it; before that, a block of 16 MB is freed,
# which makes glibc keep blocks of that size unless it is told otherwise.
PROGRAM = """
import ctypes, json, re, sys, tempfile, threading
from rbee_worker.heap import settle
done = settle() if sys.argv[1] == "settled" else True
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.free(libc.malloc(16 << 20))
held = threading.Barrier(8)

def work():
    blocks = [libc.malloc(100_000) for _ in range(80)]
    held.wait()
    for block in blocks:
        libc.free(block)
    held.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
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
    assert kept > 2 * size  # 64 MB beside 17 or 25
