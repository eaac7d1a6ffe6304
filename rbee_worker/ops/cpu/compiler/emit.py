"""Vector instructions as LLVM IR: each function appends instructions to a builder.

Vectors have 16 lanes of 32 bits: `I32` integers, `F32` floats. Pointers are plain 64-bit integers.
There are no fast-math flags and multiply-adds are explicit, so results do not depend on how LLVM
splits 16 lanes into registers. `simd.py` makes operations of these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir as ir

LANES = 16
Builder = Any  # ir.IRBuilder
Value = Any  # ir.Value

i1, i8, i16, i32, i64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
f16, f32, f64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
I32, F32 = ir.VectorType(i32, LANES), ir.VectorType(f32, LANES)
I8, I16, F16 = (ir.VectorType(t, LANES) for t in (i8, i16, f16))
BYTES = ir.VectorType(i8, 4 * LANES)
void = ir.VoidType()


_constants: dict[str, ir.Constant] = {}


def const(value: float, kind: ir.VectorType = I32) -> ir.Constant:
    """All lanes hold `value`."""
    return _known(f"{kind} {value!r}", lambda: ir.Constant(kind, [value] * kind.count))


def vector(values: Sequence[int], kind: ir.IntType = i32) -> ir.Constant:
    """These numbers, and as many lanes."""
    lanes = ir.VectorType(kind, len(values))
    return _known(f"{lanes} {values!r}", lambda: ir.Constant(lanes, list(values)))


def _known(name: str, make: Callable[[], ir.Constant]) -> ir.Constant:
    """One object however often a constant is written: making and printing its lanes is most of what
    translating a kernel would cost."""
    found = _constants.get(name)
    if found is None:
        found = _constants[name] = make()
    return found


def call(b: Builder, name: str, result: ir.Type, args: Sequence[Value]) -> Value:
    """Call an intrinsic or C function, declared on first use."""
    fn = b.module.globals.get(name)
    if fn is None:
        fn = ir.Function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(fn, list(args))


def pointer(b: Builder, p: Value, kind: ir.Type) -> Value:
    """The integer address `p` as a pointer to `kind`.

    A constant offset is added to the pointer instead of the integer: a loop counter then has one
    use instead of a hundred, which halves LLVM's time.
    """
    if getattr(p, "opname", "") == "add" and isinstance(p.operands[1], ir.Constant):
        base = b.inttoptr(p.operands[0], i8.as_pointer())
        at = b.gep(base, [p.operands[1]], source_etype=i8)
        return b.bitcast(at, kind.as_pointer())
    return b.inttoptr(p, kind.as_pointer())


def load(b: Builder, p: Value, kind: ir.Type, align: int = 1) -> Value:
    """Read one `kind` at address `p`."""
    value = b.load(pointer(b, p, kind))
    value.align = align
    return value


def store(b: Builder, p: Value, value: Value, align: int = 1) -> None:
    """Write `value` at address `p`."""
    b.store(value, pointer(b, p, value.type)).align = align


def at(b: Builder, p: Value, offset: int) -> Value:
    """The address `offset` bytes after `p`."""
    return b.add(p, ir.Constant(i64, offset)) if offset else p


def lane_numbers() -> ir.Constant:
    """0, 1, .. 15."""
    return vector(range(LANES))


def order(lanes: Sequence[int]) -> ir.Constant:
    """Lane numbers for a shuffle."""
    return vector(lanes)


def number(value: int, kind: Any = i64) -> ir.Constant:
    """One integer, 64 bits wide unless said otherwise."""
    return ir.Constant(kind, value)


def splat(b: Builder, scalar: Value, kind: ir.VectorType) -> Value:
    """All lanes hold `scalar`."""
    one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(i32, 0))
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), const(0, I32))


def load_first(b: Builder, p: Value, n: Value) -> Value:
    """The first n floats at p as F32 (n may be below 0 or above 16), zeros after them."""
    args = (pointer(b, p, F32), ir.Constant(i32, 4), _first(b, n), const(0.0, F32))
    return call(b, "llvm.masked.load.v16f32.p0", F32, args)


def store_first(b: Builder, p: Value, v: Value, n: Value | None) -> None:
    """Write the first n (0 to 16) floats of v at p; all of them when n is None."""
    if n is None:
        store(b, p, v, 4)
        return
    args = (v, pointer(b, p, F32), ir.Constant(i32, 4), _first(b, n))
    call(b, "llvm.masked.store.v16f32.p0", void, args)


def _first(b: Builder, n: Value) -> Value:
    return b.icmp_signed("<", lane_numbers(), splat(b, b.trunc(n, i32), I32))


def aggregate(b: Builder, kind: ir.Type, values: Sequence[Value]) -> Value:
    """An array or struct of `values`."""
    whole = ir.Constant(kind, ir.Undefined)
    for n, value in enumerate(values):
        whole = b.insert_value(whole, value, n)
    return whole


# ---- conversions that memory formats need


def widen_f16(b: Builder, bits: Value, native: bool = True) -> Value:
    """16 half-precision bit patterns (I16) as F32, by integer arithmetic unless `native`.

    The integer form shifts the magnitude to its place in float32 and multiplies by 2^112, which is
    right for subnormals too; infinities and nans get all exponent bits.
    """
    if native:
        return b.fpext(b.bitcast(bits, F16), F32)
    h = b.zext(bits, I32)
    magnitude = b.shl(b.and_(h, const(0x7FFF)), const(13))
    value = b.bitcast(b.fmul(b.bitcast(magnitude, F32), const(2.0**112, F32)), I32)
    special = b.icmp_unsigned(">=", magnitude, const(0x7C00 << 13))
    value = b.select(special, b.or_(magnitude, const(0x7F800000)), value)
    sign = b.shl(b.and_(h, const(0x8000)), const(16))
    return b.bitcast(b.or_(value, sign), F32)


def narrow_f16(b: Builder, v: Value, native: bool = True) -> Value:
    """F32 rounded to half precision, to nearest even, as bit patterns (I16)."""
    if native:
        return b.bitcast(b.fptrunc(v, F16), I16)
    bits = b.bitcast(v, I32)
    sign = b.and_(b.lshr(bits, const(16)), const(0x8000))
    size = b.and_(bits, const(0x7FFFFFFF))
    odd = b.and_(b.lshr(size, const(13)), const(1))
    normal = b.lshr(b.add(b.add(size, const(0xFFF - (112 << 23))), odd), const(13))
    # below 2^-14: adding 0.5 rounds the subnormal's bits into the low bits of the sum
    tiny = b.sub(b.bitcast(b.fadd(b.bitcast(size, F32), const(0.5, F32)), I32), const(0x3F000000))
    half = b.select(b.icmp_unsigned("<", size, const(113 << 23)), tiny, normal)
    half = b.select(b.icmp_unsigned(">=", size, const(0x477FF000)), const(0x7C00), half)
    half = b.select(b.icmp_unsigned(">", size, const(0x7F800000)), const(0x7E00), half)
    return b.trunc(b.or_(half, sign), I16)


def widen_bf16(b: Builder, bits: Value) -> Value:
    """16 bfloat16 bit patterns (I16) as F32."""
    return b.bitcast(b.shl(b.zext(bits, I32), const(16)), F32)


def narrow_bf16(b: Builder, v: Value) -> Value:
    """F32 rounded to bfloat16, to nearest even, as bit patterns (I16). Nans stay nans."""
    bits = b.bitcast(v, I32)
    odd = b.and_(b.lshr(bits, const(16)), const(1))
    rounded = b.lshr(b.add(b.add(bits, const(0x7FFF)), odd), const(16))
    quiet = b.or_(b.lshr(bits, const(16)), const(0x40))
    return b.trunc(b.select(b.fcmp_unordered("uno", v, v), quiet, rounded), I16)


# ---- arithmetic


def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """x * y + z, rounded once."""
    return call(b, "llvm.fma.v16f32", F32, (x, y, z))


def maximum(b: Builder, x: Value, y: Value) -> Value:
    """Lane-wise x if x > y else y (y where either is nan), the same on every processor."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def minimum(b: Builder, x: Value, y: Value) -> Value:
    """Lane-wise x if x < y else y (y where either is nan)."""
    return b.select(b.fcmp_ordered("<", x, y), x, y)


