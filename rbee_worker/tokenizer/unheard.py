"""Calls into a library that writes to standard error by itself, where nobody wants to read it.

The Rust code of `tokenizers` prints a trace whenever it panics, although the panic is caught and
told in one line; nothing turns that off. Standard error is one for the whole process, and what
other threads write there must arrive. So the call is made in a thread that has a table of file
descriptors of its own (Linux can do that), in which descriptor 2 leads nowhere.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_CLOSE_RANGE = 436  # the number of the system call on every architecture
_UNSHARE = 2  # CLOSE_RANGE_UNSHARE: in a copy of the table that is this thread's alone


def unheard(call: Callable[[], T]) -> T:
    """The result of `call`, or what it raises; what it writes to descriptor 2 is dropped.

    `call` must use no file: its thread has no other descriptors. Where the system cannot give a
    thread its own, `call` is heard.
    """
    made: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        _deafen()
        try:
            made.append(call())
        except BaseException as error:  # a panic is no Exception
            raised.append(error)

    thread = threading.Thread(target=run, name="unheard")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return made[0]


def _deafen() -> None:
    """Give this thread descriptors of its own: 0, 1, and a 2 that leads nowhere."""
    if sys.platform != "linux":
        return
    import ctypes  # slow to import, and seldom needed

    number = ctypes.c_long(_CLOSE_RANGE)
    first, last, flags = ctypes.c_uint(3), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(_UNSHARE)
    if ctypes.CDLL(None).syscall(number, first, last, flags) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
