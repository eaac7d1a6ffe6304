"""Mamba 2: a state space with heads; groups of heads share B and C.

model_type: mamba2 (Dao & Gu 2024; Codestral Mamba has 8 groups). The scan's result is gated, then
normed per group.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.state_space import HeadedSpace
from rbee_worker.models import state_spaces
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import positive
from rbee_worker.models.headed_space import Sizes, check, headed_space
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(state_spaces.Config):
    """Mamba 2's own keys."""

    num_heads: int = 128
    head_dim: int | None = 64  # None: the columns divided by num_heads
    state_size: int = 128
    n_groups: int = 8
    time_step_limit: list[float] | None = None  # None: steps of any size

    @property
    def width(self) -> int:
        """Columns of a head."""
        return self.inner // self.num_heads if self.head_dim is None else self.head_dim


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    positive("config", heads=c.num_heads)
    sizes = Sizes(c.hidden_size, c.inner, c.num_heads, c.n_groups, c.state_size, c.conv_kernel)
    check(sizes, c.width, c.time_step_limit)

    def mixer(at: Weights) -> HeadedSpace:
        return headed_space(
            at,
            sizes,
            act=c.hidden_act,
            eps=c.layer_norm_epsilon,
            bias=c.use_bias,
            out_bias=c.use_bias,
            conv_bias=c.use_conv_bias,
        )

    return state_spaces.build(c, w, mixer)
