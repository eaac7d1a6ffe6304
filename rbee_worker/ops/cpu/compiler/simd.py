"""The one table of operations: name = op(result type, operand types)(what emits it).

Kernels written in Python call the operations by these names (`s.add(x, y)`, found by
`translate.py`); `vec.py` makes its operators and methods of the same ones. Vectors are `I32x16` and
`F32x16`; pointers are 64-bit addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from llvmlite import ir

from rbee_worker.ops.cpu.compiler import dots
from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.shared import isa

Emit = Callable[..., Any]

I32x16, F32x16, Void = e.I32, e.F32, e.void
Vector = Any  # what a type checker sees of both
if TYPE_CHECKING:
    Ptr: TypeAlias = Any
    Int: TypeAlias = Any
    Float: TypeAlias = Any
else:
    Ptr, Int, Float = e.i64, e.i64, e.f32


def Tuple(kind: ir.Type, count: int) -> ir.Type:
    """The type of `count` values of one kind."""
    return ir.ArrayType(kind, count)


@dataclass(frozen=True, eq=False)
class Op:
    """An operation: `write` appends its instructions. Types are LLVM types; see `op`."""

    write: Emit
    result: ir.Type
    params: tuple[ir.Type, ...]
    target: bool

    def append(self, b: e.Builder, features: str, args: Sequence[e.Value]) -> Any:
        """Append the operation on `args` for a target's LLVM features; returns its value."""
        value = self.write(b, *((features,) if self.target else ()), *args)
        if self.result == Void:
            return None
        if isinstance(self.result, ir.ArrayType):
            return e.aggregate(b, self.result, value)
        return value

    def __call__(self, *args: Any) -> Any:
        """Only for a type checker: kernels are translated, not run."""
        raise TypeError("operations are used in kernels")


def op(result: Any, *params: Any, target: bool = False) -> Callable[[Emit], Any]:
    """Make an operation of a function (builder, values..) -> value, or -> list for a `Tuple`.

    With `target`, the function gets the target's LLVM feature string before the values.
    """
    return lambda write: Op(write, result, params, target)


def _spread(b: e.Builder, n: e.Value, kind: ir.VectorType) -> e.Value:
    """All lanes hold n, or its low 32 bits where lanes are integers."""
    if isinstance(n, ir.Constant):
        low = (n.constant + (1 << 31)) % (1 << 32) - (1 << 31) if kind == e.I32 else n.constant
        return e.const(low, kind)
    return e.splat(b, b.trunc(n, e.i32) if kind == e.I32 else n, kind)


def _splat_load(kind: ir.VectorType) -> Emit:
    return lambda b, p: e.splat(b, e.load(b, p, kind.element, 4), kind)


def _widen(kind: ir.VectorType, how: str) -> Emit:
    return lambda b, p: getattr(b, how)(e.load(b, p, kind), e.I32)


def _shift(how: str) -> Emit:
    return lambda b, v, n: getattr(b, how)(v, _spread(b, n, e.I32))


def _binary(how: str) -> Emit:
    return lambda b, x, y: getattr(b, how)(x, y)


def _shuffle(order: Iterable[int]) -> Emit:
    mask = e.vector(list(order))
    return lambda b, x, y: b.shuffle_vector(x, y, mask)


def _call(name: str, kind: ir.VectorType) -> Emit:
    return lambda b, *v: e.call(b, name, kind, v)


# ---- memory
load_i32 = op(I32x16, Ptr)(lambda b, p: e.load(b, p, e.I32))
load_f32 = op(F32x16, Ptr)(lambda b, p: e.load(b, p, e.F32, 4))
load_u8 = op(I32x16, Ptr)(_widen(e.I8, "zext"))
load_s8 = op(I32x16, Ptr)(_widen(e.I8, "sext"))
load_bf16 = op(F32x16, Ptr)(lambda b, p: e.widen_bf16(b, e.load(b, p, e.I16)))
load_f16 = op(F32x16, Ptr, target=True)(
    lambda b, t, p: e.widen_f16(b, e.load(b, p, e.I16), isa.converts_f16(t))
)
splat_i32 = op(I32x16, Ptr)(_splat_load(e.I32))  # all lanes the integer at p
splat_f32 = op(F32x16, Ptr)(_splat_load(e.F32))
store_i32 = op(Void, Ptr, I32x16)(lambda b, p, v: e.store(b, p, v, 4))
store_f32 = op(Void, Ptr, F32x16)(lambda b, p, v: e.store(b, p, v, 4))
store_i8 = op(Void, Ptr, I32x16)(lambda b, p, v: e.store(b, p, b.trunc(v, e.I8)))
store_i16 = op(Void, Ptr, I32x16)(lambda b, p, v: e.store(b, p, b.trunc(v, e.I16)))
store_bf16 = op(Void, Ptr, F32x16)(lambda b, p, v: e.store(b, p, e.narrow_bf16(b, v)))
store_f16 = op(Void, Ptr, F32x16, target=True)(
    lambda b, t, p, v: e.store(b, p, e.narrow_f16(b, v, isa.converts_f16(t)))
)
load_first = op(F32x16, Ptr, Int)(e.load_first)  # n floats, then zeros
store_first = op(Void, Ptr, F32x16, Int)(e.store_first)

