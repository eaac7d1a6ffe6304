"""The compiling process: `python -m rbee_worker.ops.cpu.compile FOLDER CPU FEATURES NAME..`.

A process of its own, so that numba's memory and import time stay out of the engine, and so that
numba can be told the target by environment. Writes FOLDER/STEM.o and FOLDER/STEM.json, and one
line on standard output for each kernel finished.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main(folder: str, cpu: str, features: str, names: list[str]) -> None:
    """Compile the named kernels; each file appears whole or not at all."""
    os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = cpu, features
    os.environ["NUMBA_OPT"] = "0"  # compile_kernel optimises once, the whole kernel
    from rbee_worker.ops.cpu.cache import stem
    from rbee_worker.ops.cpu.kernel import compile_kernel

    for name in names:
        module, _, variant = name.partition(".")
        kernel = importlib.import_module(f"rbee_worker.ops.cpu.kernels.{module}").build(variant)
        assert kernel.name == name, f"{kernel.name} is not {name}"
        code, assembly = compile_kernel(kernel, cpu, features)
        if os.environ.get("RBEE_CPU_ASSEMBLY"):
            _write(Path(folder, f"{stem(name)}.s"), assembly.encode())
        _write(Path(folder, f"{stem(name)}.json"), json.dumps(kernel.fields).encode())
        _write(Path(folder, f"{stem(name)}.o"), code)
        sys.stdout.write(name + "\n")
        sys.stdout.flush()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
