"""The few largest values of a row, found without sorting it: a threshold, a list, a sort of that.

Comparisons are exact and a list is in ascending ids, so nothing here depends on how a row was
shared among threads. A value is ordered by its bits (`_key`), -0 and 0 being equal.

A thread's scratch, `width` = `padded(vocabulary)`: weights float64 [width], then six arrays of
4 bytes a place (values, ids, and keys and order twice, to sort from one into the other), then the
sort's 256 counters.
"""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.cpu import doubles as d
from rbee_worker.ops.cpu import simd as s
from rbee_worker.ops.cpu.doubles import Double
from rbee_worker.ops.cpu.kernel import apart, device
from rbee_worker.ops.cpu.sampling_memory import BLOCK
from rbee_worker.ops.cpu.simd import Float, Int, Ptr

f32 = np.float32
f64 = np.float64
LOWEST = f32(np.finfo(np.float32).min)  # below it there is only -inf, which weighs nothing


@device
def _key(x: Float) -> Int:
    """An integer that is ordered as x is."""
    bits = s.f32_bits(x + f32(0.0))  # -0 becomes 0
    return bits ^ ((bits >> 63) & 0x7FFFFFFF)


@device
def _number(key: Int) -> Float:
    """The number whose key this is."""
    return s.bits_f32(key ^ ((key >> 63) & 0x7FFFFFFF))


@device
def bits_upto(p: Ptr, left: Int, least: Float) -> Int:
    """Bit n: the n-th of 16 numbers at p, or of `left` where that is less, is >= least."""
    if left >= 16:
        return s.at_least(s.load_f32(p), s.fill(least))
    return s.at_least(s.load_first(p, left), s.fill(least)) & ((1 << left) - 1)


@device
def _count(x: Ptr, count: Int, least: Float) -> Int:
    """How many of x [count] are >= least."""
    found = 0
    for i in range(0, count, 16):
        found += s.count_bits(bits_upto(x + 4 * i, count - i, least))
    return found


@apart
def threshold(x: Ptr, count: Int, top: Float, want: Int) -> Float:
    """A finite number that at least `want` of x [count] are >=, and not many more; `LOWEST` where
    fewer are finite. No x is greater than `top`."""
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


@apart
def lightest(top: Double, scale: Double, least: Double) -> Float:
    """About the smallest number that weighs `least` or more beside a maximum of `top`."""
    low, high = _key(LOWEST), _key(f32(np.inf))
    while high - low > 1:
        middle = low + ((high - low) >> 1)
        w = d.lane0(d.weigh(s.fill(_number(middle)), d.fill(top), d.fill(scale)))
        if w >= least:
            high = middle
        else:
            low = middle
    return _number(low)


@apart
def gather(z: Ptr, vocab: Int, tops: Ptr, least: Float, values: Ptr, ids: Ptr) -> Int:
    """List what is >= least of a row, in ascending ids; how many. tops: maxima of its blocks."""
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


@apart
def descending(
    values: Ptr, m: Int, keys: Ptr, order: Ptr, keys2: Ptr, order2: Ptr, counts: Ptr
) -> Ptr:
    """Address of the places of values [m] in descending order, equal ones in ascending places.

    A radix sort of keys, a byte at a time, the lowest first.
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
            continue  # all the same
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
    """Weights float64 of values [m]; whole vectors are read and written."""
    for i in range(0, m, 16):
        w = d.weigh(s.load_f32(values + 4 * i), d.fill(top), d.fill(scale))
        d.store(to + 8 * i, w)


@device
def walk(w: Ptr, m: Int, before: Double, target: Double) -> Int:
    """The first place where the running sum of w [m], begun at `before`, exceeds the target; where
    none does, the last one that weighs anything, -1 if none does."""
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
    """The sum of w [m] from left to right."""
    sums = f64(0.0)
    for i in range(m):
        sums = sums + d.get_f64(w + 8 * i)
    return sums
