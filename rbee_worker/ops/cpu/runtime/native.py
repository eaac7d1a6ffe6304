"""Object code in memory: kernels with their addresses, and their argument structs.

A wrong address is a crash without a message, so arguments are checked here when a struct is made,
and never when it is used.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from rbee_worker.ops.cpu.runtime.kernel_cache import Unkept, ensure
from rbee_worker.ops.cpu.shared.isa import Isa
from rbee_worker.ops.cpu.shared.kernel_files import Compiled, Progress, symbol

CALL = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class Args:
    """An argument struct: its memory, and the objects it points to, which it keeps alive."""

    memory: npt.NDArray[np.uint8]
    keep: tuple[Any, ...]

    @property
    def address(self) -> int:
        return int(self.memory.ctypes.data)


@dataclass(frozen=True)
class Native:
    """A kernel in memory."""

    name: str
    address: int
    fields: tuple[tuple[str, str], ...]

    def pack(self, **values: Any) -> Args:
        """The struct with `values`, one for every field.

        A pointer field takes an address or an array, which must be contiguous.
        """
        names = [name for name, _ in self.fields]
        if sorted(values) != sorted(names):
            raise TypeError(f"kernel {self.name} takes {names}, got {sorted(values)}")
        raw = b"".join(_field(values[name], kind) for name, kind in self.fields)
        keep = tuple(v for v in values.values() if not isinstance(v, int | float))
        return Args(np.frombuffer(raw, np.uint8).copy(), keep)

    def __call__(self, step: int = 0, tid: int = 0, nt: int = 1, **values: Any) -> None:
        """Run on this thread, without the interpreter lock."""
        args = self.pack(**values)
        CALL(self.address)(args.address, step, tid, nt)


def _field(value: Any, kind: str) -> bytes:
    if kind == "float":
        return struct.pack("<fi", value, 0)
    if kind == "int" or isinstance(value, int):
        return struct.pack("<q", value)
    assert value.flags.c_contiguous, "a kernel's array must be contiguous"
    return struct.pack("<q", value.ctypes.data)


class Library:
    """Kernels of one instruction set, loaded on demand and kept as long as the library.

    unkept: kernels that were compiled before and could not be kept; takes those that are now.
    """

    def __init__(
        self,
        isa: Isa,
        *,
        cache_dir: str = "",
        progress: Progress | None = None,
        unkept: Unkept | None = None,
    ) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.isa = isa
        self._cache_dir, self._progress = cache_dir, progress
        self._unkept = Unkept() if unkept is None else unkept
        self._kernels: dict[str, Native] = {}
        machine = llvm.Target.from_default_triple().create_target_machine()
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)

    def load(self, names: Iterable[str]) -> None:
        """Load several kernels at once, compiling those that are not cached."""
        wanted = [n for n in dict.fromkeys(names) if n not in self._kernels]
        for compiled in ensure(
            wanted,
            self.isa,
            cache_dir=self._cache_dir,
            progress=self._progress,
            unkept=self._unkept,
        ):
            self._add(compiled)

    def __getitem__(self, name: str) -> Native:
        if name not in self._kernels:
            self.load([name])
        return self._kernels[name]

    def _add(self, compiled: Compiled) -> None:
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(compiled.code))
        self._engine.finalize_object()
        address = self._engine.get_function_address(symbol(compiled.name))
        assert address, f"no function in the object of {compiled.name}"
        self._kernels[compiled.name] = Native(compiled.name, address, compiled.fields)
