"""EXAONE 4: norms after each half, norms of each head's q and k, windows in three layers of four.

model_type: exaone4 (LG AI Research 2025). In the sizes that have windows, layers without a window
have no positions either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.models import parts, postnorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import FULL, SLIDING, MixedConfig
from rbee_worker.models.layer_plan import every, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(MixedConfig, postnorm.Config):
    """EXAONE's own keys. `sliding_window_pattern` is a number n (every nth layer has full
    attention) or a string with one letter per layer, L for a window."""

    num_key_value_heads: int = 32
    sliding_window: int | None = 4096
    sliding_window_pattern: str | int | None = 4

    @property
    def pattern(self) -> Sequence[str]:
        count, each = self.num_hidden_layers, self.sliding_window_pattern
        if self.window is None:
            return [FULL] * count
        if isinstance(each, str) and each:
            return [SLIDING if each[i % len(each)] == "L" else FULL for i in range(count)]
        return every(int(each or 0), count)

    @property
    def rotates(self) -> Sequence[object]:
        return [self.window is None or kind == SLIDING for kind in self.kinds]


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    return postnorm.build(c, w, plan_layers(c, parts.rope_of(w, c)), parts.head_norms)
