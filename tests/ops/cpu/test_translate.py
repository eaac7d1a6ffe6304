"""What the translator makes of Python does what Python does."""

from __future__ import annotations

import ctypes

import llvmlite.binding as llvm
import numpy as np
import pytest

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, apart, compile_kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.compiler.values import KernelError
from rbee_worker.ops.cpu.kernels.sampling import doubles as d
from rbee_worker.ops.cpu.runtime.native import CALL
from rbee_worker.ops.cpu.shared import isa

f32 = np.float32
f64 = np.float64
TARGET = isa.choose()
FACTORS = (3, 5)


def loaded(made: Kernel):
    """Address of a kernel compiled here, and the engine that keeps it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    code, _ = compile_kernel(made, TARGET.cpu, TARGET.features)
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address("rbee_test"), engine


def integers(fn):
    """The compiled form of fn(a, b) -> int."""
    f = device(fn)

    def run(step: Ptr, tid: Int, nt: Int, a: Int, b: Int, out: Ptr) -> None:
        s.set_i64(out, f(a, b))

    address, engine = loaded(kernel("test")(run))

    def call(a, b):
        out = ctypes.c_int64(0)
        args = (ctypes.c_int64 * 3)(a, b, ctypes.addressof(out))
        CALL(address)(ctypes.addressof(args), 0, 0, 1)
        assert engine
        return out.value

    return call


def arithmetic(a, b):
    c = a + 2 * b - 7
    c ^= (a << 3) | (b & 12)
    c = (c >> 1) + -b + ~a
    return c if a > b else -c


def loops(a, b):
    total = 0
    for i in range(a):
        if i == 3:
            continue
        if i > 9:
            break
        for j in range(i, b, 2):
            total += i * j
        i = 100  # the loop goes on from its own count
        total += i
    n = b
    while n > 0 and total < 500:
        n -= 1
        total += n
    return total


def forever(a, b):
    while True:
        a += 3
        if a > b:
            return a


def early(a, b):
    if a == b:
        return 0
    if a < b:
        for i in range(b):
            if i * i > a:
                return i
        return -1
    if a > 50:
        b = 5
    else:
        pass
    return a - b


def logic(a, b):
    count = 0
    if a > 2 and b > 2 and not a == 9:  # noqa: SIM201
        count += 1
    if a > 5 or b > 5 or (a == 1 and b == 1):
        count += 10
    seen = a < b
    if seen != (a <= 4):
        count += 100
    if a:
        count += 1000
    return count + (10000 if not seen else 0)


def tuples(a, b):
    low, high = (a, b) if a < b else (b, a)
    low, high = high, low
    pair = low - high, low + high
    first, second = pair
    return 100 * first + second + pair[1]


def known(a, b):
    scale = FACTORS[1] if len(FACTORS) == 2 else a.nonsense
    if FACTORS[0] == 4:
        return a.nonsense
    return a * scale + max(FACTORS) * b - int(f32(2.5))


@pytest.mark.parametrize("fn", [arithmetic, loops, forever, early, logic, tuples, known])
def test_integers_are_pythons(fn):
    call = integers(fn)
    for a in range(-3, 14):
        for b in range(-3, 14):
            assert call(a, b) == fn(a, b), (a, b)


def test_what_decides_is_all_that_is_read():
    """The second half of `and` and the other half of if-else may be an address nobody may read."""

    @device
    def read(p, other):
        first = s.get_i64(p) if p != 0 else -1
        return first if p != 0 and s.get_i64(p) > 0 else other

    def fn(a, b):
        return read(a, b)

    call = integers(fn)
    cell = ctypes.c_int64(5)
    assert call(0, 7) == 7
    assert call(ctypes.addressof(cell), 7) == 5


def test_floats_round_as_numpy_does():
    @device
    def mean(x, n):
        total = f32(0.0)
        for i in range(n):
            total += s.get_f32(x + 4 * i) * f32(0.1)
        return -total / f32(n), total != total

    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, n: Int, add: Float, out: Ptr) -> None:
        value, odd = mean(x, n)
        s.set_f32(out, value + add)
        s.set_i64(out + 8, 1 if odd else 0)

    address, engine = loaded(kernel("test")(run))
    assert engine
    for poison in (1.0, np.nan):
        x = np.random.default_rng(0).standard_normal(37).astype(f32)
        x[5] = poison
        out = np.zeros(4, f32)
        args = np.zeros(4, np.int64)
        args[[0, 1, 3]] = x.ctypes.data, 37, out.ctypes.data
        args[2:3].view(f32)[0] = 0.25
        CALL(address)(args.ctypes.data, 0, 0, 1)
        want = f32(0.0)
        for v in x:
            want = want + v * f32(0.1)
        np.testing.assert_array_equal(out[0], -want / f32(37) + f32(0.25))
        assert out[2:].view(np.int64)[0] == np.isnan(poison)


def test_vectors_through_tuples_and_functions_that_stay():
    @apart
    def store(p, v):
        s.store_i32(p, v)

    @device
    def both(a, b):
        return s.iadd(a, b), s.imul(a, b)

    def run(step: Ptr, tid: Int, nt: Int, x: Ptr, out: Ptr) -> None:
        total, product = both(s.load_i32(x), s.lanes())
        store(out, total)
        store(out + 64, product)

    address, engine = loaded(kernel("test")(run))
    assert engine
    x = np.arange(100, 116, dtype=np.int32)
    out = np.zeros(32, np.int32)
    args = np.array([x.ctypes.data, out.ctypes.data])
    CALL(address)(args.ctypes.data, 0, 0, 1)
    np.testing.assert_array_equal(out[:16], x + np.arange(16))
    np.testing.assert_array_equal(out[16:], x * np.arange(16))


def divides(a, b):
    return a // b


def mixes(a, b):
    return a + f32(1.0)


def changes_type(a, b):
    c = a
    if b > 0:
        c = f32(2.0)
    return c


def calls_python(a, b):
    return sorted(a)


def bare_float(a, b):
    return a + 0.5


def two_results(a, b):
    if a > b:
        return a
    return f32(1.0)


def has_try(a, b):
    try:
        return a
    finally:
        pass


def downwards(a, b):
    for i in range(a, b, -1):
        a += i
    return a


def indexes(a, b):
    return FACTORS[a]


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (divides, "no FloorDiv of i64"),
        (mixes, "expected i64, got np.float32"),
        (changes_type, "c is i64, and is given float"),
        (calls_python, "<built-in function sorted> cannot be called"),
        (bare_float, "expected i64, got 0.5"),
        (two_results, "returns i64 and float"),
        (has_try, "a kernel has no Try"),
        (downwards, "a range goes upwards"),
        (indexes, "an index must be known"),
    ],
)
def test_what_it_does_not_know_is_an_error_with_its_line(fn, says):
    with pytest.raises(KernelError, match=f"test_translate.py:[0-9]+: {says}"):
        integers(fn)


def float64(a, b):
    c = f64(a) / f64(b) + f64(0.1)
    d = f64(f32(a)) * c - f64(1.0)
    if d < c or -d != d * f64(-1.0):
        return f64(0.0) - c
    return d * d


def test_float64():
    """Arithmetic, comparisons and conversions, rounded as Python's floats are."""
    f = device(float64)

    def run(step: Ptr, tid: Int, nt: Int, a: Int, b: Int, out: Ptr) -> None:
        d.set_f64(out, f(a, b))

    address, engine = loaded(kernel("test")(run))
    for a, b in ((7, 3), (-5, 11), (1 << 40, 3), (0, 1), (10**6, -7)):
        out = ctypes.c_double(0)
        args = (ctypes.c_int64 * 3)(a, b, ctypes.addressof(out))
        CALL(address)(ctypes.addressof(args), 0, 0, 1)
        assert out.value == float(float64(a, b))
    assert engine
