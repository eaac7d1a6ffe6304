"""Based: gated short convolutions, some layers of linear attention and of attention in a window.

No model_type of its own: published configs (hazyresearch/based-*) are GPT-2's with other keys, and
read as `based`. Arora et al. 2024; what the paper leaves open is as in the authors' code,
github.com/HazyResearch/based: a window of n sees the n / 2 keys before a query and its own, an MLP
has whole multiples of 256 columns, and a layer in both lists has attention in a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import Mixer, PreNorm
from rbee_worker.layers.mlp import GatedLastMLP
from rbee_worker.layers.short_conv import GatedConv
from rbee_worker.layers.state_space import CONV, SCAN
from rbee_worker.layers.taylor import TaylorAttention
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.causal_conv import check_kernel, conv
from rbee_worker.models.config import RECURRENT, SLIDING, DecoderConfig, positive
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.taylor import taylor_states
from rbee_worker.state.specs import Fixed

NAMES = parts.Names(embed="transformer.embeddings.word_embeddings", layers="transformer.layers")
CONVOLUTION = "conv"
STEP = 256  # of an MLP's columns
LONGEST = 2048  # positions, where no mixer says l_max: what published models were trained with
_ANY = object()


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Based's own keys. Positions are not learned, and then GPT-2's class makes
    max_position_embeddings zero: the longest sequence is `l_max` of the mixers."""

    max_position_embeddings: int = 0
    tie_word_embeddings: bool = True
    partial_rotary_factor: float = 0.0
    layer_norm_epsilon: float = 1e-5
    pad_vocab_size_multiple: int = 1
    rotary_emb_interleaved: bool = False
    alt_mixer_layers: list[int] | None = None
    alt_mixer_2_layers: list[int] | None = None
    mixer: dict[str, Any] | None = None
    alt_mixer: dict[str, Any] | None = None
    alt_mixer_2: dict[str, Any] | None = None

    @property
    def kinds(self) -> Sequence[str]:
        windows, linear = self.alt_mixer_2_layers or [], self.alt_mixer_layers or []
        return [
            SLIDING if n in windows else RECURRENT if n in linear else CONVOLUTION
            for n in range(self.num_hidden_layers)
        ]

    @property
    def lengths(self) -> Mapping[str, int | None]:
        window = (self.alt_mixer_2 or {}).get("window_size", 128)
        return {CONVOLUTION: None, RECURRENT: None, SLIDING: window // 2 + 1}

    @property
    def rotates(self) -> Sequence[object]:
        return [kind == SLIDING for kind in self.kinds]

    @property
    def inner(self) -> int:
        """Columns of an MLP."""
        return STEP * -(-self.intermediate_size // STEP)


def build(given: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    _check(given)
    multiple = given.pad_vocab_size_multiple
    c = replace(
        given,
        vocab_size=multiple * -(-given.vocab_size // multiple),
        max_position_embeddings=_longest(given),
    )
    dim, eps = c.hidden_size, c.layer_norm_epsilon
    rope = parts.rope_of(w, c, interleaved=c.rotary_emb_interleaved)

    def mixer(at: Weights, layer: LayerPlan) -> Mixer:
        if layer.kind == SLIDING:
            return parts.attention(at, c, layer=layer, out="out_proj", fused="Wqkv")
        return _linear(at, c) if layer.kind == RECURRENT else _conv(at, c)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        mlp = at.sub("mlp")
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("norm1", dim, eps),
            attention=mixer(at.sub("mixer"), layer),
            mlp_norm=at.rms_norm("norm2", dim, eps),
            mlp=GatedLastMLP(
                ops=w.ops,
                up_gate=replace(mlp.linear("fc1", dim, 2 * c.inner), widths=(c.inner, c.inner)),
                down=mlp.linear("fc2", c.inner, dim),
                act="silu",
            ),
        )

    unread = {
        r"transformer\.decay\.decay": "no mixer decays",
        r".*\.rotary_emb\.(inv_freq|scale)": "derived from the config",
        r"(train|val|test)_metrics\..*": "of training",
    }
    norm = w.rms_norm("transformer.ln_f", dim, eps)
    return parts.decoder(w, c, plan_layers(c, rope), block, norm, names=NAMES, skip=unread)


def _longest(c: Config) -> int:
    said = [(mixer or {}).get("l_max") or 0 for mixer in (c.mixer, c.alt_mixer)]
    return max(said) or c.max_position_embeddings or LONGEST


def _linear(w: Weights, c: Config) -> TaylorAttention:
    said = c.alt_mixer or {}
    heads, size = said.get("num_heads", 16), said.get("feature_dim", 16)
    columns = said.get("head_dim") or c.hidden_size // heads
    shape = scan_shape(taylor_states(size), columns + 1, heads)
    widths = (heads * size, heads * size, heads * columns)
    return TaylorAttention(
        ops=w.ops,
        into=w.linear(("proj_q", "proj_k", "proj_v"), c.hidden_size, widths),
        out=w.linear("out_proj", heads * columns, c.hidden_size),
        where=w.states.add(Fixed(((SCAN, shape),))),
        heads=heads,
    )


def _conv(w: Weights, c: Config) -> GatedConv:
    said = c.mixer or {}
    bias, rows = said.get("use_bias", True), said.get("kernel_size", 3)
    expanded = said.get("expand_proj", 2) * c.hidden_size
    width = expanded // 2
    where = w.states.add(Fixed(((CONV, (rows - 1, width)),)))
    into = w.linear("in_proj", c.hidden_size, 2 * width, bias=bias)
    at = w.sub("conv")
    return GatedConv(
        ops=w.ops,
        into=replace(into, widths=(width, width)),
        # Models that were trained with the authors' kernel have a bias.
        conv=conv(at, width, rows, where, bias=at.has("conv.bias"), act="silu", name="conv"),
        out=w.linear("out_proj", width, c.hidden_size, bias=bias),
    )


def _check(c: Config) -> None:
    wrong: list[str] = []
    for kind in dict.fromkeys(c.kinds):
        wrong += _refused(*_known(c)[kind])
    if wrong:
        raise UnsupportedModel(
            f"config: {'; '.join(wrong)}, which is not supported in Based.",
            fix="use hazyresearch/based-360m, based-1b, based-1b-50b or a fine-tune of them.",
        )
    convs, linear, windows = c.mixer or {}, c.alt_mixer or {}, c.alt_mixer_2 or {}
    heads = linear.get("num_heads", 16)
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.intermediate_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        kv_heads=c.kv_heads,
        head_dim=c.width,
        rotary_emb_fraction=c.rotary,
        pad_vocab_size_multiple=c.pad_vocab_size_multiple,
        num_heads=heads,
        feature_dim=linear.get("feature_dim", 16),
        expand_proj=convs.get("expand_proj", 2),
        window_size=windows.get("window_size", 128),
    )
    check_kernel(convs.get("kernel_size", 3))
    for key, layers in (
        ("alt_mixer_layers", c.alt_mixer_layers),
        ("alt_mixer_2_layers", c.alt_mixer_2_layers),
    ):
        beyond = [n for n in layers or [] if n not in range(c.num_hidden_layers)]
        if beyond:
            raise CheckpointError(
                f"config: {key} has {beyond[0]}, which is no layer of {c.num_hidden_layers}.",
                fix="download the checkpoint's config again.",
            )
    if c.hidden_size % heads or c.hidden_size % c.num_attention_heads:
        raise CheckpointError(
            f"config: {c.hidden_size} columns do not make {heads} heads of linear attention and "
            f"{c.num_attention_heads} of attention.",
            fix="download the checkpoint's config again.",
        )


def _known(c: Config) -> dict[str, tuple[str, dict[str, Any] | None, dict[str, object]]]:
    """For each kind of layer: the key of its mixer, what the config says there, and the keys that
    are known there with the one value that is supported, or any."""
    size = (c.alt_mixer or {}).get("feature_dim", 16)
    return {
        CONVOLUTION: (
            "mixer",
            c.mixer,
            {
                "_target_": "BaseConv",
                # The authors' code takes `kernel_sizes` and does not read it.
                **dict.fromkeys(("l_max", "use_bias", "expand_proj", "use_cuda"), _ANY),
                **dict.fromkeys(("kernel_size", "kernel_sizes"), _ANY),
            },
        ),
        RECURRENT: (
            "alt_mixer",
            c.alt_mixer,
            {
                "_target_": "LinearAttention",
                "feature_map._target_": "TaylorExp",
                "feature_map.input_dim": size,
                "eps": 1e-12,  # nothing beside sums of at least 1/2
                **dict.fromkeys(("l_max", "feature_dim", "head_dim", "num_heads"), _ANY),
                "parallel_implementation": _ANY,
            },
        ),
        SLIDING: (
            "alt_mixer_2",
            c.alt_mixer_2,
            {
                "_target_": "SlidingAttention",
                "num_heads": c.num_attention_heads,
                "causal": True,
                "window_size": _ANY,
            },
        ),
    }


def _refused(key: str, said: dict[str, Any] | None, known: dict[str, object]) -> list[str]:
    """The values of a mixer that are not supported."""
    if said is None:
        return [f"{key} is null"]
    flat = {k: v for k, v in said.items() if k != "feature_map"}
    flat |= {f"feature_map.{k}": v for k, v in (said.get("feature_map") or {}).items()}
    wrong = []
    for name, value in flat.items():
        # A class is given with the package that it was in.
        short = str(value).rpartition(".")[2] if name.endswith("_target_") else value
        if name not in known or known[name] not in (_ANY, short):
            wrong.append(f"{key}.{name} is {value!r}")
    return wrong
