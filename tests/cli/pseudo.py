"""A program on a pseudo terminal: send keys, wait for text."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

from tests.patience import LIMIT_S

ROOT = Path(__file__).parents[2]
CTRL_C, CTRL_D, ENTER, ALT_ENTER = "\x03", "\x04", "\r", "\x1b\r"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]|\x1b\][^\x07]*\x07")

# The terminal must be the session's own, or Ctrl-C reaches nobody.
_OWN_TERMINAL = "import os; os.close(os.open(os.ttyname(0), os.O_RDWR)); "


def cpu_seconds(folder: Path, *args: str) -> float:
    """Processor time of the program itself, from exec to exit, without its engine process.

    Where it waits for nothing, that is what a person waits on an idle machine, and it says so on a
    busy one too.
    """
    code = f"sys.argv = {['rbee-worker', *args]!r}\nfrom rbee_worker.cli.main import main\nmain()"
    return _cpu_seconds(folder, code)


def import_seconds(folder: Path, modules: str) -> float:
    """Processor time of an interpreter that imports `modules` and does nothing: the peer."""
    return _cpu_seconds(folder, f"import {modules}")


def _cpu_seconds(folder: Path, code: str) -> float:
    told = folder / "cpu"
    code = (
        "import atexit, resource, sys\n"
        "def tell():\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        f"    open({str(told)!r}, 'w').write(str(used.ru_utime + used.ru_stime))\n"
        "atexit.register(tell)\n" + code
    )
    # compiled modules may be kept, as an installed package has them
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=LIMIT_S)
    return float(told.read_text())


class Terminal:
    """Runs Python code on a terminal of its own; `screen` is all it wrote, without escapes."""

    def __init__(self, code: str, home: Path, **environ: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL + code],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            cwd=ROOT,
            env={
                **os.environ,
                "HOME": str(home),
                "XDG_STATE_HOME": str(home),
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                **environ,
            },
        )
        os.close(slave)
        self._raw = b""
        self._seen = 0

    @property
    def raw(self) -> str:
        """All it wrote, with escapes."""
        return self._raw.decode(errors="replace")

    @property
    def screen(self) -> str:
        return _ESCAPES.sub("", self._raw.decode(errors="replace"))

    def send(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, seconds: float = LIMIT_S) -> None:
        """Until `text` comes after what earlier calls waited for."""
        until = time.monotonic() + seconds
        while (at := self.screen.find(text, self._seen)) < 0:
            left = until - time.monotonic()
            assert left > 0, f"no {text!r} in {self.screen[self._seen :]!r}"
            assert self._read(left), f"left before {text!r}: {self.screen[self._seen :]!r}"
        self._seen = at + len(text)

    def prompt(self, seconds: float = LIMIT_S) -> None:
        """Until a prompt is drawn that reads keys.

        Between two prompts the kernel reads them: Ctrl-D would be lost, Ctrl-C a signal. Wait for
        what the last line answered first, or the prompt found is the one it was typed at.
        """
        self.wait_for("› ", seconds)
        until = time.monotonic() + seconds
        while termios.tcgetattr(self._master)[3] & termios.ICANON:
            assert time.monotonic() < until, f"no prompt in {self.screen!r}"
            time.sleep(0.005)

    def break_off(self, line: str) -> None:
        """Type a line, then Ctrl-C, until the prompt that follows. Before that the line is drawn
        once more behind its own prompt, which is no prompt to type at."""
        self.send(line)
        self.wait_for(line)
        self.send(CTRL_C)
        self.wait_for(line)
        self.prompt()

    def leave(self, seconds: float = LIMIT_S) -> int:
        """Until the program ends: its exit code."""
        while self._read(seconds):
            pass
        return self._process.wait(seconds)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], seconds)
        try:
            piece = os.read(self._master, 65536) if ready else b""
        except OSError:  # Linux says so when the other side has closed
            return False
        self._raw += piece
        return bool(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
