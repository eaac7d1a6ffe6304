"""Decoder blocks, one class per placement of the norms. Attention and feed-forward are
parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.norm import Norm
from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array, Batch

Mixer = Callable[[Array, Batch], Array]
FeedForward = Callable[[Array, Batch], Array]


@dataclass(frozen=True)
class Scaled:
    """after * mix(before * x)"""

    ops: Ops
    mix: Mixer
    before: float = 1.0
    after: float = 1.0

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        given = x if self.before == 1.0 else self.ops.scale(x, self.before)
        mixed = self.mix(given, batch)
        return mixed if self.after == 1.0 else self.ops.scale(mixed, self.after)


@dataclass(frozen=True)
class Both:
    """first x + second x"""

    ops: Ops
    first: Mixer
    second: Mixer

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        return self.ops.add(self.first(x, batch), self.second(x, batch))


@dataclass(frozen=True)
class PreNorm:
    """x + s * attention(norm x), then x + s * mlp(norm x); s is residual_scale."""

    ops: Ops
    attention_norm: Norm
    attention: Mixer
    mlp_norm: Norm
    mlp: FeedForward
    residual_scale: float = 1.0

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        mixed = self._scaled(self.attention(self.attention_norm(x), batch))
        normed, x = self.mlp_norm.after_add(mixed, x)
        return self.ops.add(x, self._scaled(self.mlp(normed, batch)))

    def _scaled(self, x: Array) -> Array:
        return x if self.residual_scale == 1.0 else self.ops.scale(x, self.residual_scale)


@dataclass(frozen=True)
class PreNormCross:
    """x + attention(norm x), then x + cross(norm x), then x + mlp(norm x); cross reads the rows of
    an encoder."""

    ops: Ops
    attention_norm: Norm
    attention: Mixer
    cross_norm: Norm
    cross: Mixer
    mlp_norm: Norm
    mlp: FeedForward

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        mixed = self.attention(self.attention_norm(x), batch)
        normed, x = self.cross_norm.after_add(mixed, x)
        normed, x = self.mlp_norm.after_add(self.cross(normed, batch), x)
        return self.ops.add(x, self.mlp(normed, batch))


@dataclass(frozen=True)
class Sandwich:
    """x + norm(attention(norm x)), then x + norm(mlp(norm x))."""

    ops: Ops
    attention_norm: Norm
    attention: Mixer
    attention_after: Norm
    mlp_norm: Norm
    mlp: FeedForward
    mlp_after: Norm

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        mixed = self.attention_after(self.attention(self.attention_norm(x), batch))
        normed, x = self.mlp_norm.after_add(mixed, x)
        return self.ops.add(x, self.mlp_after(self.mlp(normed, batch)))


@dataclass(frozen=True)
class PostNorm:
    """x + norm(attention x), then x + norm(mlp x)."""

    ops: Ops
    attention: Mixer
    attention_after: Norm
    mlp: FeedForward
    mlp_after: Norm

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        x = self.ops.add(x, self.attention_after(self.attention(x, batch)))
        return self.ops.add(x, self.mlp_after(self.mlp(x, batch)))


@dataclass(frozen=True)
class NormAfterAdd:
    """norm(x + attention x), then norm(x + mlp x): the first transformers' order, and BERT's."""

    attention: Mixer
    attention_norm: Norm
    mlp: FeedForward
    mlp_norm: Norm

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        x, _ = self.attention_norm.after_add(self.attention(x, batch), x)
        x, _ = self.mlp_norm.after_add(self.mlp(x, batch), x)
        return x


@dataclass(frozen=True)
class Parallel:
    """x + attention(norm x) + mlp(norm x); mlp_norm None: attention and MLP share one norm."""

    ops: Ops
    norm: Norm
    attention: Mixer
    mlp: FeedForward
    mlp_norm: Norm | None = None

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        normed = self.norm(x)
        fed = self.mlp(normed if self.mlp_norm is None else self.mlp_norm(x), batch)
        return self.ops.add(x, self.ops.add(self.attention(normed, batch), fed))


@dataclass(frozen=True)
class SinglePreNorm:
    """x + mix(norm x), without a feed-forward half. wide: the residual is float32 even if the
    compute dtype is narrower."""

    ops: Ops
    norm: Norm
    mix: Mixer
    wide: bool = False

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        return self.ops.add(x, self.mix(self.norm(x), batch), wide=self.wide)


@dataclass(frozen=True)
class Opened:
    """A first block whose input is normed: block(norm x)."""

    norm: Norm
    block: Callable[[Array, Batch], Array]

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        return self.block(self.norm(x), batch)
