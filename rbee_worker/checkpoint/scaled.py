"""Safetensors files that keep a weight's scales in a second tensor, joined into one tensor.

Three layouts are read. `X.weight` in 8-bit floats with `X.weight_scale_inv`, one scale for 128 x
128 values (DeepSeek V3), becomes F8_B128, and so does `X.weight` with `X.weight_scale`, which is
one for the whole matrix, for each row or for 128 x 128 values (compressed-tensors). `X_blocks` with
`X_scales` (GPT-OSS) becomes MXFP4 under the name `X.weight`; an expert's rows are its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rbee_worker.checkpoint.decoding import decode
from rbee_worker.checkpoint.formats import FORMATS, Packed, TensorInfo, TensorSource
from rbee_worker.checkpoint.safetensors import SafetensorsSource
from rbee_worker.errors import CheckpointError, UnsupportedModel

BLOCK = FORMATS["F8_B128"].block
_BLOCK_SCALES, _ANY_SCALES = "_scale_inv", "_scale"
_VALUES, _POWERS = "_blocks", "_scales"
_KINDS = ("fp8", "mxfp4")
_STRATEGIES = ("tensor", "channel", "block")  # of compressed-tensors, which this module reads


def without_known_quantization(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`config` without its `quantization_config`, if this module reads that kind.

    Raises UnsupportedModel for 8-bit floats with scales for other than 128 x 128 values.
    """
    given = config.get("quantization_config")
    if not isinstance(given, dict):
        return dict(config)
    if has_8_bit_weights(given):
        return {key: value for key, value in config.items() if key != "quantization_config"}
    if given.get("quant_method") not in _KINDS:
        return dict(config)
    size = given.get("weight_block_size")
    if given["quant_method"] == "fp8" and size != [BLOCK, BLOCK]:
        raise UnsupportedModel(
            f"{where}: 8-bit floats with one scale for {str(size)[:40]} values cannot be read.",
            fix=f"use a checkpoint with weight_block_size [{BLOCK}, {BLOCK}], or a .gguf file",
        )
    return {key: value for key, value in config.items() if key != "quantization_config"}


def has_8_bit_weights(given: Mapping[str, Any]) -> bool:
    """Whether a quantization_config of compressed-tensors means nothing but matrices in 8-bit
    floats: activations are rounded by their own largest number, or not at all, and so is no cache.
    """
    groups = given.get("config_groups")
    if given.get("quant_method") != "compressed-tensors" or not isinstance(groups, dict):
        return False
    if not groups or given.get("kv_cache_scheme") or given.get("sparsity_config"):
        return False
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else None
        inputs = group.get("input_activations") if isinstance(group, dict) else None
        if not isinstance(weights, dict) or (inputs and not inputs.get("dynamic")):
            return False
        kind = weights.get("type"), weights.get("num_bits"), bool(weights.get("symmetric", True))
        if kind != ("float", 8, True) or weights.get("strategy") not in _STRATEGIES:
            return False
    return True


def joined(source: SafetensorsSource) -> TensorSource:
    """`source` itself, or a `ScaledSource` of it if it has weights with separate scales."""
    scaled = ScaledSource(source)
    return scaled if scaled.pairs else source


