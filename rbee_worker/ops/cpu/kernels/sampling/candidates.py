"""The few largest values of a row, without sorting the row: a threshold, a list, a sorted list.

Comparisons are exact and lists are in ascending ids, so nothing here depends on how threads shared
a row. Values are ordered by their bits (`_key`); -0 and 0 are equal.

A thread's scratch, with `width` = `padded(vocabulary)`: weights float64 [width]; then arrays
[width] of 4 bytes a place: values, ids, keys and order twice (to sort from one into the other),
values and places of a part of the list; then 256 counters of 8 bytes.
"""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device, noinline
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.sampling import doubles as d
from rbee_worker.ops.cpu.kernels.sampling.doubles import Double
from rbee_worker.ops.cpu.shared.sampling_memory import BLOCK

f32 = np.float32
f64 = np.float64
LOWEST = f32(np.finfo(np.float32).min)  # only -inf is below it, and has no weight


@device
def _key(x: Float) -> Int:
    """An integer that orders like x."""
    bits = s.f32_bits(x + f32(0.0))  # -0 becomes 0
    return bits ^ ((bits >> 63) & 0x7FFFFFFF)


@device
def _number(key: Int) -> Float:
    """The number with this key."""
    return s.bits_f32(key ^ ((key >> 63) & 0x7FFFFFFF))


@device
def bits_upto(p: Ptr, left: Int, least: Float) -> Int:
    """Bit n: the n-th of min(left, 16) numbers at p is >= least."""
    if left >= 16:
        return s.at_least(s.load_f32(p), s.fill(least))
    return s.at_least(s.load_first(p, left), s.fill(least)) & ((1 << left) - 1)


@device
def peak(tops: Ptr, width: Int) -> Float:
    """The maximum of a row, or nan if it has one. tops [width]: its blocks' maxima, then -inf."""
    top, bad = s.fill(f32(-np.inf)), s.zeros()
    for i in range(0, width, 16):
        v = s.load_f32(tops + 4 * i)
        top, bad = s.maximum(v, top), s.where_nan(v, v, bad)
    wrong = s.total(bad)
    return wrong if wrong != wrong else s.largest(top)


@device
def _count(x: Ptr, count: Int, least: Float) -> Int:
    """How many of x [count] are >= least."""
    found = 0
    for i in range(0, count, 16):
        found += s.count_bits(bits_upto(x + 4 * i, count - i, least))
    return found


@noinline
def first_equal(z: Ptr, vocab: Int, tops: Ptr, top: Float) -> Int:
    """The lowest id whose logit is the maximum."""
    for first in range(0, vocab, BLOCK):
        if s.get_f32(tops) == top:
            for i in range(first, s.smaller(first + BLOCK, vocab), 16):
                bits = bits_upto(z + 4 * i, vocab - i, top)
                if bits != 0:
                    return i + s.lowest_bit(bits)
        tops += 4
    return -1


@noinline
def threshold(x: Ptr, count: Int, top: Float, want: Int) -> Float:
    """A finite number such that at least `want` of x [count], and not many more, are >= it.

    `LOWEST` if fewer are finite. top: no x is greater.
    """
    enough = _count(x, count, LOWEST)
    if enough <= want:
        return LOWEST
    low, high = _key(LOWEST), _key(top) + 1
    while high - low > 1 and enough > want + (want >> 3) + 4:
        middle = low + ((high - low) >> 1)
        n = _count(x, count, _number(middle))
        if n >= want:
            low, enough = middle, n
        else:
            high = middle
    return _number(low)


@noinline
def lightest(top: Double, scale: Double, least: Double) -> Float:
    """About the smallest number whose weight is at least `least` if the maximum is `top`."""
    low, high = _key(LOWEST), _key(f32(np.inf))
    while high - low > 1:
        middle = low + ((high - low) >> 1)
        w = d.lane0(d.weigh(s.fill(_number(middle)), d.fill(top), d.fill(scale)))
        if w >= least:
            high = middle
        else:
            low = middle
    return _number(low)


@noinline
def gather(z: Ptr, vocab: Int, tops: Ptr, least: Float, values: Ptr, ids: Ptr) -> Int:
    """List the values of a row that are >= least, in ascending ids; returns how many there are.

    tops: the maxima of the row's blocks.
    """
    m = 0
    for first in range(0, vocab, BLOCK):
        if s.get_f32(tops) >= least:
            for i in range(first, s.smaller(first + BLOCK, vocab), 16):
                bits = bits_upto(z + 4 * i, vocab - i, least)
                while bits != 0:
                    at = i + s.lowest_bit(bits)
                    s.copy_i32(values + 4 * m, z + 4 * at)
                    s.set_i32(ids + 4 * m, at)
                    bits = bits & (bits - 1)
                    m += 1
        tops += 4
    return m


