"""The compiling process: `python -m rbee_worker.ops.cpu.compiler.compile FOLDER CPU FEATURES JOBS`.

A separate process, so that LLVM's memory goes back to the system. After its imports it forks into
JOBS processes. All of them read kernel names from one standard input, in records of `RECORD` bytes,
until it ends. For each name they write FOLDER/STEM.o and FOLDER/STEM.json, then print the name.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import llvmlite.binding as llvm

from rbee_worker.ops.cpu.compiler.kernel import Kernel, compile_kernel
from rbee_worker.ops.cpu.compiler.values import KernelError
from rbee_worker.ops.cpu.shared.kernel_files import (
    RECORD,
    TEMPORARY,
    UNWRITABLE,
    described,
    stem,
)
from rbee_worker.ops.cpu.shared.kernel_sources import PACKAGE, kernel_module


def build(name: str) -> Kernel:
    """The kernel called `name`, "module.variant"; KernelError if its module makes another one."""
    variant = name.partition(".")[2]
    kernel: Kernel = importlib.import_module(f"{PACKAGE}.{kernel_module(name)}").build(variant)
    if kernel.name != name:
        raise KernelError(f"asked for kernel {name}, its module made {kernel.name}")
    return kernel


def main(folder: str, cpu: str, features: str, jobs: int) -> int:
    """Compile the kernels that standard input names, in `jobs` processes. Returns the exit code:
    UNWRITABLE where nothing but writing files failed.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    others = []
    for _ in range(jobs - 1):
        other = os.fork()
        if other == 0:
            return _work(Path(folder), cpu, features)
        others.append(other)
    codes = {_work(Path(folder), cpu, features)}
    codes |= {os.waitstatus_to_exitcode(os.waitpid(o, 0)[1]) for o in others}
    failed = codes - {0}
    return 0 if not failed else UNWRITABLE if failed == {UNWRITABLE} else 1


def _work(folder: Path, cpu: str, features: str) -> int:
    """Compile names until there are no more. A file appears whole or not at all.

    Returns the exit code, UNWRITABLE where a file cannot be written; says why on standard error.
    """
    wants_text = bool(os.environ.get("RBEE_CPU_ASSEMBLY"))
    while record := os.read(sys.stdin.fileno(), RECORD):
        name = record.decode().strip()
        kernel, where = build(name), folder / stem(name, folder)
        code, assembly = compile_kernel(kernel, cpu, features, assembly=wants_text)
        try:
            if wants_text:
                _write(where, ".s", assembly.encode())
            _write(where, ".json", described(kernel.fields, code))
            _write(where, ".o", code)
        except OSError as error:
            sys.stderr.write(f"{error.strerror or error}\n")
            return UNWRITABLE
        os.write(sys.stdout.fileno(), f"{name}\n".encode())
    return 0


def _write(stem: Path, ending: str, data: bytes) -> None:
    temporary = stem.with_name(f"{stem.name}{ending}.{os.getpid()}{TEMPORARY}")
    temporary.write_bytes(data)
    temporary.replace(stem.with_name(stem.name + ending))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