# ---- scalars in memory
get_i64 = op(Int, Ptr)(lambda b, p: e.load(b, p, e.i64, 8))
get_i32 = op(Int, Ptr)(lambda b, p: b.sext(e.load(b, p, e.i32, 4), e.i64))
get_f32 = op(Float, Ptr)(lambda b, p: e.load(b, p, e.f32, 4))
set_i64 = op(Void, Ptr, Int)(lambda b, p, v: e.store(b, p, v, 8))
set_i32 = op(Void, Ptr, Int)(lambda b, p, v: e.store(b, p, b.trunc(v, e.i32), 4))
set_f32 = op(Void, Ptr, Float)(lambda b, p, v: e.store(b, p, v, 4))
copy_i32 = op(Void, Ptr, Ptr)(lambda b, to, p: e.store(b, to, e.load(b, p, e.i32)))

# ---- integers
zeros_i32 = op(I32x16)(lambda b: e.const(0))
lanes = op(I32x16)(lambda b: e.vector(range(e.LANES)))  # 0, 1, .. 15
fill_i32 = op(I32x16, Int)(lambda b, x: _spread(b, x, e.I32))
iadd = op(I32x16, I32x16, I32x16)(_binary("add"))
isub = op(I32x16, I32x16, I32x16)(_binary("sub"))
imul = op(I32x16, I32x16, I32x16)(_binary("mul"))
iand = op(I32x16, I32x16, I32x16)(_binary("and_"))
ior = op(I32x16, I32x16, I32x16)(_binary("or_"))
ixor = op(I32x16, I32x16, I32x16)(_binary("xor"))
shl = op(I32x16, I32x16, Int)(_shift("shl"))
shr = op(I32x16, I32x16, Int)(_shift("lshr"))  # zeros come in
sar = op(I32x16, I32x16, Int)(_shift("ashr"))  # the sign comes in
isum = op(Int, I32x16)(lambda b, v: b.sext(e.tree(b, v, lambda c, x, y: c.add(x, y)), e.i64))
dot = op(I32x16, I32x16, I32x16, I32x16, target=True)(
    lambda b, t, acc, u, s: dots.dot(b, isa.dot_of(t), acc, u, s)
)
dot_words = op(I32x16, I32x16, I32x16, I32x16, target=True)(
    lambda b, t, acc, u, v: dots.dot_words(b, isa.dot_of(t), acc, u, v)
)
either = op(I32x16, I32x16, I32x16, I32x16, target=True)(
    lambda b, t, x, y, z: dots.either(b, isa.dot_of(t), x, y, z)
)
dot_bf16 = op(F32x16, F32x16, I32x16, I32x16, target=True)(
    lambda b, t, acc, u, v: dots.dot_bf16(b, f"+{isa.BF16}" in t.split(","), acc, u, v)
)

