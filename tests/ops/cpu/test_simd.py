"""Every vector operation equals numpy, on every instruction set this machine executes."""

import math

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from rbee_worker.ops.cpu.compiler import dots, emit

N = 256  # vectors
PROBES = (
    "exp exp_weight one_minus_exp tanh erf sigmoid softplus nearest magnitude sqrt "
    "add sub mul div maximum minimum with_sign load_f16 load_bf16 "
    "store_f16 store_bf16 iadd isub imul iand ior ixor shl shr sar load_u8 "
    "load_s8 total largest isum fma dot words either lookup"
)


@pytest.fixture(scope="module", autouse=True)
def probes(library):
    library.load([f"probe.{name}" for name in PROBES.split()])


def run(library, name, out, x, y=None, z=None):
    y = x if y is None else y
    z = x if z is None else z
    library[f"probe.{name}"](x=x, y=y, z=z, out=out, n=x.nbytes // 64 if x.ndim == 1 else len(x))
    return out


def floats(seed, low=-30.0, high=30.0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, 16 * N).astype(np.float32)
    x[0:8:4], x[2:8:4] = 1e-40, -1e12
    return x


@pytest.mark.parametrize(
    ("name", "numpy"),
    [
        ("add", np.add),
        ("sub", np.subtract),
        ("mul", np.multiply),
        ("div", np.divide),
        ("maximum", lambda x, y: np.where(x > y, x, y)),
        ("minimum", lambda x, y: np.where(x < y, x, y)),
        ("with_sign", np.copysign),
    ],
)
def test_float_pairs_are_bitwise_numpys(library, name, numpy):
    x, y = floats(1), floats(2, 0.5, 9.0)
    y[9] = np.nan
    got = run(library, name, np.empty_like(x), x, y)
    np.testing.assert_array_equal(got, numpy(x, y))


@pytest.mark.parametrize(
    ("name", "numpy"), [("nearest", np.rint), ("magnitude", np.abs), ("sqrt", np.sqrt)]
)
def test_float_single(library, name, numpy):
    x = np.abs(floats(3)) if name == "sqrt" else floats(3)
    x[8:14] = [0.5, 1.5, 2.5, 3.5, 0.0, -0.0]
    np.testing.assert_array_equal(run(library, name, np.empty_like(x), x), numpy(x))


def test_fma_rounds_once(library):
    x, y, z = floats(4), floats(5), floats(6)
    exact = x.astype(np.longdouble) * y.astype(np.longdouble) + z.astype(np.longdouble)
    got = run(library, "fma", np.empty_like(x), x, y, z)
    np.testing.assert_array_equal(got, exact.astype(np.float32))
    assert (got != x * y + z).any()


@pytest.mark.parametrize(
    ("name", "numpy"),
    [
        ("iadd", np.add),
        ("isub", np.subtract),
        ("imul", np.multiply),
        ("iand", np.bitwise_and),
        ("ior", np.bitwise_or),
        ("ixor", np.bitwise_xor),
    ],
)
def test_integer_pairs(library, name, numpy):
    rng = np.random.default_rng(7)
    x, y = rng.integers(-(2**31), 2**31, (2, 16 * N)).astype(np.int32)
    np.testing.assert_array_equal(run(library, name, np.empty_like(x), x, y), numpy(x, y))


@pytest.mark.parametrize("count", [0, 4, 31])
def test_shifts(library, count):
    x = np.random.default_rng(8).integers(-(2**31), 2**31, 16 * N).astype(np.int32)
    by = np.array([count], np.int64)
    out = np.empty_like(x)
    np.testing.assert_array_equal(run(library, "shl", out, x, by), x << count)
    np.testing.assert_array_equal(run(library, "sar", out, x, by), x >> count)
    unsigned = (x.view(np.uint32) >> np.uint32(count)).view(np.int32)
    np.testing.assert_array_equal(run(library, "shr", out, x, by), unsigned)


def test_dot_is_exact_at_the_extremes(library):
    rng = np.random.default_rng(9)
    acc = rng.integers(-(2**20), 2**20, 16 * N).astype(np.int32)
    u = rng.integers(0, 256, (16 * N, 4)).astype(np.uint8)
    s = rng.integers(-128, 128, (16 * N, 4)).astype(np.int8)
    u[:64], s[:32], s[32:64] = 255, 127, -128
    want = acc + (u.astype(np.int32) * s).sum(1)
    got = run(
        library, "dot", np.empty_like(acc), acc, u.reshape(-1).view("i4"), s.reshape(-1).view("i4")
    )
    np.testing.assert_array_equal(got, want)


def test_words(library):
    """Products of 16-bit halves, and three vectors joined by "or"."""
    rng = np.random.default_rng(11)
    acc = rng.integers(-(2**31), 2**31, 16 * N).astype(np.int32)
    u, v = rng.integers(-(2**15), 2**15, (2, 16 * N, 2)).astype(np.int16)
    u[:64], v[:32], v[32:64] = -(2**15), 2**15 - 1, -(2**14)
    want = (acc + (u.astype(np.int64) * v).sum(1)).astype(np.int32)  # the low 32 bits
    given = acc, u.reshape(-1).view("i4"), v.reshape(-1).view("i4")
    np.testing.assert_array_equal(run(library, "words", np.empty_like(acc), *given), want)
    got = run(library, "either", np.empty_like(acc), *given)
    np.testing.assert_array_equal(got, given[0] | given[1] | given[2])


def test_lookup(library):
    index = np.random.default_rng(10).integers(0, 16, 64 * N).astype(np.uint8)
    table = np.arange(-128, 128, 16).astype(np.int8)
    out = np.empty(16 * N, np.int32)
    got = run(library, "lookup", out, index.view(np.int32)).view(np.int8)
    np.testing.assert_array_equal(got, table[index])


@pytest.mark.parametrize(("name", "kind"), [("load_u8", np.uint8), ("load_s8", np.int8)])
def test_bytes_widen(library, name, kind):
    x = np.arange(256).astype(np.uint8).reshape(16, 16)
    got = run(library, name, np.empty(256, np.int32), x)
    np.testing.assert_array_equal(got, x.reshape(-1).view(kind).astype(np.int32))


def halves():
    return np.arange(65536).astype(np.uint16)


def test_every_half_widens(library):
    bits = halves().reshape(-1, 16)
    got = run(library, "load_f16", np.empty(65536, np.float32), bits)
    want = halves().view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got, want)


