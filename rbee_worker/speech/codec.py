"""EnCodec's decoder (Défossez et al. 2022): codes of several codebooks to 24 kHz sound, in numpy.

Read from a directory in transformers' form (facebook/encodec_24khz): config.json and
model.safetensors. Its convolutions are causal, so sound comes out while codes come in: a `Decoding`
takes frames and gives their samples. It computes blocks of frames that begin at fixed places, so a
sound has the same bits however its frames come in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_worker.checkpoint.reading import inside, read_json
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.speech.networks import (
    Conv,
    ConvWeights,
    Lstm,
    LstmWeights,
    Up,
    UpWeights,
    elu,
)
from rbee_worker.speech.tensors import Tensors

F32 = NDArray[np.float32]
Step = Callable[[F32], F32]  # moments and channels of one block -> those of the next layer

BLOCK = 24  # frames that are computed at once
_USED = "only EnCodec's 24 kHz model (facebook/encodec_24khz) is read."
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class CodecConfig:
    """The keys of an EnCodec config.json that its decoder depends on, and their defaults in
    transformers."""

    sampling_rate: int = 24000
    audio_channels: int = 1
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: Sequence[int] = (8, 5, 4, 2)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    compress: int = 2
    num_lstm_layers: int = 2
    hidden_size: int = 128
    codebook_size: int = 1024
    codebook_dim: int | None = None
    use_conv_shortcut: bool = True
    pad_mode: str = "reflect"
    norm_type: str = "weight_norm"
    use_causal_conv: bool = True
    trim_right_ratio: float = 1.0
    normalize: bool = False

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return int(np.prod(self.upsampling_ratios))


class Codec:
    """The weights. rate: samples a second; books: how many codebooks there are."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError, UnsupportedModel, BadReference."""
        config = read_json(inside(folder, folder / "config.json"), _MAX_BYTES)
        if config.get("model_type") != "encodec":
            kind = str(config.get("model_type"))[:40]
            raise UnsupportedModel(f"{folder}: is a model of the type {kind!r}; {_USED}")
        self.config = c = _read(config, str(folder))
        tensors = Tensors(inside(folder, folder / "model.safetensors"))
        self.rate, self.hop = c.sampling_rate, c.hop
        self.books = 0
        while tensors.has(f"quantizer.layers.{self.books}.codebook.embed"):
            self.books += 1
        size = (c.codebook_size, c.codebook_dim or c.hidden_size)
        self._tables = [
            tensors.take(f"quantizer.layers.{book}.codebook.embed", size)
            for book in range(self.books)
        ]
        if not self.books:
            raise CheckpointError(f"{folder}: has no codebooks.", fix="download it again.")
        self._layers = list(_layers(c, tensors))

    def decoding(self) -> Decoding:
        """A new sound."""
        return Decoding(self._tables, [layer() for layer in self._layers], self.hop)

    def samples(self, codes: NDArray[np.int64]) -> F32:
        """The whole sound of codes [books, frames]: float32 [frames * hop]."""
        decoding = self.decoding()
        return np.concatenate((decoding.push(codes), decoding.end()))


class Decoding:
    """One sound. Frames that do not fill a block wait for more, or for the end."""

    def __init__(self, tables: Sequence[F32], steps: Sequence[Step], hop: int) -> None:
        self._tables, self._steps, self._hop = tables, steps, hop
        self._waiting: F32 = np.zeros((0, tables[0].shape[1]), np.float32)

    def push(self, codes: NDArray[np.int64]) -> F32:
        """The next frames' codes [books, n], of the first codebooks if not of all -> the samples
        that are certain now."""
        rows = [table[book] for table, book in zip(self._tables, codes, strict=False)]
        summed = np.add.reduce(rows, axis=0)
        self._waiting = np.concatenate((self._waiting, summed))
        made = [np.zeros(0, np.float32)]
        while len(self._waiting) >= BLOCK:
            made.append(self._computed(self._waiting[:BLOCK]))
            self._waiting = self._waiting[BLOCK:]
        return np.concatenate(made)

    def end(self) -> F32:
        """The samples of the frames that still wait. Nothing may follow."""
        rest, self._waiting = self._waiting, self._waiting[:0]
        return self._computed(rest) if len(rest) else np.zeros(0, np.float32)

    def _computed(self, x: F32) -> F32:
        for step in self._steps:
            x = step(x)
        return np.ascontiguousarray(x[:, 0])


