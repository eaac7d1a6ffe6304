"""Turns an exception into one line on stderr and an exit code (docs/worker-api.md, exit codes)."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click
from click.exceptions import Exit

from rbee_worker.cli.terminal import error_line
from rbee_worker.errors import INTERRUPTED, InferenceFailed, ModelError, WorkerError
from rbee_worker.extras import explained


@contextmanager
def one_line(debug: bool) -> Iterator[None]:
    """Runs a command's body. Any failure becomes one line on stderr and an `Exit`.

    debug: print the traceback first.
    """
    try:
        yield
    except WorkerError as e:
        raise _exit(e.line, e.exit_code, debug) from e
    except KeyboardInterrupt as e:
        raise Exit(INTERRUPTED) from e
    except BrokenPipeError as e:
        # The reader has gone (`| head`): nothing more can be written, not even at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(1) from e
    except OSError as e:
        if (short := explained(e)) is not None:
            raise _exit(short.line, short.exit_code, debug) from e
        what = f"{e.filename}: {e.strerror}" if e.filename else str(e)
        error = ModelError(f"{what}.", fix="check the path, its permissions and the free space")
        raise _exit(error.line, 1, debug) from e
    except (Exit, click.Abort):
        raise
    except Exception as e:
        if (known := explained(e)) is not None:
            raise _exit(known.line, known.exit_code, debug) from e
        raise _exit(InferenceFailed(f"internal: {type(e).__name__}: {e}").line, 1, debug) from e


def _exit(message: str, code: int, debug: bool) -> Exit:
    if debug:
        traceback.print_exc()
    error_line(message)
    return Exit(code)
