"""Compiled kernels as files of a folder: their names, reading them, and making them.

Object files are `<name>-<key>.o`; `.json` has their argument structs and a digest, by which files
that are damaged are found and made again. Child processes compile them (`compile.py`), so that
LLVM's memory goes back to the system.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

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


class _Described(msgspec.Struct, frozen=True):
    """The `.json` of an object file. digest: of its code and of `fields`."""

    fields: tuple[tuple[str, str], ...]
    digest: str


def described(fields: tuple[tuple[str, str], ...], code: bytes) -> bytes:
    """The content of the `.json` that belongs to `code`."""
    return msgspec.json.encode(_Described(fields, _digest(fields, code)))


def read(name: str, path: Path) -> Compiled:
    """Kernel `name` from its files. path: theirs, without ending. Raises OSError, and ValueError if
    they are not what was written: after a loss of power a file may be cut, or have zeros."""
    file = path.with_name(path.name + ".json")
    try:
        told = msgspec.json.decode(file.read_bytes(), type=_Described)
    except msgspec.DecodeError as error:
        raise ValueError(f"{file} is damaged") from error
    code = path.with_name(path.name + ".o").read_bytes()
    if told.digest != _digest(told.fields, code):
        raise ValueError(f"{path} is damaged")
    return Compiled(name, code, told.fields)


def _digest(fields: tuple[tuple[str, str], ...], code: bytes) -> str:
    made = hashlib.sha256(repr(fields).encode() + b"\0")
    made.update(code)
    return made.hexdigest()[:32]


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