def test_every_bfloat16_widens(library):
    got = run(library, "load_bf16", np.empty(65536, np.float32), halves().reshape(-1, 16))
    np.testing.assert_array_equal(got.view(np.uint32), halves().astype(np.uint32) << 16)


def to_store():
    rng = np.random.default_rng(11)
    x = (rng.standard_normal(4096) * 10.0 ** rng.integers(-9, 6, 4096)).astype(np.float32)
    exact = np.arange(0x3C00, 0x3C00 + 256, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (exact[:-1] + exact[1:]) / 2  # halfway between neighbours: to the even one
    return np.concatenate((x, ties, [0, -0.0, 65519, 65520, np.inf, -np.inf, 1e-8])).astype("f4")


def test_store_half_rounds_to_even(library):
    x = np.resize(to_store(), 16 * 300)
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    got = run(library, "store_f16", np.empty(x.size, np.uint16), x)
    np.testing.assert_array_equal(got, want.view(np.uint16))


def test_store_bfloat16_rounds_to_even(library):
    x = np.resize(to_store(), 16 * 300)
    bits = x.view(np.uint32).astype(np.uint64)
    want = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    got = run(library, "store_bf16", np.empty(x.size, np.uint16), x)
    np.testing.assert_array_equal(got, want)
    x[:16] = np.nan
    got = run(library, "store_bf16", np.empty(x.size, np.uint16), x)
    assert (got[:16] & 0x7FFF > 0x7F80).all()


def test_sums_follow_one_tree(library):
    x = floats(12)
    want = x.reshape(-1, 16)
    while want.shape[1] > 1:
        half = want.shape[1] // 2
        want = want[:, :half] + want[:, half:]
    np.testing.assert_array_equal(run(library, "total", np.empty(N, np.float32), x), want[:, 0])
    got = run(library, "largest", np.empty(N, np.float32), x)
    np.testing.assert_array_equal(got, x.reshape(-1, 16).max(1))
    i = np.random.default_rng(13).integers(-1000, 1000, 16 * N).astype(np.int32)
    got = run(library, "isum", np.empty(N, np.int64), i)
    np.testing.assert_array_equal(got, i.reshape(-1, 16).sum(1))


@pytest.mark.parametrize(
    ("name", "exact", "bound"),
    [
        ("exp", np.exp, 1.0),
        ("tanh", np.tanh, 1.5),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 3.0),
        ("softplus", lambda x: np.log1p(np.exp(x)), 4.0),
    ],
)
def test_functions_within_ulps(library, name, exact, bound):
    x = np.concatenate((np.linspace(-20, 20, 16 * 4096), np.logspace(-30, -1, 1024))).astype("f4")
    got = run(library, name, np.empty_like(x), x)
    want = exact(x.astype(np.float64))
    assert (np.abs(got - want) / np.spacing(np.abs(want).astype(np.float32))).max() < bound