class ScaledSource:
    """The tensors of `source`, with each pair of values and scales joined into one tensor.

    Raises CheckpointError for a pair whose shapes or formats do not match.
    """

    def __init__(self, source: SafetensorsSource) -> None:
        self._source = source
        names = set(source.names())
        self.pairs: dict[str, tuple[str, str]] = {}  # name -> names of its values and its scales
        for name in source.names():
            if (
                name.endswith(_BLOCK_SCALES)
                and (values := name.removesuffix(_BLOCK_SCALES)) in names
            ):
                self.pairs[values] = (values, name)
            values = name.removesuffix(_ANY_SCALES)
            if name != values in names and source.info(values).format == "F8_E4M3":
                self.pairs[values] = (values, name)
            stem = name.removesuffix(_VALUES)
            if name != stem and stem + _POWERS in names:
                self.pairs[f"{stem}.weight"] = (name, stem + _POWERS)
        hidden = {part for pair in self.pairs.values() for part in pair}
        self._names = [*(name for name in source.names() if name not in hidden), *self.pairs]
        self._infos = {name: self._joined(name) for name in self.pairs}

    def names(self) -> list[str]:
        """See `TensorSource`."""
        return self._names

    def info(self, name: str) -> TensorInfo:
        """See `TensorSource`."""
        return self._infos[name] if name in self.pairs else self._source.info(name)

    def read(self, name: str) -> Packed:
        """See `TensorSource`. A joined pair is copied."""
        if name not in self.pairs:
            return self._source.read(name)
        values, scales = (self._source.view(part) for part in self.pairs[name])
        info = self._infos[name]
        data = _fp8(values, scales) if info.format == "F8_B128" else _mxfp4(values, scales)
        rows = int(np.prod(info.shape[:-1], dtype=np.int64))
        return Packed(data.reshape(rows, -1), info.format, info.shape)

    def release(self) -> None:
        """See `TensorSource.release`."""
        self._source.release()

    def _joined(self, name: str) -> TensorInfo:
        values, scales = (self._source.info(part) for part in self.pairs[name])
        shape = values.shape
        if name == self.pairs[name][0]:
            blocks = tuple(-(-n // BLOCK) for n in shape)
            good = (
                (values.format, len(shape)) == ("F8_E4M3", 2)
                and scales.format in ("F32", "BF16", "F16")
                and scales.shape in (blocks, (), (1,), shape[:1], (*shape[:1], 1))
                and shape[1] % BLOCK == 0
            )
            form, whole = FORMATS["F8_B128"], shape
        else:
            form = FORMATS["MXFP4"]
            good = (values.format, scales.format) == ("U8", "U8") and (
                shape == (*scales.shape, form.block // 2) and len(shape) > 2
            )
            whole = (*shape[:-2], shape[-2] * form.block) if good else shape
        if not good:
            raise CheckpointError(
                f"tensor {name!r}: {values.format} {list(shape)} and its scales, {scales.format} "
                f"{list(scales.shape)}, do not match, or its columns are no multiple of {BLOCK}.",
                fix="download the checkpoint again, or use a .gguf file",
            )
        nbytes = int(np.prod(whole, dtype=np.int64)) // form.block * form.bytes
        return TensorInfo(form.name, whole, nbytes)


def _fp8(values: Packed, scales: Packed) -> npt.NDArray[np.uint8]:
    """For each row: its blocks, each preceded by its scale."""
    rows, cols = values.shape
    out = np.empty((rows, cols // BLOCK, 4 + BLOCK), np.uint8)
    given = decode(scales).reshape(scales.shape)
    if given.shape == (-(-rows // BLOCK), cols // BLOCK):
        given = np.repeat(given, BLOCK, axis=0)[:rows]
    else:  # one for all, or one for each row
        given = given.reshape(-1, 1)
    each = np.ascontiguousarray(np.broadcast_to(given, (rows, cols // BLOCK)), np.float32)
    out[:, :, :4] = each[:, :, None].view(np.uint8)
    out[:, :, 4:] = values.data.reshape(rows, -1, BLOCK)
    return out


def _mxfp4(values: Packed, scales: Packed) -> npt.NDArray[np.uint8]:
    """Blocks in GGUF's layout: the scale's exponent, then values n and n + 16 in one byte. In the
    source, neighbours share a byte, the first in its low half."""
    both = values.data.reshape(-1, 16)
    out = np.empty((len(both), 17), np.uint8)
    out[:, 0] = scales.data.reshape(-1)
    nibbles = np.empty((len(both), 32), np.uint8)
    nibbles[:, 0::2], nibbles[:, 1::2] = both & 15, both >> 4
    out[:, 1:] = nibbles[:, :16] | nibbles[:, 16:] << 4
    return out