# ---- floats
zeros = op(F32x16)(lambda b: e.const(0.0, e.F32))
fill = op(F32x16, Float)(lambda b, x: _spread(b, x, e.F32))
negated = op(F32x16, F32x16)(lambda b, v: b.fsub(e.const(-0.0, e.F32), v))
add = op(F32x16, F32x16, F32x16)(_binary("fadd"))
sub = op(F32x16, F32x16, F32x16)(_binary("fsub"))
mul = op(F32x16, F32x16, F32x16)(_binary("fmul"))
div = op(F32x16, F32x16, F32x16)(_binary("fdiv"))
fma = op(F32x16, F32x16, F32x16, F32x16)(e.fma)
maximum = op(F32x16, F32x16, F32x16)(e.maximum)
minimum = op(F32x16, F32x16, F32x16)(e.minimum)
sqrt = op(F32x16, F32x16)(_call("llvm.sqrt.v16f32", e.F32))
magnitude = op(F32x16, F32x16)(_call("llvm.fabs.v16f32", e.F32))
with_sign = op(F32x16, F32x16, F32x16)(_call("llvm.copysign.v16f32", e.F32))  # x, sign of y
nearest = op(F32x16, F32x16)(_call("llvm.rint.v16f32", e.F32))  # ties to even
evens = op(F32x16, F32x16, F32x16)(_shuffle(range(0, 32, 2)))  # of 32 lanes, x then y
odds = op(F32x16, F32x16, F32x16)(_shuffle(range(1, 32, 2)))
zip_low = op(F32x16, F32x16, F32x16)(_shuffle(n // 2 + n % 2 * 16 for n in range(16)))
zip_high = op(F32x16, F32x16, F32x16)(_shuffle(n // 2 + n % 2 * 16 for n in range(16, 32)))
total = op(Float, F32x16)(lambda b, v: e.tree(b, v, lambda c, x, y: c.fadd(x, y)))
largest = op(Float, F32x16)(lambda b, v: e.tree(b, v, e.maximum))
lane0 = op(Float, F32x16)(lambda b, v: b.extract_element(v, ir.Constant(e.i32, 0)))
to_i32 = op(I32x16, F32x16)(lambda b, v: b.fptosi(v, e.I32))
to_f32 = op(F32x16, I32x16)(lambda b, v: b.sitofp(v, e.F32))
as_f32 = op(F32x16, I32x16)(lambda b, v: b.bitcast(v, e.F32))  # the same bits


def _select(how: str) -> Emit:
    return lambda b, x, y, yes, no: b.select(b.fcmp_ordered(how, x, y), yes, no)


where_less = op(F32x16, F32x16, F32x16, F32x16, F32x16)(_select("<"))  # x < y ? yes : no
at_least = op(Int, F32x16, F32x16)(  # bit n: lane n of x >= lane n of y
    lambda b, x, y: b.zext(b.bitcast(b.fcmp_ordered(">=", x, y), e.i16), e.i64)
)
where_nan = op(F32x16, F32x16, F32x16, F32x16)(
    lambda b, x, yes, no: b.select(b.fcmp_unordered("uno", x, x), yes, no)
)
where_less_i32 = op(F32x16, I32x16, I32x16, F32x16, F32x16)(
    lambda b, x, y, yes, no: b.select(b.icmp_signed("<", x, y), yes, no)
)

# ---- scalars in registers
sqrt_f32 = op(Float, Float)(lambda b, x: e.call(b, "llvm.sqrt.f32", e.f32, (x,)))
fma_f32 = op(Float, Float, Float, Float)(
    lambda b, x, y, z: e.call(b, "llvm.fma.f32", e.f32, (x, y, z))
)
bits_f32 = op(Float, Int)(lambda b, x: b.bitcast(b.trunc(x, e.i32), e.f32))
truncated = op(Int, Float)(lambda b, x: b.fptosi(x, e.i64))
f32_bits = op(Int, Float)(lambda b, x: b.sext(b.bitcast(x, e.i32), e.i64))
count_bits = op(Int, Int)(lambda b, x: e.call(b, "llvm.ctpop.i64", e.i64, (x,)))
lowest_bit = op(Int, Int)(  # its number; x is not 0
    lambda b, x: e.call(b, "llvm.cttz.i64", e.i64, (x, ir.Constant(e.i1, 1)))
)
idiv = op(Int, Int, Int)(lambda b, x, y: b.udiv(x, y))  # of numbers >= 0
imod = op(Int, Int, Int)(lambda b, x, y: b.urem(x, y))
smaller = op(Int, Int, Int)(lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y))
larger = op(Int, Int, Int)(lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y))

# ---- threads
atomic_add = op(Int, Ptr, Int)(
    lambda b, p, v: b.atomic_rmw("add", e.pointer(b, p, e.i64), v, "seq_cst")
)
atomic_load = op(Int, Ptr)(
    lambda b, p: b.load_atomic(e.pointer(b, p, e.i64), "acquire", 8, typ=e.i64)
)
atomic_store = op(Void, Ptr, Int)(
    lambda b, p, v: b.store_atomic(v, e.pointer(b, p, e.i64), "release", 8)
)
pause = op(Void, target=True)(e.pause)
sched_yield = op(Void)(lambda b: e.call(b, "sched_yield", e.i32, ()))
prefetch = op(Void, Ptr)(e.prefetch)


def lookup(table: Sequence[int]) -> Any:
    """An intrinsic that replaces each byte 0..15 of a vector by table[byte]."""
    return op(I32x16, I32x16, target=True)(lambda b, t, v: dots.lookup(b, isa.dot_of(t), table, v))


call_kernel = op(Void, Ptr, Ptr, Ptr, Int, Int)(
    lambda b, code, args, step, tid, nt: b.call(
        b.inttoptr(code, ir.FunctionType(e.void, [e.i64] * 4).as_pointer()),
        [args, step, tid, nt],
    )
)


def memory(nbytes: int) -> Any:
    """An operation: the address of `nbytes` bytes of the stack, on a cache line."""

    def write(b: e.Builder) -> e.Value:
        place = b.alloca(e.ir.ArrayType(e.i8, nbytes))
        place.align = 64
        return b.ptrtoint(place, e.i64)

    return op(Ptr)(write)
