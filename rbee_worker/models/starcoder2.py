"""StarCoder2: layer norms, a plain MLP, biases, a sliding window, grouped queries.

model_type: starcoder2 (Lozhkov et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import WindowConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(WindowConfig):
    """StarCoder2's own keys; `activation_function` repeats `hidden_act`, less precisely."""

    num_key_value_heads: int = 2
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    norm_epsilon: float = 1e-5
    norm_type: str = "layer_norm"
    mlp_type: str = "default"
    activation_function: str = ""
    use_bias: bool = True


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    if (c.norm_type, c.mlp_type) != ("layer_norm", "default"):
        raise UnsupportedModel(
            f"config: norm_type is {c.norm_type!r} and mlp_type {c.mlp_type!r}.",
            fix="supported: layer_norm and default.",
        )
    plans = plan_layers(c, parts.rope_of(w, c))

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.layer_norm("input_layernorm", c.hidden_size, c.norm_epsilon),
            attention=parts.attention(
                at.sub("self_attn"),
                c,
                layer=layer,
                bias=c.use_bias,
                out_bias=c.use_bias,
            ),
            mlp_norm=at.layer_norm("post_attention_layernorm", c.hidden_size, c.norm_epsilon),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "c_fc", "c_proj", bias=c.use_bias),
        )

    norm = w.layer_norm("model.norm", c.hidden_size, c.norm_epsilon)
    return parts.decoder(w, c, plans, block, norm)
