"""Families of recurrent layers: Mamba, Falcon-Mamba and Mamba 2."""

from __future__ import annotations

from types import MappingProxyType

from rbee_worker.checkpoint.names.architecture import Architecture, Key, Row
from rbee_worker.checkpoint.names.rows import TIED_WITHOUT_OUTPUT, TOKEN_KEYS, constants
from rbee_worker.checkpoint.names.state_space import headed_rows, selective_rows

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


_AT = "backbone.layers.{}"
_ROWS = (
    Row("token_embd.weight", "backbone.embeddings.weight"),
    Row("output_norm.weight", "backbone.norm_f.weight"),
    Row("output.weight", "lm_head.weight"),
    Row("blk.{}.attn_norm.weight", f"{_AT}.norm.weight"),
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
            *selective_rows(f"{_AT}.mixer"),
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
            *headed_rows(f"{_AT}.mixer"),
        ),
        constants=constants(hidden_act="silu", expand=2, residual_in_fp32=True),
        present=_BIASES,
        absent=TIED_WITHOUT_OUTPUT,
        inert=_NO_ATTENTION,
    ),
}
