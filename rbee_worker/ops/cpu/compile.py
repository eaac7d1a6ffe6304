"""The compiling process: `python -m rbee_worker.ops.cpu.compile FOLDER CPU FEATURES`.

A process of its own, so that LLVM's memory goes back to the system and every core can have one. It
reads names of kernels, one a line, writes FOLDER/STEM.o and FOLDER/STEM.json of each, and answers
with the name; it ends with its input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import llvmlite.binding as llvm

from rbee_worker.ops.cpu.cache import TEMPORARY, stem
from rbee_worker.ops.cpu.kernel import Kernel, compile_kernel


def build(name: str) -> Kernel:
    """The kernel called `name`, "module.variant"."""
    module, _, variant = name.partition(".")
    kernel: Kernel = importlib.import_module(f"{__package__}.kernels.{module}").build(variant)
    assert kernel.name == name, f"{kernel.name} is not {name}"
    return kernel


def main(folder: str, cpu: str, features: str) -> None:
    """Compile what standard input names; each file appears whole or not at all."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    wants_text = bool(os.environ.get("RBEE_CPU_ASSEMBLY"))
    for line in sys.stdin:
        name = line.strip()
        kernel, where = build(name), Path(folder, stem(name))
        code, assembly = compile_kernel(kernel, cpu, features, assembly=wants_text)
        if wants_text:
            _write(where, ".s", assembly.encode())
        _write(where, ".json", json.dumps(kernel.fields).encode())
        _write(where, ".o", code)
        sys.stdout.write(name + "\n")
        sys.stdout.flush()


def _write(stem: Path, ending: str, data: bytes) -> None:
    temporary = stem.with_name(f"{stem.name}{ending}.{os.getpid()}{TEMPORARY}")
    temporary.write_bytes(data)
    temporary.replace(stem.with_name(stem.name + ending))


if __name__ == "__main__":
    main(*sys.argv[1:])
