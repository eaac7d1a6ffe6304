"""How a kernel is written and turned into machine code. Used only in the compiling process.

A kernel is a Python function `(step, tid, nt, *fields)`: the step header's address, this thread's
number, how many threads share the work, and the fields of its argument struct, 8 bytes each, in
declared order. Annotations say what a field is: `Ptr` and `Int` (64 bits) or `Float` (the value's
float32 bits). Compiled, it is a C function `(args, step, tid, nt)` that depends on nothing but
libc, so that its object code can be kept in a file and called by address.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
from numba import njit, types
from numba.core import compiler
from numba.core.registry import cpu_target

from rbee_worker.ops.cpu import emit as e
from rbee_worker.ops.cpu.cache import symbol
from rbee_worker.ops.cpu.simd import Float, Int, Ptr, op

_APART = "_apart"  # in the name of what must not be inlined
F = TypeVar("F", bound=Callable[..., Any])

C_LIBRARY = frozenset(  # what object code may call
    {"memcpy", "memset", "memmove", "sched_yield", "syscall", "fmaf", "rintf", "sqrtf", "usleep"}
)


def device(fn: F) -> F:
    """A function that kernels call; compiled into each of them."""
    return cast(F, njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(fn))


def apart(fn: F) -> F:
    """A device function that stays a function: compiled once however often it is called."""
    fn.__name__ = fn.__qualname__ = fn.__name__ + _APART
    return device(fn)


@dataclass(frozen=True)
class Kernel:
    """A kernel's function and what its argument struct holds: (name, "ptr" | "int" | "float")."""

    name: str
    run: Callable[..., None]
    fields: tuple[tuple[str, str], ...]


_KINDS = {Ptr: "ptr", Int: "int", Float: "float"}
_NAMES = {"Ptr": "ptr", "Int": "int", "Float": "float"}


def kernel(name: str) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel; see the module's docstring for its parameters."""

    def wrap(fn: Callable[..., None]) -> Kernel:
        params = list(inspect.signature(fn).parameters.values())[3:]
        return Kernel(name, device(fn), tuple((p.name, _kind(p.annotation)) for p in params))

    return wrap


def _kind(annotation: Any) -> str:
    return _NAMES[annotation] if isinstance(annotation, str) else _KINDS[annotation]


def _fields(kernel: Kernel) -> Any:
    """An intrinsic that reads all fields of an argument struct into a tuple."""
    of = {"ptr": Ptr, "int": Int, "float": Float}
    kinds = types.Tuple([of[kind] for _, kind in kernel.fields])

    def read(b: e.Builder, args: e.Value) -> list[e.Value]:
        return [
            e.load(b, e.at(b, args, 8 * n), e.f32 if kind == "float" else e.i64, 8)
            for n, (_, kind) in enumerate(kernel.fields)
        ]

    return op(kinds, Ptr)(read)


def compile_kernel(kernel: Kernel, cpu: str, features: str) -> tuple[bytes, str]:
    """Object code of a kernel and its assembly text, for LLVM's `cpu` and `features`.

    numba must have been told the same target (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES). Raises
    AssertionError when the code would call into Python.
    """
    run, read = kernel.run, _fields(kernel)

    def entry(args: int, step: int, tid: int, nt: int) -> None:
        run(step, tid, nt, *read(args))

    flags = compiler.Flags()
    flags.nrt = False
    flags.error_model = "numpy"
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    context = cpu_target
    result = compiler.compile_extra(
        context.typing_context,
        context.target_context,
        entry,
        (types.intp, types.intp, types.intp, types.intp),
        types.void,
        flags,
        {},
    )
    module = _with_c_entry(
        result.library.get_llvm_str(), result.fndesc.llvm_func_name, symbol(kernel.name)
    )
    return _emit(module, cpu, features, kernel.name)


def _with_c_entry(text: str, inner: str, outer: str) -> llvm.ModuleRef:
    """The module with one visible C function; numba's calling convention has two more arguments:
    where to put the result and the exception, of which kernels have neither."""
    module = llvm.parse_assembly(
        text
        + f"""
define void @{outer}(i64 %args, i64 %step, i64 %tid, i64 %nt) {{
  %value = alloca ptr
  %raised = alloca ptr
  %status = call i32 @{inner}(ptr %value, ptr %raised, i64 %args, i64 %step, i64 %tid, i64 %nt)
  ret void
}}
"""
    )
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != outer:
            value.linkage = "internal"
    for function in module.functions:
        if _APART in function.name and not function.is_declaration:
            function.add_function_attribute("noinline")
    return module


def _emit(module: llvm.ModuleRef, cpu: str, features: str, name: str) -> tuple[bytes, str]:
    target = llvm.Target.from_triple(module.triple or llvm.get_process_triple())
    machine = target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small", jit=False
    )
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.slp_vectorization = False
    options.loop_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    code = machine.emit_object(module)
    called = {f.name for f in module.functions if f.is_declaration}
    called = {c for c in called if not c.startswith("llvm.")}
    assert called <= C_LIBRARY, f"kernel {name} calls {sorted(called - C_LIBRARY)}"
    return code, machine.emit_assembly(module)
