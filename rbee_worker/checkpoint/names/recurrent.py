"""Families of recurrent layers: Mamba, Falcon-Mamba and Mamba 2.

A GGUF file has rates of decay, -exp(A_log), and drops the convolution's dimension of 1.
"""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.rows import (
    TIED_WITHOUT_OUTPUT,
    TOKEN_KEYS,
    Architecture,
    Key,
    Row,
    constants,
    rows,
)

_KEYS = (
    Key("context_length", "max_position_embeddings", "count", required=True),
    Key("embedding_length", "hidden_size", "count", required=True),
    Key("block_count", "num_hidden_layers", "count", required=True),
    Key("vocab_size", "vocab_size", "count"),
    Key("ssm.conv_kernel", "conv_kernel", "count", required=True),
    Key("ssm.inner_size", "intermediate_size", "count", required=True),
    Key("ssm.state_size", "state_size", "count", required=True),
    Key("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "number", required=True),
    *TOKEN_KEYS,
)
# Files have these keys only because llama.cpp's loader requires them of every file.
_NO_ATTENTION = ("attention.head_count", "feed_forward_length")


def _layer(gguf: str, hf: str, op: str | None = None) -> Row:
    """A tensor of each layer."""
    return Row(f"blk.{{}}.{gguf}", f"backbone.layers.{{}}.{hf}", op)


_ROWS = (
    Row("token_embd.weight", "backbone.embeddings.weight"),
    Row("output_norm.weight", "backbone.norm_f.weight"),
    Row("output.weight", "lm_head.weight"),
    _layer("attn_norm.weight", "norm.weight"),
    _layer("ssm_conv1d.weight", "mixer.conv1d.weight", "unsqueeze"),
    _layer("ssm_conv1d.bias", "mixer.conv1d.bias"),
    *rows("blk.{}.ssm_in", "backbone.layers.{}.mixer.in_proj"),
    *rows("blk.{}.ssm_out", "backbone.layers.{}.mixer.out_proj"),
)

_BIASES = MappingProxyType(
    {"use_bias": ("blk.0.ssm_in.bias",), "use_conv_bias": ("blk.0.ssm_conv1d.bias",)}
)

ARCHITECTURES: dict[str, Architecture] = {
    "mamba": Architecture(
        model_type="mamba",
        keys=(*_KEYS, Key("ssm.time_step_rank", "time_step_rank", "count", required=True)),
        tensors=(
            *_ROWS,
            _layer("ssm_a", "mixer.A_log", "neg_log"),
            _layer("ssm_d", "mixer.D"),
            *rows("blk.{}.ssm_x", "backbone.layers.{}.mixer.x_proj", "weight"),
            *rows("blk.{}.ssm_dt", "backbone.layers.{}.mixer.dt_proj"),
        ),
        variants=(("ssm.dt_b_c_rms", "falcon_mamba"),),
        constants=constants(hidden_act="silu", expand=2, residual_in_fp32=True),
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
        inert=_NO_ATTENTION,
    ),
    "mamba2": Architecture(
        model_type="mamba2",
        keys=(
            *_KEYS,
            Key("ssm.time_step_rank", "num_heads", "count", required=True),
            Key("ssm.group_count", "n_groups", "count", required=True),
        ),
        tensors=(
            *_ROWS,
            _layer("ssm_a", "mixer.A_log", "neg_log_column"),
            _layer("ssm_d", "mixer.D", "column"),
            _layer("ssm_dt.bias", "mixer.dt_bias"),
            _layer("ssm_norm.weight", "mixer.norm.weight", "flatten"),
        ),
        constants=constants(hidden_act="silu", expand=2, residual_in_fp32=True),
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
        inert=_NO_ATTENTION,
    ),
}
