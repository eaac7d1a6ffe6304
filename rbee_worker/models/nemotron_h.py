"""Nemotron-H: layers x + f(norm x), where f is Mamba 2, attention, a plain MLP or a mixture.

model_type: nemotron_h (NVIDIA 2025; Nemotron 3 has mixtures). Attention has no positions.
Published files say the kinds of layers as letters, GGUF files by the sizes that layers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import Mixer, SinglePreNorm
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.models import headed_space, parts, small_experts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import FULL, RECURRENT, activation, positive
from rbee_worker.models.experts import load_experts
from rbee_worker.models.hybrid import named
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights

Maker = Callable[[Weights, LayerPlan], Mixer]
MIXTURE, MLP = "moe", "mlp"
_LETTERS = {"M": RECURRENT, "E": MIXTURE, "*": FULL, "-": MLP}
_NAMES = parts.Names(embed="backbone.embeddings", layers="backbone.layers")


@dataclass(frozen=True, kw_only=True)
class Config(small_experts.Routed):
    """Nemotron-H's own keys. layers_block_type is transformers' key, hybrid_override_pattern that
    of published files, layer_types that of GGUF files; num_hidden_layers follows from them."""

    num_hidden_layers: int = 0
    layers_block_type: list[str] | None = None
    layer_types: list[str] | None = None
    hybrid_override_pattern: str | None = None
    num_key_value_heads: int = 8
    head_dim: int = 128
    max_position_embeddings: int = 4096
    layer_norm_epsilon: float = 1e-5
    residual_in_fp32: bool = False
    attention_bias: bool = False
    sliding_window: int | None = None
    mlp_hidden_act: str = "relu2"
    mlp_bias: bool = False
    mamba_num_heads: int = 128
    mamba_head_dim: int | None = 64  # None: GGUF files have the columns of all heads instead
    mamba_inner_size: int | None = None
    mamba_hidden_act: str = "silu"
    mamba_proj_bias: bool = False
    n_groups: int = 8
    ssm_state_size: int = 128
    conv_kernel: int = 4
    use_bias: bool = False
    use_conv_bias: bool = True
    time_step_limit: list[float] | None = None  # None: steps of any size
    n_routed_experts: int = 8
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    moe_intermediate_size: int = 7688
    moe_shared_expert_intermediate_size: int = 7688
    moe_latent_size: int | None = None

    @property
    def inner(self) -> int:
        """Columns of the recurrence."""
        return self.mamba_inner_size or self.mamba_num_heads * (self.mamba_head_dim or 0)

    @property
    def kinds(self) -> Sequence[str]:
        given = self.layers_block_type or self.layer_types
        if given is not None:
            return named(given, 0)
        if self.hybrid_override_pattern is not None:
            return [_LETTERS.get(letter, letter) for letter in self.hybrid_override_pattern]
        return [RECURRENT, MIXTURE, FULL, MLP]

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return dict.fromkeys((FULL, RECURRENT, MIXTURE, MLP))

    @property
    def rotates(self) -> Sequence[object]:
        return [False] * len(self.kinds)


def build(c: Config, w: Weights) -> Decoder:
    """nemotron_h. Raises CheckpointError, UnsupportedModel."""
    if c.num_hidden_layers not in (0, len(c.kinds)):
        raise CheckpointError(
            f"config: the kinds of {len(c.kinds)} layers are given, num_hidden_layers is "
            f"{c.num_hidden_layers}.",
            fix="download the checkpoint's config again.",
        )
    c = replace(c, num_hidden_layers=len(c.kinds), hidden_act=c.mlp_hidden_act)
    parts.check(c)
    _refuse(c)
    plans = plan_layers(c, None)
    makers: dict[str, Maker] = {
        RECURRENT: _space(c),
        FULL: lambda at, layer: parts.attention(at, c, layer=layer),
        MLP: lambda at, layer: parts.plain_mlp(at, c, "up_proj", "down_proj", bias=c.mlp_bias),
    }
    if MIXTURE in c.kinds:
        makers[MIXTURE] = _mixture(c)

    def block(at: Weights, layer: LayerPlan) -> SinglePreNorm:
        norm = at.rms_norm("norm", c.hidden_size, c.layer_norm_epsilon)
        mix = makers[layer.kind](at.sub("mixer"), layer)
        return SinglePreNorm(w.ops, norm, mix, c.residual_in_fp32)

    norm = w.rms_norm("backbone.norm_f", c.hidden_size, c.layer_norm_epsilon)
    skip = {r"mtp\..*": "predicts further tokens; not used"}
    return parts.decoder(w, c, plans, block, norm, names=_NAMES, skip=skip)


def _refuse(c: Config) -> None:
    """Keys that the class of transformers has and whose values it ignores."""
    ignored = {
        "attention_bias": (c.attention_bias, (False,)),
        "sliding_window": (c.sliding_window, (None, 0)),
        "mamba_proj_bias": (c.mamba_proj_bias, (False, c.use_bias)),
        "n_shared_experts": (c.n_shared_experts, (1,)),
    }
    wrong = [f"{key} is {v!r}" for key, (v, fine) in ignored.items() if v not in fine]
    if wrong:
        raise UnsupportedModel(
            f"config: {', '.join(wrong)}, which is not supported.",
            fix="check the config: published models of this architecture have other values.",
        )


def _space(c: Config) -> Maker:
    sizes = headed_space.Sizes(
        dim=c.hidden_size,
        inner=c.inner,
        heads=c.mamba_num_heads,
        groups=c.n_groups,
        states=c.ssm_state_size,
        kernel=c.conv_kernel,
    )
    positive("config", mamba_num_heads=c.mamba_num_heads)
    headed_space.check(sizes, c.inner // c.mamba_num_heads, c.time_step_limit)

    def make(at: Weights, layer: LayerPlan) -> Mixer:
        return headed_space.headed_space(
            at,
            sizes,
            act=c.mamba_hidden_act,
            eps=c.layer_norm_epsilon,
            bias=c.use_bias,
            out_bias=c.use_bias,
            conv_bias=c.use_conv_bias,
        )

    return make


def _mixture(c: Config) -> Maker:
    routing = small_experts.routing(c, "sigmoid")
    positive("config", n_routed_experts=c.n_routed_experts)
    assert routing is not None
    count, inner, shared = (
        c.n_routed_experts,
        c.moe_intermediate_size,
        c.moe_shared_expert_intermediate_size,
    )
    width = c.hidden_size if c.moe_latent_size is None else c.moe_latent_size
    positive(
        "config",
        n_routed_experts=count,
        moe_latent_size=width,
        moe_shared_expert_intermediate_size=shared,
    )

    def make(at: Weights, layer: LayerPlan) -> Mixer:
        experts = at.sub("experts")
        narrow = None
        if c.moe_latent_size is not None:
            narrow = (
                at.linear("fc1_latent_proj", c.hidden_size, width, bias=c.mlp_bias),
                at.linear("fc2_latent_proj", width, c.hidden_size, bias=c.mlp_bias),
            )
        return MoE(
            ops=at.ops,
            router=at.linear("gate", c.hidden_size, count),
            routing=routing,
            experts=Experts(
                ops=at.ops,
                up=load_experts(experts, ("up_proj",), count, width, inner),
                down=load_experts(experts, ("down_proj",), count, inner, width),
                act=activation(c.mlp_hidden_act),
            ),
            choice_bias=at.ops.vector([at.packed("gate.e_score_correction_bias", (count,))]),
            shared=parts.plain_mlp(
                at.sub("shared_experts"), c, "up_proj", "down_proj", bias=c.mlp_bias, inner=shared
            ),
            narrow=narrow,
        )

    return make