def _read(config: dict[str, Any], where: str) -> CodecConfig:
    names = CodecConfig.__dataclass_fields__
    c = CodecConfig(**{name: config[name] for name in names if config.get(name) is not None})
    for name, wanted in (
        ("norm_type", "weight_norm"),
        ("use_causal_conv", True),
        ("trim_right_ratio", 1.0),
        ("normalize", False),
        ("audio_channels", 1),
    ):
        if getattr(c, name) != wanted:
            raise UnsupportedModel(f"{where}: {name} is {getattr(c, name)!r}; {_USED}")
    if c.pad_mode not in ("reflect", "constant"):
        raise UnsupportedModel(f"{where}: pad_mode is {c.pad_mode!r}; {_USED}")
    sizes = [getattr(c, n) for n in names if isinstance(names[n].default, int)]
    if any(type(n) is not int and not isinstance(n, float | bool) for n in sizes) or not all(
        type(n) is int and 0 < n <= 64 for n in c.upsampling_ratios
    ):
        raise CheckpointError(
            f"{where}: its config has sizes that are none.", fix="download it again"
        )
    dilated = c.dilation_growth_rate ** (c.num_residual_layers - 1) * (c.residual_kernel_size - 1)
    if max(c.kernel_size - 1, dilated / c.upsampling_ratios[0]) >= BLOCK:
        raise UnsupportedModel(f"{where}: its kernels span more than {BLOCK} frames; {_USED}")
    return c


def _layers(c: CodecConfig, tensors: Tensors) -> Iterator[Callable[[], Step]]:
    """What makes each layer's state for a new sound, in order."""
    number = 0
    channels = c.num_filters << len(c.upsampling_ratios)
    yield _conv(c, tensors, f"decoder.layers.{number}", c.hidden_size, channels, c.kernel_size)
    number += 1
    yield _lstm(c, tensors, f"decoder.layers.{number}.lstm", channels)
    for ratio in c.upsampling_ratios:
        number += 2  # an ELU has a number too
        yield lambda: elu
        yield _up(tensors, f"decoder.layers.{number}", channels, channels // 2, ratio)
        channels //= 2
        for block in range(c.num_residual_layers):
            number += 1
            dilation = c.dilation_growth_rate**block
            yield _residual(c, tensors, f"decoder.layers.{number}", channels, dilation)
    yield lambda: elu
    number += 2
    yield _conv(c, tensors, f"decoder.layers.{number}", channels, 1, c.last_kernel_size)


def _conv(
    c: CodecConfig,
    tensors: Tensors,
    name: str,
    given: int,
    made: int,
    taps: int,
    dilation: int = 1,
) -> Callable[[], Step]:
    weight = _weight(tensors, f"{name}.conv", (made, given, taps))
    kernel = np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(taps * given, made))
    bias = tensors.take(f"{name}.conv.bias", (made,))
    weights = ConvWeights(kernel, bias, taps, dilation, c.pad_mode == "reflect")
    return lambda: Conv(weights).run


def _up(tensors: Tensors, name: str, given: int, made: int, ratio: int) -> Callable[[], Step]:
    weight = _weight(tensors, f"{name}.conv", (given, made, 2 * ratio))
    kernel = np.ascontiguousarray(weight.transpose(0, 2, 1).reshape(given, -1))
    weights = UpWeights(kernel, tensors.take(f"{name}.conv.bias", (made,)), 2 * ratio, ratio)
    return lambda: Up(weights).run


def _lstm(c: CodecConfig, tensors: Tensors, name: str, width: int) -> Callable[[], Step]:
    layers = []
    for n in range(c.num_lstm_layers):
        biases = [tensors.take(f"{name}.bias_{kind}_l{n}", (4 * width,)) for kind in ("ih", "hh")]
        into, again = (
            tensors.take(f"{name}.weight_{kind}_l{n}", (4 * width, width)) for kind in ("ih", "hh")
        )
        layers.append(LstmWeights(into, again, biases[0] + biases[1]))

    def begun() -> Step:
        states = [Lstm(weights) for weights in layers]

        def step(x: F32) -> F32:
            y = x[:, None]
            for state in states:
                y = state.run(y)
            return x + y[:, 0]

        return step

    return begun


def _residual(
    c: CodecConfig, tensors: Tensors, name: str, width: int, dilation: int
) -> Callable[[], Step]:
    inner = width // c.compress
    first = _conv(c, tensors, f"{name}.block.1", width, inner, c.residual_kernel_size, dilation)
    second = _conv(c, tensors, f"{name}.block.3", inner, width, 1)
    beside = _conv(c, tensors, f"{name}.shortcut", width, width, 1) if c.use_conv_shortcut else None

    def begun() -> Step:
        one, two = first(), second()
        past: Step = (lambda x: x) if beside is None else beside()
        return lambda x: past(x) + two(elu(one(elu(x))))

    return begun


def _weight(tensors: Tensors, name: str, shape: tuple[int, int, int]) -> F32:
    """A convolution's weight, whose files have its direction and its length (Salimans and Kingma
    2016), for each entry of the first dimension, under torch's newer or older names."""
    new = f"{name}.parametrizations.weight.original"
    length, way = (
        (f"{new}0", f"{new}1")
        if tensors.has(f"{new}0")
        else (
            f"{name}.weight_g",
            f"{name}.weight_v",
        )
    )
    v = tensors.take(way, shape).astype(np.float64)
    g = tensors.take(length, (shape[0], 1, 1)).astype(np.float64)
    norm = np.sqrt(np.square(v).sum(axis=(1, 2), keepdims=True))
    made: F32 = (g * v / np.maximum(norm, 1e-300)).astype(np.float32)
    return made
