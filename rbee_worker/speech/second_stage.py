"""MetaVoice's second stage: the codes of two codebooks become those of eight.

fam/llm/model.py, not causal: a transformer with learned positions and layer norms sees the text and
all frames at once, padded to its full length, and says for each frame the codes of six more
codebooks. It is small (10 million parameters) and runs once per answer, in numpy, when the first
stage is done. A code is drawn as in the authors' program, from the 200 most likely ones; its random
number is a function of the seed, the codebook and the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_worker.checkpoint.reading import read_json
from rbee_worker.checkpoint.stages import CODES
from rbee_worker.engine.philox import uniforms
from rbee_worker.errors import CheckpointError
from rbee_worker.speech.frames import Frame
from rbee_worker.speech.networks import sigmoid
from rbee_worker.speech.tensors import Tensors

F32 = NDArray[np.float32]
Ints = NDArray[np.int64]

PAD = CODES  # where a codebook has no code
TEXT_OFFSET = CODES + 1  # ids of text in the first codebook's table
STREAM = 2  # of random numbers: engine/philox.py
_TOP = 200  # codes that may be drawn
_EPS = 1e-5
_HEAD = 64  # columns, unless config.json says otherwise


class SecondStage:
    """The network of a `second_stage.safetensors`. length: positions of text and frames together,
    with one that ends them; books: codebooks that it makes."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError, BadReference, UnsupportedModel."""
        own = path.parent / "config.json"
        given = read_json(own).get("second_stage") if own.is_file() else None
        config = given if isinstance(given, dict) else {}
        t = Tensors(path)
        self.length, self._width = t.shape("transformer.wpe.weight")
        heads = config.get("n_head", max(self._width // _HEAD, 1))
        if type(heads) is not int or heads < 1 or self._width % heads:
            raise CheckpointError(
                f"{path}: {self._width} columns do not make {heads!r} heads.",
                fix='give "second_stage": {"n_head": ...} in config.json.',
            )
        self._heads = heads
        self._positions = t.take("transformer.wpe.weight")
        self._tables = [t.take(f"transformer.wtes.{n}.weight") for n in (0, 1)]
        self._blocks: list[_Block] = []
        while t.has(f"transformer.h.{len(self._blocks)}.attn.c_attn.weight"):
            self._blocks.append(_Block(t, f"transformer.h.{len(self._blocks)}", heads))
        self._norm = _Norm(t, "transformer.ln_f")
        self._voice = (
            t.take("speaker_cond_pos.weight") if t.has("speaker_cond_pos.weight") else None
        )
        self._out: list[F32] = []
        while t.has(f"lm_heads.{len(self._out)}.weight"):
            self._out.append(t.take(f"lm_heads.{len(self._out)}.weight"))
        if not self._blocks or not self._out or t.left:
            what = f"does not read {t.left[0]!r}" if t.left else "has no layers or no heads"
            raise CheckpointError(f"{path}: {what}.", fix="use a second stage of MetaVoice's.")

    @property
    def books(self) -> int:
        """Codebooks of a frame in the end."""
        return 2 + len(self._out)

    def most(self, text: int) -> int:
        """The most frames of an answer to `text` tokens of text."""
        return max(self.length - text - 1, 0)

    def codes(self, text: Sequence[int], frames: Sequence[Frame], voice: F32, seed: int) -> Ints:
        """All codes [books, frames]. text: ids of the first stage's tokenizer without its offset;
        voice: the speaker's embedding, empty for none. At most `most` frames."""
        logits = self.logits(text, frames, voice)
        made = [np.array(frames, np.int64).reshape(-1, 2).T]
        for book, rows in enumerate(logits):
            numbers = uniforms(seed, book, np.arange(len(rows)), STREAM)
            made.append(drawn(rows[:, :CODES], numbers)[None])
        return np.concatenate(made)

    def logits(self, text: Sequence[int], frames: Sequence[Frame], voice: F32) -> list[F32]:
        """For each further codebook, the logits of every frame [frames, codes]."""
        n, end = len(text), len(text) + len(frames)
        assert end < self.length
        ids = np.full((2, self.length), PAD, np.int64)
        ids[0, :n] = np.asarray(text, np.int64) + TEXT_OFFSET
        ids[:, n:end] = np.array(frames, np.int64).reshape(-1, 2).T
        x = self._positions + self._tables[0][ids[0]] + self._tables[1][ids[1]]
        if self._voice is not None and len(voice):
            x = x + self._voice @ voice
        for block in self._blocks:
            x = block.run(x)
        rows = self._norm.run(x[n:end])
        return [rows @ out.T for out in self._out]


class _Norm:
    """A layer norm, whose bias files may lack."""

    def __init__(self, t: Tensors, name: str) -> None:
        self._weight = t.take(f"{name}.weight")
        self._bias = t.take(f"{name}.bias") if t.has(f"{name}.bias") else np.float32(0)

    def run(self, x: F32) -> F32:
        off = x - x.mean(axis=1, keepdims=True)
        made: F32 = off / np.sqrt(np.square(off).mean(axis=1, keepdims=True) + np.float32(_EPS))
        return made * self._weight + self._bias


class _Map:
    """A linear map, whose bias files may lack."""

    def __init__(self, t: Tensors, name: str) -> None:
        self._weight = t.take(f"{name}.weight")
        self._bias = t.take(f"{name}.bias") if t.has(f"{name}.bias") else np.float32(0)

    def run(self, x: F32) -> F32:
        made: F32 = x @ self._weight.T + self._bias
        return made


class _Block:
    """x + attention(norm x), then x + mlp(norm x); every row sees every row."""

    def __init__(self, t: Tensors, name: str, heads: int) -> None:
        self._first, self._second = _Norm(t, f"{name}.ln_1"), _Norm(t, f"{name}.ln_2")
        self._qkv, self._out = _Map(t, f"{name}.attn.c_attn"), _Map(t, f"{name}.attn.c_proj")
        self._gated = t.has(f"{name}.mlp.swiglu.w1.weight")
        ups = ("swiglu.w1", "swiglu.w3") if self._gated else ("c_fc",)
        self._ups = [_Map(t, f"{name}.mlp.{up}") for up in ups]
        self._down = _Map(t, f"{name}.mlp.c_proj")
        self._heads = heads

    def run(self, x: F32) -> F32:
        x = x + self._out.run(self._attended(self._first.run(x)))
        y = self._second.run(x)
        ups = [up.run(y) for up in self._ups]
        bent = ups[0] * sigmoid(ups[0]) * ups[1] if self._gated else gelu(ups[0])
        return x + self._down.run(bent)

    def _attended(self, x: F32) -> F32:
        rows, width = x.shape
        parts = self._qkv.run(x).reshape(rows, 3, self._heads, width // self._heads)
        q, k, v = parts.transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) * np.float32(1 / sqrt(width // self._heads))
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        mixed: F32 = (weights @ v).transpose(1, 0, 2).reshape(rows, width)
        return mixed


def gelu(x: F32) -> F32:
    """x * Phi(x), with the complementary error function of Numerical Recipes (erfcc), whose
    relative error is less than 1.2e-7."""
    z = np.abs(x.astype(np.float64)) / sqrt(2)
    t = 1 / (1 + z / 2)
    series = -1.26551223
    terms = (1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807)
    more = (-1.13520398, 1.48851587, -0.82215223, 0.17087277)
    power = np.ones_like(t)
    total = np.full_like(t, series)
    for factor in (*terms, *more):
        power = power * t
        total += factor * power
    tail = t * np.exp(-z * z + total) / 2  # of the normal distribution beyond |x|
    return (x * np.where(x > 0, 1 - tail, tail)).astype(np.float32)


def drawn(logits: F32, numbers: NDArray[np.float64]) -> Ints:
    """One code for each row of logits [n, codes] among its most likely ones, by id, as the number
    says (0 .. 1)."""
    if not len(logits):
        return np.zeros(0, np.int64)
    wide = logits.astype(np.float64)
    if wide.shape[1] > _TOP:
        least = np.partition(wide, -_TOP, axis=1)[:, -_TOP, None]
        wide = np.where(wide >= least, wide, -np.inf)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    sums = np.cumsum(weights, axis=1)
    picked = (sums <= (numbers * sums[:, -1])[:, None]).sum(axis=1)
    last = wide.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0, axis=1)
    codes: Ints = np.minimum(picked, last).astype(np.int64)
    return codes