def tree(b: Builder, v: Value, join: Callable[[Builder, Value, Value], Value]) -> Value:
    """All lanes joined in one fixed order: lanes 8 apart first, then 4, 2 and 1 apart."""
    undefined = ir.Constant(v.type, ir.Undefined)
    for step in (8, 4, 2, 1):
        order = vector([(lane + step) % LANES for lane in range(LANES)])
        v = join(b, v, b.shuffle_vector(v, undefined, order))
    return b.extract_element(v, ir.Constant(i32, 0))


# ---- loops


def loop(
    b: Builder,
    begin: Value,
    end: Value,
    carried: Sequence[Value],
    body: Callable[[Value, list[Value]], Sequence[Value]],
) -> list[Value]:
    """`for i in range(begin, end): carried = body(i, carried)`; returns the last `carried`."""
    before = b.block
    head, inside, after = (b.append_basic_block(n) for n in ("head", "inside", "after"))
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(i64)
    i.add_incoming(begin, before)
    values = []
    for v in carried:
        phi = b.phi(v.type)
        phi.add_incoming(v, before)
        values.append(phi)
    b.cbranch(b.icmp_signed("<", i, end), inside, after)
    b.position_at_end(inside)
    out = body(i, values)
    i.add_incoming(b.add(i, ir.Constant(i64, 1)), b.block)
    for phi, v in zip(values, out, strict=True):
        phi.add_incoming(v, b.block)
    b.branch(head)
    b.position_at_end(after)
    return values


# ---- threads and hints


def pause(b: Builder, features: str) -> None:
    """Tell the processor that this is a spin loop."""
    if "+sse2" in features.split(","):
        call(b, "llvm.x86.sse2.pause", void, ())
    else:
        call(b, "llvm.aarch64.hint", void, (ir.Constant(i32, 1),))


def prefetch(b: Builder, p: Value) -> None:
    """Bring the cache line of `p` close, for reading."""
    address = b.inttoptr(p, i8.as_pointer())
    args = (address, ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1))
    call(b, "llvm.prefetch.p0", void, args)
