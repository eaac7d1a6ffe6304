"""StableLM 1 and 2: layer norms, a gated MLP; a quarter of each head rotates.

model_type: stablelm (Bellagente et al. 2024). The 12B model has q and k norms with weights for each
head, and runs attention and MLP in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import Parallel, PreNorm
from rbee_worker.layers.norm import EachHeadNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """StableLM's own keys."""

    num_key_value_heads: int = 32
    max_position_embeddings: int = 4096
    partial_rotary_factor: float = 0.25
    layer_norm_eps: float = 1e-5
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    plans = plan_layers(c, parts.rope_of(w, c))

    def block(at: Weights, layer: LayerPlan) -> PreNorm | Parallel:
        mix = at.sub("self_attn")

        def norm(part: str, heads: int) -> EachHeadNorm:
            return mix.each_head_norm(f"{part}_layernorm", c.width, c.layer_norm_eps, heads=heads)

        first = at.layer_norm("input_layernorm", c.hidden_size, c.layer_norm_eps)
        attention = parts.attention(
            mix, c, layer=layer, bias=c.use_qkv_bias, qk_norm=norm if c.qk_layernorm else None
        )
        mlp = parts.gated_mlp(at.sub("mlp"), c)
        if c.use_parallel_residual:
            return Parallel(w.ops, first, attention, mlp)
        second = at.layer_norm("post_attention_layernorm", c.hidden_size, c.layer_norm_eps)
        return PreNorm(w.ops, first, attention, second, mlp)

    norm = w.layer_norm("model.norm", c.hidden_size, c.layer_norm_eps)
    return parts.decoder(w, c, plans, block, norm)
