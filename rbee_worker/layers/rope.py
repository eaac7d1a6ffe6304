"""Every rotary variant: turns a config's `rope_scaling` into frequencies.

Sources: RoFormer (Su et al. 2021) for the base; NTK-aware and dynamic scaling (bloc97, emozilla
2023); YaRN (Peng et al. 2023); Llama 3.1's piecewise scaling (Meta 2024); LongRoPE (Ding et al.
2024).
All arithmetic is float32, the precision of the reference implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.ops import RopeSpec

F32 = npt.NDArray[np.float32]
Scaled = tuple[F32, float]


def rope_spec(
    dim: int,
    theta: float,
    scaling: Mapping[str, Any] | None,
    max_positions: int,
    *,
    interleaved: bool = False,
    divisors: Sequence[float] | None = None,
) -> RopeSpec:
    """The `RopeSpec` for `dim` rotated columns.

    scaling: a config's `rope_scaling` with its `rope_type`; None: no scaling. max_positions: the
    config's max_position_embeddings. divisors: the frequencies are divided by these (a GGUF file's
    `rope_freqs`), which replaces a llama3 scaling in the config.
    Raises UnsupportedModel for an unknown rope_type, CheckpointError for a missing key.
    """
    freq = _plain(dim, theta)
    scaling = dict(scaling or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if divisors is not None:
        freq = (freq / np.array(divisors, np.float32)).astype(np.float32)
        kind = "default" if kind == "llama3" else kind
    if kind == "dynamic":
        original = int(scaling.get("original_max_position_embeddings") or max_positions)
        factor = float(_need(scaling, "factor", kind))
        return RopeSpec(dim, tuple(freq.tolist()), interleaved, dynamic=(theta, factor, original))
    if kind == "longrope":
        return _longrope(freq, scaling, max_positions, interleaved)
    if kind not in _SCALINGS:
        raise UnsupportedModel(
            f"rope_scaling has rope_type {kind!r}, which is not supported.",
            fix=f"supported: {', '.join(['dynamic', 'longrope', *_SCALINGS])}.",
        )
    freq, magnitude = _SCALINGS[kind](freq, dim, theta, scaling, max_positions)
    return RopeSpec(dim, tuple(freq.tolist()), interleaved, magnitude=magnitude)


def _longrope(freq: F32, s: Mapping[str, Any], length: int, interleaved: bool) -> RopeSpec:
    """Every frequency is divided by its divisor from one of two sets. A sequence longer than the
    original context uses the long set for all its tokens. The magnitude of both follows from how
    far the context is stretched, unless the config gives one for each."""
    original = int(s.get("original_max_position_embeddings") or length)
    if original < 2:
        raise CheckpointError("config.json: original_max_position_embeddings is below 2.")
    sets = []
    for key in ("short_factor", "long_factor"):
        divisors = np.array(_need(s, key, "longrope"), np.float32)
        if divisors.shape != freq.shape:
            raise CheckpointError(
                f"config.json: {key} has {divisors.size} values, but {freq.size} pairs rotate.",
                fix="download the checkpoint's config again.",
            )
        sets.append(tuple((freq / divisors).astype(np.float32).tolist()))
    stretch = float(s.get("factor") or length / original)
    magnitude = s.get("attention_factor")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(max(stretch, 1.0)) / math.log(original))
    return RopeSpec(
        2 * freq.size,
        sets[0],
        interleaved,
        magnitude=float(s.get("short_mscale") or magnitude),
        long_inv_freq=sets[1],
        long_magnitude=float(s.get("long_mscale") or magnitude),
        switch=original,
    )


def _plain(dim: int, theta: float) -> F32:
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    powers = np.power(np.full_like(exponent, theta), exponent)
    plain: F32 = (np.float32(1.0) / powers).astype(np.float32)
    return plain


def _need(scaling: Mapping[str, Any], key: str, kind: str) -> Any:
    if scaling.get(key) is None:
        raise CheckpointError(f"config.json: rope_scaling of type {kind!r} has no {key!r}.")
    return scaling[key]


def _unscaled(freq: F32, dim: int, theta: float, s: Mapping[str, Any], length: int) -> Scaled:
    return freq, 1.0


def _linear(freq: F32, dim: int, theta: float, s: Mapping[str, Any], length: int) -> Scaled:
    """Position interpolation (Chen et al. 2023): positions shrink by the factor."""
    return freq / np.float32(_need(s, "factor", "linear")), 1.0


def _llama3(freq: F32, dim: int, theta: float, s: Mapping[str, Any], length: int) -> Scaled:
    """Wavelengths above L / low are scaled by the factor, those below L / high stay, others mix."""
    factor = float(_need(s, "factor", "llama3"))
    low = float(_need(s, "low_freq_factor", "llama3"))
    high = float(_need(s, "high_freq_factor", "llama3"))
    original = float(s.get("original_max_position_embeddings") or length)
    wave = 2 * math.pi / freq
    span = high - low or 1.0  # if they are equal, as in Llama 4, no wavelength is between them
    mix = ((original / wave - low) / span).astype(np.float32)
    middle = (1 - mix) * freq / factor + mix * freq
    scaled = np.where(wave > original / low, freq / factor, middle)
    return np.where(wave < original / high, freq, scaled).astype(np.float32), 1.0


def _yarn(freq: F32, dim: int, theta: float, s: Mapping[str, Any], length: int) -> Scaled:
    """A mix of interpolated and plain for each pair, by a ramp over rotations (YaRN, section
    3.2)."""
    original = s.get("original_max_position_embeddings") or length
    factor = float(s.get("factor") or length / original)

    def rotations_at(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = rotations_at(float(s.get("beta_fast") or 32))
    high = rotations_at(float(s.get("beta_slow") or 1))
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    span = max(high - low, 0.001)
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / span, 0, 1)
    mixed = freq / np.float32(factor) * ramp + freq * (1 - ramp)
    return mixed.astype(np.float32), _yarn_magnitude(factor, s)


def _yarn_magnitude(factor: float, s: Mapping[str, Any]) -> float:
    def mscale(scale: float, by: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * by * math.log(scale) + 1.0

    if s.get("attention_factor") is not None:
        return float(s["attention_factor"])
    if s.get("mscale") and s.get("mscale_all_dim"):
        return mscale(factor, s["mscale"]) / mscale(factor, s["mscale_all_dim"])
    return mscale(factor)


def _proportional(freq: F32, dim: int, theta: float, s: Mapping[str, Any], length: int) -> Scaled:
    """Columns pair up as if all rotated, but the pairs beyond a fraction do not rotate (Gemma
    4)."""
    turning = int(float(s.get("partial_rotary_factor") or 1.0) * dim // 2)
    still = np.where(np.arange(dim // 2) < turning, freq, np.float32(0)).astype(np.float32)
    return still / np.float32(s.get("factor") or 1.0), 1.0


_SCALINGS: dict[str, Callable[[F32, int, float, Mapping[str, Any], int], Scaled]] = {
    "default": _unscaled,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "proportional": _proportional,
}
