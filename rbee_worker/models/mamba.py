"""Mamba and Falcon-Mamba: selective state spaces without attention.

model_type: mamba (Gu & Dao 2023), falcon_mamba (Zuo et al. 2024: RMS norms without weights for dt,
B and C).
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.norm import RMSNorm
from rbee_worker.layers.state_space import SelectiveSpace
from rbee_worker.models import state_spaces
from rbee_worker.models.base import Decoder
from rbee_worker.models.selective_space import Sizes, rank, selective_space
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(state_spaces.Config):
    """Mamba's own keys."""

    time_step_rank: int | str = "auto"
    tie_word_embeddings: bool = True

    @property
    def rank(self) -> int:
        """Columns of the narrow dt. Raises CheckpointError."""
        return rank("time_step_rank", self.time_step_rank, self.hidden_size)

    @property
    def parameter_norm(self) -> float | None:
        """The epsilon of the norms of dt, B and C; None: there are none."""
        return None


@dataclass(frozen=True, kw_only=True)
class Falcon(Config):
    """Falcon-Mamba's additional key."""

    mixer_rms_eps: float | None = 1e-6  # None: the epsilon of the other norms, as in llama.cpp

    @property
    def parameter_norm(self) -> float | None:
        return self.layer_norm_epsilon if self.mixer_rms_eps is None else self.mixer_rms_eps


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    return state_spaces.build(c, w, lambda at: _mixer(at, c), time_step_rank=c.rank)


def _mixer(w: Weights, c: Config) -> SelectiveSpace:
    eps = c.parameter_norm
    sizes = Sizes(c.hidden_size, c.inner, c.state_size, c.rank, c.conv_kernel)
    norms = None if eps is None else [RMSNorm(w.ops, None, eps)] * 3
    return selective_space(
        w, sizes, act=c.hidden_act, bias=c.use_bias, conv_bias=c.use_conv_bias, norms=norms
    )
