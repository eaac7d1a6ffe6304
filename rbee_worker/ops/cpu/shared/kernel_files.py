"""Compiled kernels as files of a folder: their names, reading them, and making them.

Object files are `<name>-<key>.o`, with their argument structs in `.json`. Child processes compile
them (`compile.py`), so that LLVM's memory goes back to the system.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rbee_worker.errors import ModelError
from rbee_worker.ops.cpu.shared.isa import Isa
from rbee_worker.ops.cpu.shared.kernel_sources import PACKAGE, source_digest

if TYPE_CHECKING:
    import subprocess

TEMPORARY = ".part"  # ends the name of a file that is being written
UNWRITABLE = 74  # exit code of `compile.py`: a file could not be written; EX_IOERR of sysexits.h
RECORD = 128  # bytes of a kernel's name, padded with spaces, as `compile.py` reads it

Progress = Callable[[int, int, str], None]  # (kernels done, kernels in all, last one's name or "")


@dataclass(frozen=True)
class Compiled:
    """Object code, and the fields of its argument struct: (name, "ptr" | "int" | "float")."""

    name: str
    code: bytes
    fields: tuple[tuple[str, str], ...]


class CannotKeep(ModelError):
    """The folder of compiled kernels cannot be written."""

    def __init__(self, where: Path, why: str) -> None:
        super().__init__(
            f"compiled CPU kernels cannot be kept in {where}: {why}.",
            fix="make it writable, or choose another --cache-dir.",
        )
        self.where, self.why = where, why


def symbol(name: str) -> str:
    """The C function's name in the object file of kernel `name`."""
    return "rbee_" + re.sub(r"\W", "_", name)


@functools.cache
def stem(name: str, where: Path | None = None) -> str:
    """File name of kernel `name`, without ending. It changes with any source the kernel is made of.

    where: the folder of the file.
    """
    return f"{name}-{source_digest(name, where)}"


def read(name: str, path: Path) -> Compiled:
    """Kernel `name` from its files. path: theirs, without ending."""
    fields = json.loads(path.with_name(path.name + ".json").read_bytes())
    code = path.with_name(path.name + ".o").read_bytes()
    return Compiled(name, code, tuple((field, kind) for field, kind in fields))


def compile_into(names: Sequence[str], where: Path, isa: Isa, report: Progress, jobs: int) -> None:
    """Compile `names` in `jobs` processes at most, which take them in turn, and report progress.

    Raises CannotKeep where files cannot be written, ModelError.
    """
    report(0, len(names), "")
    with open(os.memfd_create("complaints"), "w+b") as complaints:  # needs no folder
        with _child(where, isa, min(jobs, len(names)), complaints) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            with suppress(BrokenPipeError), child.stdin:
                for name in names:
                    child.stdin.write(name.ljust(RECORD).encode())
            with child.stdout:  # if `report` raises, closing it stops the processes
                for done, line in enumerate(child.stdout, 1):
                    report(done, len(names), line.decode().strip())
        if child.returncode == 0:
            return
        complaints.seek(0)
        last = complaints.read().decode().strip().splitlines()[-1:]
    if child.returncode == UNWRITABLE:
        raise CannotKeep(where, "".join(last))
    raise ModelError(
        f"compiling CPU kernels for {isa.name} failed: {''.join(last) or child.returncode}",
        fix="report it with the output of RBEE_CPU_ISA=portable, which may run meanwhile.",
    )


def _child(where: Path, isa: Isa, jobs: int, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[4])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    import subprocess

    return subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", f"{PACKAGE}.compiler.compile"),
            *(str(where), isa.cpu, isa.features, str(jobs)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        # numpy would start threads that nobody uses, and threads make forking unsafe
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
    )
