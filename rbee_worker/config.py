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

    # serve
    worker_id: str = ""  # "" = one is made up
    host: str = "0.0.0.0"
    port: int = 8080  # 0 = any free one
    hive_url: str = ""  # heartbeats go here; "" = none are sent
    heartbeat_s: int = 30
    local_mode: bool = False  # 127.0.0.1 only, and no token
    cors_origin: str = ""  # origins allowed to call from a browser, separated by commas
    max_queue: int = 256  # requests that may wait; beyond it 429
    request_timeout: int = 0  # seconds a request may take; 0 = no limit
    drain_timeout: int = 30  # seconds running jobs get after SIGTERM
    lenient: bool = False  # let unknown parameters through, named in X-Ignored-Parameters
    max_body_kb: int = 16384
    max_prompt_ratio: int = 16  # characters of a prompt <= this x context
    max_headers: int = 64
    max_connections: int = 1024
    idle_timeout: int = 30  # seconds a connection may lie still outside a response
    stall_timeout: int = 120  # seconds a client may leave what it is sent unread
    keep_jobs_s: int = 600  # seconds a finished job is kept
    keep_jobs: int = 1000  # finished jobs kept
    trace: str = ""  # file for a Chrome/Perfetto trace; "" = none
    otel_endpoint: str = ""  # OTLP/HTTP collector for spans; "" = none
