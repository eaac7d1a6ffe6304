"""What commands print beside their answer: the one module that knows about terminals and colours.

The answer goes to stdout; everything else (progress, narrations, statistics, errors) to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rbee_worker.errors import one_line
from rbee_worker.observe.visible import visible

_DIM, _RED, _BOLD, _OFF = "\x1b[2m", "\x1b[31m", "\x1b[1m", "\x1b[0m"
_CLEAR_LINE = "\r\x1b[2K"


def is_rich(stream: TextIO) -> bool:
    """Whether escape sequences may be written to `stream` (https://no-color.org)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ


def dim(text: str, stream: TextIO) -> str:
    """`text` in grey, if `stream` can show it."""
    return f"{_DIM}{text}{_OFF}" if is_rich(stream) else text


def bold(text: str, stream: TextIO) -> str:
    """`text` in bold, if `stream` can show it."""
    return f"{_BOLD}{text}{_OFF}" if is_rich(stream) else text


def aside(text: str) -> None:
    """Write grey text to stderr, with control characters made visible."""
    sys.stderr.write(dim(visible(text), sys.stderr) + "\n")
    sys.stderr.flush()


def note(text: str) -> None:
    """Write `note: text` to stderr as one line: something the user should know about the model."""
    aside(f"note: {flat(text)}")


def error_line(message: str) -> None:
    """Write `error: message` to stderr as one line."""
    head = f"{_RED}error:{_OFF}" if is_rich(sys.stderr) else "error:"
    sys.stderr.write(f"{head} {one_line(' '.join(message.split()))}\n")
    sys.stderr.flush()


def flat(text: str) -> str:
    """`text` without line breaks and, since it may quote a file or a template, made `visible`."""
    return visible(" ".join(text.split()))


def one_row(text: str) -> str:
    """`text` with its spaces kept and made `visible`, line breaks included."""
    return visible(text).replace("\n", "\u240a")


def write_answer(text: str) -> None:
    """Write a piece of the answer at once; on a terminal, control characters are made visible."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_reasoning(text: str) -> None:
    """Write a piece of the model's reasoning to stderr, in grey, with control characters made
    visible."""
    sys.stderr.write(dim(visible(text), sys.stderr))
    sys.stderr.flush()


@contextmanager
def no_echo() -> Iterator[None]:
    """Inside the block, the terminal does not echo keys (such as ^C) into the program's output."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Status:
    """One line on stderr that is overwritten repeatedly, then removed; nothing without a
    terminal."""

    def __init__(self) -> None:
        self._on = is_rich(sys.stderr)
        self._shown = False

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._on:
            sys.stderr.write(f"{_CLEAR_LINE}{_DIM}{flat(text)}{_OFF}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
            self._shown = False


def size(nbytes: float) -> str:
    """A size as text: 93.4 MB (powers of ten, as disks and downloads are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def download_progress(show: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """A progress callback (name, bytes done, bytes in total or 0) that calls `show` with text."""

    def progress(name: str, done: int, total: int) -> None:
        show(f"Fetching {name}: {size(done)}" + (f" of {size(total)}" if total else ""))

    return progress
