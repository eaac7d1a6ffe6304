"""How a kernel is written and turned into machine code. Used only in the compiling process.

A kernel is a Python function `(step, tid, nt, *fields)`: the step header's address, this thread's
number, how many threads share the work, and the fields of its argument struct, 8 bytes each, in
declared order. A field's annotation is `Ptr` or `Int` (64 bits), or `Float` (the bits of a
float32). Compiled, it is a C function `(args, step, tid, nt)` that depends on libc alone, so its
object code can be kept in a file and called by address. `translate.py` lists the Python that it may
contain.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.translate import Translation
from rbee_worker.ops.cpu.compiler.values import Device, KernelError
from rbee_worker.ops.cpu.shared.isa import dot_of
from rbee_worker.ops.cpu.shared.kernel_files import symbol

F = TypeVar("F", bound=Callable[..., Any])

C_LIBRARY = frozenset(  # what object code may call
    {
        *("memcpy", "memset", "memmove", "sched_yield", "syscall", "usleep"),
        *("fmaf", "rintf", "sqrtf", "fma", "rint"),
    }
)


def device(fn: F) -> F:
    """A function that kernels call; compiled into each of them."""
    return cast(F, Device(cast(Any, fn)))


def noinline(fn: F) -> F:
    """A device function that is never inlined: compiled once however often it is called."""
    return cast(F, Device(cast(Any, fn), noinline=True))


@dataclass(frozen=True)
class Kernel:
    """A kernel's function and what its argument struct holds: (name, "ptr" | "int" | "float").

    also: extensions that it uses beyond the target's: those of AVX-512 where the target has
    AVX-512, those of AMX where it has tiles.
    """

    name: str
    run: Callable[..., None]
    fields: tuple[tuple[str, str], ...]
    also: tuple[str, ...] = ()

    def features(self, target: str) -> str:
        """The features to compile it with, of a target with features `target`."""
        wide, tiles = dot_of(target) == "vnni512", "+amx-tile" in target.split(",")
        more = [f for f in self.also if (tiles if f.startswith("amx") else wide)]
        return ",".join([target, *(f"+{f}" for f in more)])


_KINDS = {"Ptr": "ptr", "Int": "int", "Float": "float"}


def kernel(name: str, *, also: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel; also: see `Kernel`. The module's docstring describes its parameters."""

    def wrap(fn: Callable[..., None]) -> Kernel:
        params = list(inspect.signature(fn).parameters.values())
        code = fn.__code__
        if [p.name for p in params[:3]] != ["step", "tid", "nt"]:
            error = KernelError("a kernel's first parameters are step, tid and nt")
            raise error.at(code.co_filename, code.co_firstlineno)
        for p in params[3:]:
            if p.annotation not in _KINDS:
                error = KernelError(
                    f"{p.name} of kernel {name} is annotated {p.annotation!r}; a field is Ptr, Int "
                    "or Float, in a file with `from __future__ import annotations`"
                )
                raise error.at(code.co_filename, code.co_firstlineno)
        fields = tuple((p.name, _KINDS[p.annotation]) for p in params[3:])
        return Kernel(name, device(fn), fields, also)

    return wrap


def translate(kernel: Kernel, features: str, machine: llvm.TargetMachine) -> str:
    """A kernel's LLVM IR, one visible C function in it."""
    to = Translation(features, llvm.get_process_triple(), str(machine.target_data))
    kinds = [e.f32 if kind == "float" else e.i64 for _, kind in kernel.fields]
    to.entry(symbol(kernel.name), cast(Device, kernel.run), kinds)
    return str(to.module)


def compile_kernel(
    kernel: Kernel, cpu: str, features: str, *, assembly: bool = False
) -> tuple[bytes, str]:
    """Object code of a kernel, and with `assembly` its text, for LLVM's `cpu` and `features`.

    Raises KernelError for Python that kernels do not have, and for code that would call anything
    but C.
    """
    target, features = llvm.Target.from_triple(llvm.get_process_triple()), kernel.features(features)
    # 64-bit addresses: constants may be loaded more than 2 GB from the code if a large model's
    # weights lie between them, and LLVM would end the process.
    machine = target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="static", codemodel="large", jit=False
    )
    module = llvm.parse_assembly(translate(kernel, features, machine))
    optimise(module, machine)
    called = {f.name for f in module.functions if f.is_declaration}
    called = {c for c in called if not c.startswith("llvm.")}
    if not called <= C_LIBRARY:
        raise KernelError(f"kernel {kernel.name} calls {sorted(called - C_LIBRARY)}, no C function")
    return machine.emit_object(module), machine.emit_assembly(module) if assembly else ""


def optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Run LLVM's passes. The loops that matter are vectors already; vectorizing and unrolling the
    others would only make a first start longer, in attention by half."""
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.slp_vectorization = False
    options.loop_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
