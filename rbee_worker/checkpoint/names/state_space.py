"""Rows that families with state spaces share. A GGUF file has rates of decay, -exp(A_log), and
drops the convolution's dimension of 1.
"""

from __future__ import annotations

from rbee_worker.checkpoint.names.architecture import Row
from rbee_worker.checkpoint.names.rows import rows


def conv_rows(gguf: str, hf: str) -> tuple[Row, ...]:
    """A causal convolution; hf: its whole name, with `{}` for the layer."""
    return (
        Row(f"blk.{{}}.{gguf}.weight", f"{hf}.weight", "unsqueeze"),
        Row(f"blk.{{}}.{gguf}.bias", f"{hf}.bias"),
    )


def _mixer_rows(at: str) -> tuple[Row, ...]:
    return (
        *conv_rows("ssm_conv1d", f"{at}.conv1d"),
        *rows("blk.{}.ssm_in", f"{at}.in_proj"),
        *rows("blk.{}.ssm_out", f"{at}.out_proj"),
    )


def selective_rows(at: str) -> tuple[Row, ...]:
    """A mixer of Mamba's kind; at: its whole name, with `{}` for the layer."""
    return (
        *_mixer_rows(at),
        Row("blk.{}.ssm_a", f"{at}.A_log", "neg_log"),
        Row("blk.{}.ssm_d", f"{at}.D"),
        *rows("blk.{}.ssm_x", f"{at}.x_proj", "weight"),
        *rows("blk.{}.ssm_dt", f"{at}.dt_proj"),
    )


def headed_rows(at: str) -> tuple[Row, ...]:
    """A mixer of Mamba 2's kind; at: see `selective_rows`."""
    return (
        *_mixer_rows(at),
        Row("blk.{}.ssm_a", f"{at}.A_log", "neg_log_column"),
        Row("blk.{}.ssm_d", f"{at}.D", "column"),
        Row("blk.{}.ssm_dt.bias", f"{at}.dt_bias"),
        Row("blk.{}.ssm_norm.weight", f"{at}.norm.weight", "flatten"),
    )
