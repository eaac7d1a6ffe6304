"""Where transformers' models differ from the models' own code, and the corrections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def mpt_slopes(model: Any) -> None:
    """transformers computes MPT's slopes as if `alibi_bias_max` were always 8 (StoryWriter has
    16)."""
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    most = model.config.attn_config.alibi_bias_max
    model.transformer.build_mpt_alibi_tensor = partial(build_mpt_alibi_tensor, alibi_bias_max=most)


def mpt_norms(model: Any) -> None:
    """transformers reads MPT's `qk_ln` but ignores it; the model's own code and llama.cpp normalise
    q and k over all heads, after the clip. The norms' weights are ones."""
    from torch.nn import LayerNorm

    c = model.config
    for block in model.transformer.blocks if c.attn_config.qk_ln else ():
        attn = block.attn
        attn.q_ln, attn.k_ln = (
            LayerNorm(c.hidden_size, c.layer_norm_epsilon, bias=False) for _ in range(2)
        )
        attn.Wqkv.register_forward_hook(partial(_normalised, attn, attn.clip_qkv))
        attn.clip_qkv = None


def _normalised(attn: Any, clip: float | None, _: Any, __: Any, projected: Any) -> Any:
    import torch

    q, k, v = (projected.clamp(-clip, clip) if clip else projected).chunk(3, dim=-1)
    return torch.cat([attn.q_ln(q), attn.k_ln(k), v], dim=-1)


def gemma_gelu(model: Any) -> None:
    """Gemma 1's configs say `gelu`, but the models were trained with the tanh form. transformers
    5.17 uses plain gelu (2e-4 of the logits), 5.23 the tanh form."""
    from transformers.activations import ACT2FN

    for layer in model.model.layers:
        if isinstance(layer.mlp.act_fn, type(ACT2FN["gelu"])):
            layer.mlp.act_fn = ACT2FN["gelu_pytorch_tanh"]


def phimoe_long(model: Any) -> None:
    """transformers uses Phi-MoE's short divisors at any length; the model's own code uses the long
    ones beyond the original context."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotary = model.model.rotary_emb
    if rotary.rope_type != "longrope":
        return
    init = ROPE_INIT_FUNCTIONS["longrope"]

    def before(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        positions = named["position_ids"] if "position_ids" in named else args[1]
        module.rope_init_fn = partial(init, seq_len=int(positions.max()) + 1)

    rotary.register_forward_pre_hook(before, with_kwargs=True)


CORRECTIONS: Mapping[str, tuple[Callable[[Any], None], ...]] = {
    "gemma": (gemma_gelu,),
    "mpt": (mpt_slopes, mpt_norms),
    "phimoe": (phimoe_long,),
}
