"""What the translator makes of Python does what Python does."""

from __future__ import annotations

import ctypes
import inspect

import llvmlite.binding as llvm
import numpy as np
import pytest

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, compile_kernel, device, kernel, noinline
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr, op
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
    @noinline
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


def falls_off_its_end(a, b):  # noqa: RET503
    if a > b:
        return a


def contains(a, b):
    return a if 3 in FACTORS else b


def assigns_an_element(a, b):
    FACTORS[0] += a
    return b


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
        (falls_off_its_end, "returns i64 and void"),
        (contains, "a kernel has no In"),
        (assigns_an_element, "only names are assigned"),
    ],
)
def test_what_it_does_not_know_is_an_error_with_its_line(fn, says):
    with pytest.raises(KernelError, match=f"test_translate.py:[0-9]+: {says}"):
        integers(fn)


def in_one_branch(a, b):
    if a > b:
        x = a * 7
    return x  # read


def only_known_if(a, b):
    if FACTORS[0] == 4:
        x = a
    return x


def empty_range(a, b):
    for i in range(0):  # noqa: B007
        pass
    return i  # read


def loop_variable(a, b):
    for _i in range(a):
        pass
    return _i  # read


def in_a_loop(a, b):
    for i in range(b):
        last = i
    return last  # read


def in_a_while(a, b):
    while a > b:
        a -= 1
        last = a
    return last  # read


def before_a_break(a, b):
    while True:
        if a > b:
            break
        a += 1
        last = a
    return last  # read


def after_continue(a, b):
    for i in range(3):
        if i == a:
            continue
        last = i
    return last  # read


def added_to(a, b):
    if a > 0:
        total = b
    total += 1  # read
    return total


def read_first(a, b):
    c = d  # noqa: F823
    d = a  # noqa: F841
    return c


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (in_one_branch, "x"),
        (empty_range, "i"),
        (loop_variable, "_i"),
        (in_a_loop, "last"),
        (in_a_while, "last"),
        (before_a_break, "last"),
        (after_continue, "last"),
        (added_to, "total"),
    ],
)
def test_a_name_that_may_have_no_value_is_refused(fn, name):
    """Python raises UnboundLocalError on some of these paths; compiled it would read garbage."""
    lines, first = inspect.getsourcelines(fn)
    read = first + next(n for n, line in enumerate(lines) if line.endswith("# read\n"))
    with pytest.raises(KernelError, match=f"test_translate.py:{read}: {name} may have no value"):
        integers(fn)


@pytest.mark.parametrize(("fn", "name"), [(only_known_if, "x"), (read_first, "d")])
def test_a_name_that_has_no_value_is_refused(fn, name):
    with pytest.raises(KernelError, match=f"test_translate.py:[0-9]+: {name} has no value yet"):
        integers(fn)


def both_branches(a, b):
    if a > b:
        x = a
    elif a == b:
        return -1
    else:
        x = b
    return x


def never_skipped(a, b):
    for i in range(3):
        if i == a:
            break
        last = i + b
    else_ = 0
    for i in range(2, 5):
        last = i * a
        else_ += i
        if last > b:
            continue
        last += 1
    return last + i + else_


def until_found(a, b):
    while True:
        a += 1
        found = a
        if a > b:
            break
    return found


@pytest.mark.parametrize("fn", [both_branches, never_skipped, until_found])
def test_a_name_that_always_has_a_value_is_read(fn):
    call = integers(fn)
    for a in range(-3, 5):
        for b in range(-3, 5):
            assert call(a, b) == fn(a, b), (a, b)


def with_default(a, b=3):
    return a + b


def by_keyword(a, b, *, FACTORS=1):
    return a + b + FACTORS


@pytest.mark.parametrize("fn", [with_default, by_keyword])
def test_parameters_that_a_call_would_leave_out_are_refused(fn):
    with pytest.raises(KernelError, match=f"{fn.__name__} takes its arguments one by one"):
        integers(fn)


def test_a_kernel_file_without_postponed_annotations_is_told_so():
    """Ptr and Int are one type of LLVM: only their names tell them apart."""

    def run(step, tid, nt, a, out):
        s.set_i64(out, a)

    run.__annotations__ = {"a": Int, "out": Ptr}
    with pytest.raises(
        KernelError, match=r"test_translate.py:[0-9]+: a of kernel test .*import ann"
    ):
        kernel("test")(run)


def test_the_first_parameters_of_a_kernel_are_given():
    def run(step: Ptr, tid: Int, a: Int, out: Ptr) -> None:
        s.set_i64(out, a)

    with pytest.raises(KernelError, match="first parameters are step, tid and nt"):
        kernel("test")(run)


def test_a_kernel_calls_nothing_but_c():
    beyond = op(s.Void)(lambda b: e.call(b, "malloc_trim", e.void, ()))

    def run(step: Ptr, tid: Int, nt: Int, out: Ptr) -> None:
        beyond()

    with pytest.raises(KernelError, match=r"kernel test calls \['malloc_trim'\]"):
        compile_kernel(kernel("test")(run), TARGET.cpu, TARGET.features)


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
