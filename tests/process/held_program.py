"""A command whose engines are held (tests/process/held_engine.py): `python -m
tests.process.held_program NAME ARGS`, NAME being `daemon` or `main`, as in the console scripts."""

from __future__ import annotations

import sys

from rbee_worker.process import child

MODULE = "tests.process.held_engine"

if __name__ == "__main__":
    child.MODULE = MODULE
    child.spawn.__defaults__ = (MODULE, None)
    child.claim.__defaults__ = (MODULE, None)
    from rbee_worker.cli import main  # its defaults are this engine from here on

    name = sys.argv.pop(1)
    getattr(main, name)()