def test_erf_absolute_error(library):
    x = np.linspace(-6, 6, 16 * 4096).astype(np.float32)
    got = run(library, "erf", np.empty_like(x), x)
    assert np.abs(got - [math.erf(v) for v in x.astype(float)]).max() < 4e-7


def test_exp_at_its_ends(library):
    ends = [-np.inf, -200.0, -103.0, -90.0, 88.7, 88.8, 200.0, np.inf, np.nan]
    x = np.resize(np.array(ends, np.float32), 16)
    got = run(library, "exp", np.empty_like(x), x)[: len(ends)]
    with np.errstate(over="ignore"):
        want = np.exp(x[: len(ends)].astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=2e-7, atol=2e-45)


def test_weights_are_never_subnormal(library):
    x = np.linspace(-87, 0, 16 * 4096).astype(np.float32)
    got = run(library, "exp_weight", np.empty_like(x), x)
    want = np.exp(x.astype(np.float64))
    assert (np.abs(got - want) / np.spacing(want.astype(np.float32))).max() < 1.0
    assert got.min() >= np.finfo(np.float32).tiny
    ends = np.resize(np.float32([-87.001, -87.4, -100.0, -3e38, -np.inf, np.nan]), 16)
    got = run(library, "exp_weight", np.empty_like(ends), ends)[:6]
    np.testing.assert_array_equal(got, np.float32([0, 0, 0, 0, 0, np.nan]))


def test_what_a_weight_lacks_of_one(library):
    x = -np.concatenate((np.linspace(0, 90, 16 * 4096), np.logspace(-30, -1, 1024))).astype("f4")
    got = run(library, "one_minus_exp", np.empty_like(x), x)
    want = -np.expm1(x.astype(np.float64))
    assert (np.abs(got - want) / np.spacing(want.astype(np.float32))).max() < 2.0
    ends = np.resize(np.float32([-200.0, -np.inf, 0.0, np.nan]), 16)
    got = run(library, "one_minus_exp", np.empty_like(ends), ends)[:4]
    np.testing.assert_array_equal(got, np.float32([1, 1, 0, np.nan]))


def test_functions_are_bitwise_the_same_everywhere(library, best):
    x = floats(14, -15.0, 15.0)
    for name in ("exp", "exp_weight", "one_minus_exp", "tanh", "erf", "sigmoid", "softplus"):
        here = run(library, name, np.empty_like(x), x)
        np.testing.assert_array_equal(here, run(best, name, np.empty_like(x), x))


def test_neon_uses_sdot():
    module = ir.Module("neon")
    kinds = [emit.I32] * 3
    fn = ir.Function(module, ir.FunctionType(emit.I32, kinds), "f")
    b = ir.IRBuilder(fn.append_basic_block())
    b.ret(dots.dot(b, "sdot", *fn.args))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    machine = target.create_target_machine(features="+dotprod", opt=3)
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = "aarch64-unknown-linux-gnu"
    assembly = machine.emit_assembly(parsed)
    assert assembly.count("sdot\t") == 8, assembly
