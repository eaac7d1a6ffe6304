"""Kernels' Python translated to LLVM IR: the few constructs that kernels need, nothing else.

Values are 64-bit integers (addresses too), float32 and float64 numbers, booleans, vectors, and
tuples of these. Numbers and functions that are known when a kernel is built (constants, a closure's
variables) stay Python objects and are evaluated at once: an `if` on one of them drops the other
branch, and a function called with one is translated for its value.

There are `for .. in range`, `while`, `if`, `and`/`or`/`not`, `x if c else y`, tuples, and calls of
device functions and of `simd.Op`s. There are no exceptions, no objects and no automatic
conversions: a float is written `f32(n)` or `f64(n)`. A `range` goes upwards. A name may be read
only where it has a value on every path: not after a branch or a loop that may not have assigned it.

This is far less than numba can do and compiles 20 times faster, which shortens a first start.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from llvmlite import ir

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.statements import Function
from rbee_worker.ops.cpu.compiler.values import (
    Builder,
    Device,
    KernelError,
    Static,
    constant,
    tuple_value,
)


class Translation:
    """One module under construction, for a processor's LLVM feature string."""

    def __init__(self, features: str, triple: str, layout: str) -> None:
        self.features = features
        self.module = ir.Module("kernel")
        self.module.triple, self.module.data_layout = triple, layout
        self._done: dict[Any, ir.Function] = {}

    def entry(self, name: str, run: Device, fields: Sequence[ir.Type]) -> None:
        """The C function `name(args, step, tid, nt)`: calls `run` with the fields at `args`."""
        fn = ir.Function(self.module, ir.FunctionType(e.void, [e.i64] * 4), name)
        fn.attributes.add("nounwind")
        b = Builder(fn.append_basic_block())
        args, *common = fn.args
        loaded = [e.load(b, e.at(b, args, 8 * n), kind, 8) for n, kind in enumerate(fields)]
        self.call(b, run, [*common, *loaded])
        b.ret_void()

    def call(self, b: ir.IRBuilder, device: Device, args: Sequence[Any]) -> Any:
        """Append a call of `device`, translated for the types and known values of `args`."""
        code = _code(device.fn)
        names = _parameters(code)
        if len(args) != len(names):
            raise KernelError(f"{device.fn.__name__} takes {len(names)} arguments, got {len(args)}")
        stored = _stored(code)
        known: dict[str, Any] = {}
        passed: dict[str, ir.Value] = {}
        for name, value in zip(names, args, strict=True):
            if isinstance(value, tuple):
                value = tuple_value(b, value)
            if not isinstance(value, ir.Value) and name not in stored:
                known[name] = value
            else:
                passed[name] = constant(value)
        key = (
            device,
            tuple((n, type(v), repr(v) if isinstance(v, Static) else v) for n, v in known.items()),
            tuple((n, str(v.type)) for n, v in passed.items()),
        )
        if key not in self._done:
            types = {n: v.type for n, v in passed.items()}
            self._done[key] = Function(self, device, code, stored, known, types).value
        return b.call(self._done[key], list(passed.values()))


@functools.cache
def _functions(path: str) -> dict[int, ast.FunctionDef]:
    """The functions of a source file by their first line, decorators included."""
    found = {}
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.FunctionDef):
            found[min([node.lineno, *(d.lineno for d in node.decorator_list)])] = node
    return found


def _code(fn: FunctionType) -> ast.FunctionDef:
    code = fn.__code__
    try:
        return _functions(code.co_filename)[code.co_firstlineno]
    except KeyError:
        raise KernelError(f"{fn.__qualname__} is not written with def") from None


def _parameters(code: ast.FunctionDef) -> list[str]:
    """Names of a function's parameters. Raises KernelError for any that are not plain."""
    a = code.args
    if a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or a.defaults:
        raise KernelError(f"{code.name} takes its arguments one by one: no *, ** or default values")
    return [arg.arg for arg in a.args]


@functools.cache
def _stored(code: ast.FunctionDef) -> frozenset[str]:
    """The names that a function assigns."""
    names = (n for n in ast.walk(code) if isinstance(n, ast.Name))
    return frozenset(n.id for n in names if isinstance(n.ctx, ast.Store))
