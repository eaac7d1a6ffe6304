"""Settings: one frozen flat struct. Defaults < environment (RBEE_...) < command line; parsed once.

A bad value is an error that names the option, never a silent default. Torch-free.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Settings(Struct, frozen=True, kw_only=True):
    """How a worker runs. Field `kv_dtype` is the option --kv-dtype and RBEE_KV_DTYPE."""

    # model and engine
    model: str = "smollm2"
    backend: Literal["auto", "reference", "cpu", "cuda"] = "auto"
    device: int = 0
    dtype: Literal["auto", "f32", "bf16", "f16"] = "auto"
    kv_dtype: Literal["auto", "f32", "bf16", "f16", "i8", "f8"] = "auto"
    ctx: int = 0  # 0 = the model's own, as far as memory allows
    threads: int = 0  # 0 = physical cores this process may use
    kv_cache: bool = True
    attention: Literal["auto", "reference", "flash"] = "auto"
    tensor_parallel: int = 1
    block_size: int = 16  # tokens a KV block
    kv_tokens: int = 0  # tokens the pool holds; 0 = from memory
    token_budget: int = 512  # tokens computed a step, at most
    max_seqs: int = 64  # sequences computed together, at most
    prefix_cache: bool = True
    generation_config: bool = True  # apply the model's own sampling defaults
    cache_dir: str = ""  # downloaded models; "" = the user's cache directory