@noinline
def descending(
    values: Ptr, m: Int, keys: Ptr, order: Ptr, keys2: Ptr, order2: Ptr, counts: Ptr
) -> Ptr:
    """Sort values [m], descending, equal ones by place; returns the address of their places.

    A radix sort of keys, one byte at a time, the lowest byte first.
    """
    for i in range(m):
        s.set_i32(keys + 4 * i, 0x7FFFFFFF - _key(s.get_f32(values + 4 * i)))  # 0 .. 2^32 - 1
        s.set_i32(order + 4 * i, i)
    for shift in range(0, 32, 8):
        for digit in range(256):
            s.set_i64(counts + 8 * digit, 0)
        last = 0
        for i in range(m):
            last = (s.get_i32(keys + 4 * i) >> shift) & 255
            s.set_i64(counts + 8 * last, s.get_i64(counts + 8 * last) + 1)
        if s.get_i64(counts + 8 * last) == m:
            continue  # this byte is the same in all keys
        before = 0
        for digit in range(256):
            n = s.get_i64(counts + 8 * digit)
            s.set_i64(counts + 8 * digit, before)
            before += n
        for i in range(m):
            digit = (s.get_i32(keys + 4 * i) >> shift) & 255
            to = s.get_i64(counts + 8 * digit)
            s.set_i64(counts + 8 * digit, to + 1)
            s.copy_i32(keys2 + 4 * to, keys + 4 * i)
            s.copy_i32(order2 + 4 * to, order + 4 * i)
        keys, keys2 = keys2, keys
        order, order2 = order2, order
    return order


@device
def weights(values: Ptr, m: Int, top: Double, scale: Double, to: Ptr) -> None:
    """Write the weights, float64, of values [m]; whole vectors are read and written."""
    for i in range(0, m, 16):
        w = d.weigh(s.load_f32(values + 4 * i), d.fill(top), d.fill(scale))
        d.store(to + 8 * i, w)


@device
def _bucket(value: Float, top: Float, by: Float) -> Int:
    """The number of a value's bucket: one of 256 equal steps below the maximum."""
    return s.larger(s.smaller(s.truncated((top - value) * by), 255), 0)


@noinline
def fewest(
    values: Ptr, m: Int, w: Ptr, width: Int, least: Float, top: Float, target: Double
) -> None:
    """Keep the weights of the fewest largest values [m] that reach the target; set the others to 0.

    For long lists, whose values are finite and >= least: weights are summed by buckets of values,
    and only the bucket that contains the target is sorted.
    """
    keys, part = values + 8 * width, values + 24 * width
    places, masses = part + 4 * width, part + 8 * width
    by = f32(255.0) / (top - least) if top > least else f32(0.0)
    for b in range(256):
        d.set_f64(masses + 8 * b, f64(0.0))
    for i in range(m):
        at = masses + 8 * _bucket(s.get_f32(values + 4 * i), top, by)
        d.set_f64(at, d.get_f64(at) + d.get_f64(w + 8 * i))
    border, sums = 0, f64(0.0)
    while border < 256 and sums + d.get_f64(masses + 8 * border) < target:
        sums = sums + d.get_f64(masses + 8 * border)
        border += 1
    n = 0
    for i in range(m):
        b = _bucket(s.get_f32(values + 4 * i), top, by)
        x = d.get_f64(w + 8 * i)
        d.set_f64(w + 8 * i, x if b <= border else f64(0.0))  # no branch: it could not be predicted
        if b == border:
            s.copy_i32(part + 4 * n, values + 4 * i)
            s.set_i32(places + 4 * n, i)
            n += 1
    order, keys2 = keys + 4 * width, keys + 8 * width
    found = descending(part, n, keys, order, keys2, keys + 12 * width, masses)
    for i in range(n):
        at = w + 8 * s.get_i32(places + 4 * s.get_i32(found + 4 * i))
        x = d.get_f64(at)
        if sums >= target:
            d.set_f64(at, f64(0.0))
        sums = sums + x


@device
def walk(w: Ptr, m: Int, before: Double, target: Double) -> Int:
    """The first place where the running sum of w [m], which begins at `before`, exceeds the target.

    If there is none, the last place with a weight above 0, or -1.
    """
    sums, last = before, -1
    for i in range(m):
        x = d.get_f64(w + 8 * i)
        sums = sums + x
        if sums > target:
            return i
        if x > f64(0.0):
            last = i
    return last


@device
def running(w: Ptr, m: Int) -> Double:
    """The sum of w [m], from left to right."""
    sums = f64(0.0)
    for i in range(m):
        sums = sums + d.get_f64(w + 8 * i)
    return sums
