"""Values in a kernel under translation: LLVM values, and Python objects that are known beforehand.

Known numbers, functions and modules stay Python objects as long as possible; `constant` turns a
known number into an LLVM constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir

from rbee_worker.ops.cpu.compiler import emit as e

Static = bool | int | np.floating  # known numbers; others are functions and modules


class KernelError(TypeError):
    """Something that a kernel may not contain. The message begins with file and line."""

    _has_place = False

    def at(self, path: str, line: int) -> KernelError:
        """This error with its place, unless it has one already."""
        if self._has_place:
            return self
        error = KernelError(f"{path}:{line}: {self}")
        error._has_place = True
        return error


@dataclass(frozen=True, eq=False)
class Device:
    """A function that kernels call. noinline: it is never inlined, so it is compiled once."""

    fn: FunctionType
    noinline: bool = False


class Builder(ir.IRBuilder):  # type: ignore[misc]
    """An IRBuilder whose allocations all lie in the entry block, where LLVM can remove them."""

    def alloca(self, typ: ir.Type, size: Any = None, name: str = "") -> Any:
        """Memory of the function's frame, once per call, also inside a loop."""
        with self.goto_entry_block():
            return super().alloca(typ, size, name)


def constant(value: Any, kind: ir.Type | None = None) -> ir.Value:
    """A known number as an LLVM constant, of type `kind` if given; an LLVM value as it is.

    Raises KernelError for anything that has no such value.
    """
    if isinstance(value, ir.Value):
        if kind is not None and value.type != kind:
            if value.type == e.i1 and kind == e.i64:
                raise KernelError("a boolean is not a number: write 1 if .. else 0")
            raise KernelError(f"expected {kind}, got {value.type}")
        return value
    if kind is None:
        if isinstance(value, bool):
            kind = e.i1
        elif isinstance(value, int):
            kind = e.i64
        elif isinstance(value, np.float32):
            kind = e.f32
        elif isinstance(value, np.float64):
            kind = e.f64
        else:
            raise KernelError(f"{value!r} cannot be held by a kernel; a float is written f32(..)")
    if kind == e.f32 and isinstance(value, float | np.floating):
        return ir.Constant(e.f32, float(np.float32(value)))
    if kind == e.f64 and isinstance(value, float | np.floating):
        return ir.Constant(e.f64, float(value))
    if (kind == e.i64 and type(value) is int) or (kind == e.i1 and isinstance(value, bool)):
        return ir.Constant(kind, int(value))
    raise KernelError(f"expected {kind}, got {value!r}")


def tuple_value(b: ir.IRBuilder, values: tuple[Any, ...]) -> Any:
    """A tuple as one LLVM value; it stays a Python tuple if a member is a function or module."""
    if not all(isinstance(v, ir.Value | Static) for v in values):
        return values
    held = [constant(v) for v in values]
    kinds = [v.type for v in held]
    same = all(k == kinds[0] for k in kinds)
    kind = ir.ArrayType(kinds[0], len(kinds)) if same else ir.LiteralStructType(kinds)
    return e.aggregate(b, kind, held)
