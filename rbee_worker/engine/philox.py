"""One uniform number per token from a counter: no state that could be lost or shared.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as
1, 2, 3", SC'11). The key is the request's seed; the counter is (index of the token in its
sequence, choice, stream, 0). The same token of the same request therefore gets the same number in
any batch, after any preemption, in any process. Stream 0 is for drawing tokens; other streams are
free for other uses. This module knows nothing of logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))  # added to the key after each round
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

Words = NDArray[np.uint64]  # values below 2^32; 64 bits wide so that products do not overflow


def philox4x32(
    counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words], rounds: int = 10
) -> tuple[Words, Words, Words, Words]:
    """Four random 32-bit words per element. All six inputs have one shape; words are < 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(rounds):
        if i:
            k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
    return c0, c1, c2, c3


def uniforms(
    seeds: ArrayLike, choices: ArrayLike, indices: ArrayLike, stream: int = 0
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits; the arguments broadcast against each other.

    seeds: 0 .. 2^64-1; choices and indices: 0 .. 2^32-1.
    """
    # Not `broadcast_arrays`: it looks up a method under a new name object in every call, and the
    # interpreter keeps thousands of these.
    seed, choice, index = (np.asarray(each, np.uint64) for each in (seeds, choices, indices))
    zero = np.zeros_like(index)
    high, low, _, _ = philox4x32(
        (index, choice, zero + np.uint64(stream), zero), (seed & _LOW, seed >> _32)
    )
    bits = ((high >> np.uint64(5)) << np.uint64(26)) | (low >> np.uint64(6))  # 27 + 26
    return bits.astype(np.float64) * 2.0**-53
