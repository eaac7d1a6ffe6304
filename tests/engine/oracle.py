"""Sampling as the documentation defines it, in numpy float64 with full stable sorts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_worker.types import SamplingParams


def adjusted(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    exempt: Collection[int] = (),
    banned: Collection[int] = (),
) -> NDArray[np.float32]:
    """Bias, then repetition, presence and frequency penalties, then the ban: worker-api.md."""
    z = logits.astype(np.float32).copy()
    for token, bias in params.logit_bias.items():
        z[token] += np.float32(bias)
    tokens = [*prompt, *output]
    window = tokens[-params.repeat_last_n :] if params.repeat_last_n > 0 else tokens
    penalty = np.float32(params.repetition_penalty)
    for token in set(window) - set(exempt):
        z[token] = z[token] / penalty if z[token] > 0 else z[token] * penalty
    for token, count in Counter(output).items():
        z[token] -= np.float32(params.presence_penalty)
        z[token] -= np.float32(count) * np.float32(params.frequency_penalty)
    if len(output) < params.min_tokens:
        z[list(banned)] = -np.inf
    return z


def kept(z: NDArray[np.float32], params: SamplingParams) -> NDArray[np.int64]:
    """Ids that top_k, top_p and min_p leave, ascending."""
    order = np.argsort(-z.astype(np.float64), kind="stable")
    if params.top_k > 0:
        order = order[: params.top_k]
    weight = np.exp((z[order].astype(np.float64) - z.max()) / params.temperature)
    if params.top_p < 1:
        sums = np.cumsum(weight)
        enough = np.flatnonzero(sums >= params.top_p * sums[-1])[0]
        order, weight = order[: enough + 1], weight[: enough + 1]
    return np.sort(order[weight >= params.min_p])


def choose(z: NDArray[np.float32], params: SamplingParams, u: float) -> int:
    """The token that `u` falls on, walking the kept ids upwards."""
    if params.temperature == 0:
        return int(np.flatnonzero(z == z.max())[0])
    ids = kept(z, params)
    sums = np.cumsum(np.exp((z[ids].astype(np.float64) - z.max()) / params.temperature))
    return int(ids[np.flatnonzero(sums > u * sums[-1])[0]])


def choices(z: NDArray[np.float32], params: SamplingParams, u: float) -> set[int]:
    """`choose` with room for the rounding of sums: one token, two where u falls on their border."""
    return {choose(z, params, x) for x in (max(u - 2**-50, 0.0), u, min(u + 2**-50, 1 - 2**-53))}


def log_softmax(z: NDArray[np.float32]) -> NDArray[np.float64]:
    x = z.astype(np.float64)
    x = x - x.max()
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum())
    return result
