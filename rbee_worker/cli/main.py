"""The two console scripts. They start the engine's process before they import anything else."""

from __future__ import annotations

import gc
import os
import signal
import sys

from rbee_worker.cli.output import whole_streams
from rbee_worker.process import child

_LOCAL = ("generate", "chat", "embed", "speak")  # commands that start an engine of their own
_OTHERWISE = ("--help", "-h", "--url")  # options with which these commands need no engine


def main() -> None:
    """Console script `rbee-worker`: runs a command and exits with its code."""
    whole_streams()
    gc.disable()  # imports make objects to stay; looking for garbage among them takes a tenth
    # No command multiplies matrices with numpy, whose threads would spin from its import on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with child.early(_wants_engine(sys.argv[1:])):
            from rbee_worker.cli.app import run  # imported late: it takes a quarter of a second

            gc.freeze()
            gc.enable()
            code = run()
    except (ImportError, OSError, MemoryError) as error:  # before a command could begin
        code = _cannot_begin(error)
    except KeyboardInterrupt:  # during the imports; afterwards the commands handle it
        from rbee_worker.errors import INTERRUPTED

        # CPython keeps a KeyboardInterrupt raised inside exec() (dataclasses use it) pending until
        # the next exec(). Clear it here, or the interpreter dies with the wrong exit code.
        exec("")
        code = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process already exits, with the right code
    sys.exit(code)


def _cannot_begin(error: ImportError | OSError | MemoryError) -> int:
    """Print one line about a missing package, or about what the process has too little of; returns
    the exit code."""
    from rbee_worker.extras import said_of
    from rbee_worker.machine import shortage

    short = shortage(error)
    said = short or said_of(error)
    if said is None:
        raise error
    sys.stderr.write(f"error: {said[0]} Fix: {said[1]}\n")
    return 2 if short is None else 3


def daemon() -> None:
    """Console script `llm-worker-rbee`, which orchestrators start: `rbee-worker serve`."""
    sys.argv[1:1] = ["serve"]
    main()


def _wants_engine(words: list[str]) -> bool:
    """Whether this command line will start an engine, as far as a look at its words can tell."""
    without = any(word.partition("=")[0] in _OTHERWISE for word in words)
    return bool(words) and words[0] in _LOCAL and not without
