"""The two console scripts. The engine's process starts before this one has imported anything."""

from __future__ import annotations

import os
import signal
import sys

from rbee_worker.cli.output import whole_streams
from rbee_worker.process import child

_LOCAL = ("generate", "chat")  # commands that begin with an engine of their own
_OTHERWISE = ("--help", "-h", "--url")  # options with which they do without one


def main() -> None:
    """Console script `rbee-worker`: runs a command and exits with its code."""
    whole_streams()
    # No command multiplies with numpy, whose threads would spin from its import on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with child.early(_wants_engine(sys.argv[1:])):
            from rbee_worker.cli.app import run  # only now: it imports for a quarter of a second

            code = run()
    except (ImportError, OSError, MemoryError) as error:  # before a command could begin
        code = _cannot_begin(error)
    except KeyboardInterrupt:  # during the imports; commands have their own way to end
        from rbee_worker.errors import INTERRUPTED

        # An interrupt within an exec, as dataclasses are made with, is remembered until the next
        # one: at the end of `python -m`, Python would die of it instead of exiting with our code.
        exec("")
        code = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is leaving already, with a code that says why
    sys.exit(code)


def _cannot_begin(error: ImportError | OSError | MemoryError) -> int:
    """One line for what the process has too little of, or a package that is missing; the exit
    code."""
    from rbee_worker.extras import said_of
    from rbee_worker.machine import shortage

    short = shortage(error)
    said = short or said_of(error)
    if said is None:
        raise error
    sys.stderr.write(f"error: {said[0]} Fix: {said[1]}\n")
    return 2 if short is None else 3


def daemon() -> None:
    """Console script `llm-worker-rbee`, which orchestrators spawn: `rbee-worker serve`."""
    sys.argv[1:1] = ["serve"]
    main()


def _wants_engine(words: list[str]) -> bool:
    """Will this command line start an engine, as far as can be told before it is understood?"""
    without = any(word.partition("=")[0] in _OTHERWISE for word in words)
    return bool(words) and words[0] in _LOCAL and not without
