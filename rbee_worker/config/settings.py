"""`Settings`: how a worker runs, as one flat, frozen struct."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# A step of n rows gets at most DRAFTED_ROWS - 2 n drafted ones. On a CPU each costs a fifth to a
# quarter of a step of one row, and the more sequences share a step, the less time a token saves.
DRAFTED_ROWS = 16

# auto: as the model's chat template says. prompt: tools are described in a system message.
ToolFormat = Literal[
    "auto",
    "prompt",
    "command-a",
    "command-r",
    "deepseek-v3",
    "deepseek-v3.1",
    "deepseek-v3.2",
    "functionary",
    "functiongemma",
    "gemma4",
    "glm4",
    "glm4.5",
    "granite",
    "harmony",
    "hermes",
    "jamba",
    "kimi-k2",
    "lfm2",
    "llama-pythonic",
    "llama3",
    "minimax-m2",
    "mistral",
    "mistral-args",
    "nemotron",
    "olmo3",
    "phi4",
    "qwen-xml",
    "seed-oss",
]


class Settings(Struct, frozen=True, kw_only=True):
    """How a worker runs. For example, the field `kv_dtype` is --kv-dtype and RBEE_KV_DTYPE."""

    # model and engine
    model: str = "smollm2"
    backend: Literal["auto", "reference", "cpu", "cuda"] = "auto"
    device: int = 0
    gpu_memory: int = 100  # percent of the GPU's memory that the worker may use
    dtype: Literal["auto", "f32", "bf16", "f16"] = "auto"
    kv_dtype: Literal["auto", "f32", "bf16", "f16", "i8", "f8"] = "auto"
    quantize: Literal["none", "fp8"] = "none"  # how matrices of floats are stored
    exact_activations: bool = False  # do not round activations in products with packed weights
    bf16_activations: bool = False  # round activations in products with bf16 weights
    deterministic: bool = False  # a row's logits do not depend on its step, bit for bit
    ctx: int = 0  # 0 = the model's own context, as far as memory allows
    threads: int = 0  # 0 = the physical cores that this process may use
    kv_cache: bool = True
    attention: Literal["auto", "reference", "flash"] = "auto"
    tensor_parallel: int = 1
    block_size: int = 16  # tokens a KV block
    kv_tokens: int = 0  # tokens that the pool holds; 0 = as memory allows
    token_budget: int = 512  # most tokens computed in one step
    max_seqs: int = 64  # most sequences computed together
    prefix_cache: bool = True
    # how tokens are drafted without a second model
    speculate: Literal["off", "ngram", "mtp"] = "off"
    draft_model: str = ""  # a smaller model that drafts tokens; "" = none
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"  # how rows become one vector
    rerank: Literal["auto", "vectors", "yes-no"] = "auto"  # how two texts are scored
    tool_format: ToolFormat = "auto"  # how the model writes tool calls
    thinking: Literal["auto", "on", "off"] = "auto"  # reasoning where a conversation does not say
    generation_config: bool = True  # apply the model's own sampling defaults
    max_pictures: int = 16  # of one request
    max_picture_kb: int = 10240  # KiB of a picture's file
    max_picture_mp: int = 50  # millions of pixels of a picture
    lora: str = ""  # adapters: NAME=REF, separated by semicolons (adapter_spec.py)
    lora_rank: int = 64  # the highest rank of an adapter
    mmproj: str = ""  # a GGUF model's tower; "" = one beside it, none = no pictures
    codec: str = ""  # what makes sound of a speaking model's codes; "" = nothing
    cache_dir: str = ""  # downloaded models; "" = the user's cache directory
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    log_format: Literal["text", "json"] = "text"

    # serve
    worker_id: str = ""  # "" = a random one
    host: str = "0.0.0.0"
    port: int = 8080  # 0 = any free port
    hive_url: str = ""  # where heartbeats are sent; "" = none are sent
    heartbeat_s: int = 30
    lora_slots: int = 0  # adapters that may be loaded while the worker runs, beside those of `lora`
    local_mode: bool = False  # listen on 127.0.0.1 only, without a token
    tokens_file: str = ""  # several tokens, with names and limits; "" = RBEE_API_TOKEN alone
    tls_cert: str = ""  # certificate chain; "" = no TLS
    tls_key: str = ""
    audit_log: str = ""  # who asked for what; "" = none
    cors_origin: str = ""  # origins that may call from a browser, separated by commas
    served_model_name: str = ""  # names of the model, separated by commas; "" = its reference
    # what requests have by default; None = what the model says, or else the route
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    max_queue: int = 256  # requests that may wait; further ones get 429
    request_timeout: int = 0  # seconds that a request may take; 0 = no limit
    step_timeout: int = 600  # seconds after which a step counts as a crash; 0 = no limit
    drain_timeout: int = 30  # seconds that running jobs get after SIGTERM
    lenient: bool = False  # accept unknown parameters and list them in X-Ignored-Parameters
    max_body_kb: int = 16384
    max_prompt_ratio: int = 16  # most characters of a prompt, as a multiple of the context
    max_headers: int = 64
    max_connections: int = 1024
    idle_timeout: int = 30  # seconds that a connection may be silent outside a response
    stall_timeout: int = 120  # seconds that a client may leave a response unread
    keep_jobs_s: int = 600  # seconds a finished job is kept
    keep_jobs: int = 1000  # most finished jobs kept
    journal: str = ""  # directory where jobs outlive the worker; "" = none is kept
    journal_sync: Literal["none", "jobs", "events"] = "jobs"  # what also waits for the disk itself
    journal_mb: int = 256  # most MiB of the journal
    trace: str = ""  # file for a Chrome/Perfetto trace; "" = none
    otel_endpoint: str = ""  # OTLP/HTTP collector for spans; "" = none

    @property
    def drafts(self) -> Literal["off", "ngram", "draft", "mtp"]:
        """How tokens are drafted."""
        return "draft" if self.draft_model else self.speculate

    @property
    def mtp(self) -> bool:
        """Whether the model is to have its layer that predicts further tokens."""
        return self.drafts == "mtp" and self.kv_cache

    @property
    def spares(self) -> int:
        """Sequences with recurrent state that may have drafts in one step."""
        return DRAFTED_ROWS // 2 if self.mtp else 0

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names of `served_model_name`."""
        return tuple(filter(None, map(str.strip, self.served_model_name.split(","))))

    @property
    def sampling(self) -> dict[str, int | float]:
        """The defaults of requests that are set, by the names of the parameters."""
        values = {name: getattr(self, name) for name in SAMPLING}
        return {name: value for name, value in values.items() if value is not None}


SAMPLING = (  # settings that are defaults of requests' parameters, which have the same names
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "seed",
)
