"""The code that Mamba and Mamba 2 share: layers x + mix(norm x), whose mixer starts with a causal
convolution. There are no feed-forward blocks and no positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.blocks import Mixer, SinglePreNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.causal_conv import check_kernel
from rbee_worker.models.config import RecurrentConfig, positive
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights

NAMES = parts.Names(embed="backbone.embeddings", layers="backbone.layers")


@dataclass(frozen=True, kw_only=True)
class Config(RecurrentConfig):
    """The keys that both have."""

    intermediate_size: int = 0  # 0: expand times the width
    expand: int = 2
    state_size: int = 16
    conv_kernel: int = 4
    layer_norm_epsilon: float = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True
    residual_in_fp32: bool = True

    @property
    def inner(self) -> int:
        """Columns of the recurrence."""
        return self.intermediate_size or self.expand * self.hidden_size


def build(c: Config, w: Weights, mixer: Callable[[Weights], Mixer], **sizes: int) -> Decoder:
    """The model; mixer: called for each layer with the cursor at its mixer; sizes: further sizes
    that must be positive. Raises CheckpointError, UnsupportedModel."""
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.inner,
        layers=c.num_hidden_layers,
        state=c.state_size,
        **sizes,
    )
    check_kernel(c.conv_kernel)

    def block(at: Weights, layer: LayerPlan) -> SinglePreNorm:
        norm = at.rms_norm("norm", c.hidden_size, c.layer_norm_epsilon)
        return SinglePreNorm(w.ops, norm, mixer(at.sub("mixer")), c.residual_in_fp32)

    norm = w.rms_norm("backbone.norm_f", c.hidden_size, c.layer_norm_epsilon)
    return parts.decoder(w, c, plan_layers(c, None), block, norm, names=NAMES)
