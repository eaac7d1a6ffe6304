"""The table of options: one row for each field of `Settings`, in the order of `--help`."""

from __future__ import annotations

from rbee_worker.adapter_spec import parse_specs
from rbee_worker.config.option import SERVE, Option

_ENGINE = "Engine options"
_MAX_TOKENS = 1 << 31


def _default_of(field: str, low: float, high: float, above: bool = False) -> Option:
    words = f"{field} of requests that give none; not set = as the model says, or else the route"
    return Option(field, words, low=low, high=high, above=above, group=SERVE)


_SAMPLING_OPTIONS = (  # ranges: those of rbee_worker.params
    _default_of("temperature", 0, 2),
    _default_of("top_p", 0, 1, above=True),
    _default_of("top_k", -1, _MAX_TOKENS - 1),
    _default_of("min_p", 0, 1),
    _default_of("repetition_penalty", 0, 2, above=True),
    _default_of("repeat_last_n", -1, _MAX_TOKENS - 1),
    _default_of("presence_penalty", -2, 2),
    _default_of("frequency_penalty", -2, 2),
    _default_of("max_tokens", 1, _MAX_TOKENS - 1),
    _default_of("seed", 0, (1 << 64) - 1),
)

OPTIONS: tuple[Option, ...] = (
    Option(
        "model",
        "directory, .gguf file, hf:owner/repo[@rev][:file], pypi:package[==version][:file] "
        "or an alias such as smollm2",
        also=("--model-ref",),
    ),
    Option(
        "backend",
        "what computes: cuda = a GPU, cpu = compiled kernels, reference = torch; auto = the "
        "first of these that is available",
    ),
    Option("device", "number of the GPU; 0 on a CPU", low=0, high=63),
    Option(
        "gpu_memory",
        "most of the GPU's memory that this worker may use, in percent; less lets several share it",
        low=1,
        high=100,
    ),
    Option("dtype", "compute type; auto = the checkpoint's own, f32 for packed weights"),
    Option(
        "kv_dtype",
        "type of cached keys and values; auto = f16 for packed weights, else the compute type; "
        "i8: cpu backend only; f8: cuda backend only",
    ),
    Option(
        "quantize",
        "fp8: matrices of floats are kept, and many rows are multiplied, in 8-bit floats "
        "(cuda backend only)",
    ),
    Option(
        "exact_activations",
        "packed weights times float32 activations, as reference always does; "
        "without, the cpu backend rounds them to 8 bits, to 16 where it matters most",
    ),
    Option(
        "bf16_activations",
        "bf16 weights times activations rounded to bf16, logits aside: prompts are read faster "
        "(cpu backend only)",
    ),
    Option(
        "deterministic",
        "a sequence's logits are the same bits alone, in any batch and however its prompt is cut; "
        "always so but on the cuda backend, where it costs speed",
    ),
    Option("ctx", "longest sequence in tokens; 0 = the model's own", low=0, high=_MAX_TOKENS),
    Option(
        "threads",
        "compute threads; 0 = the physical cores allowed; more of them than cores is obeyed, and a "
        "note says how many there are",
        low=0,
        high=4096,
    ),
    Option("kv_cache", "keep keys and values between steps; without, every step recomputes all"),
    Option(
        "attention",
        "which attention kernels; flash: cuda backend only, where auto is the same",
    ),
    Option(
        "tensor_parallel",
        "devices that share the model; 1 in this version",
        low=1,
        high=1,
    ),
    Option(
        "block_size",
        "tokens in one block of the cache; divides 256",
        low=1,
        high=256,
        group=_ENGINE,
    ),
    Option(
        "kv_tokens",
        "tokens the cache holds in all; 0 = from memory",
        low=0,
        high=_MAX_TOKENS,
        group=_ENGINE,
    ),
    Option("token_budget", "tokens computed in one step", low=1, high=1 << 20, group=_ENGINE),
    Option("max_seqs", "sequences computed together", low=1, high=4096, group=_ENGINE),
    Option("prefix_cache", "reuse the cached beginning of earlier prompts", group=_ENGINE),
    Option(
        "speculate",
        "draft tokens and check several in one step, the answers stay the same; ngram = from where "
        "prompt and answer repeat themselves; mtp = with the model's own layer for further tokens",
        group=_ENGINE,
    ),
    Option(
        "draft_model",
        "a smaller model with the same vocabulary that drafts tokens, several of which are checked "
        "in one step; the answers stay the same; empty = none",
        group=_ENGINE,
    ),
    Option("pooling", "how a text's rows become one vector; auto = as the model's files say"),
    Option(
        "rerank",
        "how two texts are scored; auto = as the model's files say; vectors = how alike their "
        "vectors are; yes-no = as Qwen3-Reranker's model card does: by whether yes or no comes "
        "next, or with the head of a decoder with one class",
    ),
    Option(
        "tool_format",
        "how the model writes tool calls; auto = as its chat template says; prompt = a system "
        "message describes the tools, for a template that takes none",
    ),
    Option(
        "thinking",
        "whether the model reasons in conversations that do not say; auto = as its chat template "
        "has it",
        group=SERVE,
    ),
    Option("generation_config", "apply the sampling defaults that the model brings"),
    Option("max_pictures", "pictures that one request may have", low=1, high=1024),
    Option("max_picture_kb", "KiB of a picture's file", low=1, high=1 << 20),
    Option("max_picture_mp", "millions of pixels of a picture", low=1, high=1000),
    Option(
        "lora",
        "an adapter to load, NAME=REF or NAME=REF,scale=NUMBER; REF is a PEFT directory or a .gguf "
        "file; may be repeated, with semicolons between them in the variable",
        repeats=True,
        check=parse_specs,
    ),
    Option("lora_rank", "highest rank of an adapter", low=1, high=1024),
    Option(
        "mmproj",
        "the mmproj file with which a .gguf model reads pictures; empty = the one that lies beside "
        "it and fits, none = no pictures",
    ),
    Option(
        "codec",
        "directory of the EnCodec model (facebook/encodec_24khz) that makes sound of what a model "
        "that speaks draws; empty = its answers are codes",
    ),
    Option("cache_dir", "directory of downloaded models; empty = the user's cache directory"),
    Option("log_level", "least important message that is logged to stderr", group="Log options"),
    Option("log_format", "key=value text, or one JSON object a line", group="Log options"),
    Option("worker_id", "name of this worker; empty = a random one", group=SERVE),
    Option("host", "address to listen on; --local-mode listens on 127.0.0.1 only", group=SERVE),
    Option("port", "port to listen on; 0 = any free port", low=0, high=65535, group=SERVE),
    Option("hive_url", "where heartbeats are sent; empty = none are sent", group=SERVE),
    Option("heartbeat_s", "seconds between heartbeats", low=1, high=3600, group=SERVE),
    Option(
        "lora_slots",
        "adapters that may be loaded and unloaded through the API, beside those of --lora; "
        "0 = none, the routes refuse",
        low=0,
        high=1024,
        group=SERVE,
    ),
    Option("local_mode", "serve this machine only, without a token", group=SERVE),
    Option("tokens_file", "TOML file of tokens with names and limits; empty = none", group=SERVE),
    Option("tls_cert", "certificate chain (PEM), read again when it changes", group=SERVE),
    Option("tls_key", "key of the certificate (PEM)", group=SERVE),
    Option("audit_log", "file for who asked for what; - = stderr, empty = none", group=SERVE),
    Option("cors_origin", "web origins that may call, separated by commas", group=SERVE),
    Option(
        "served_model_name",
        "names that clients may call the model by, separated by commas; answers show the first; "
        "empty = the model's reference",
        group=SERVE,
    ),
    *_SAMPLING_OPTIONS,
    Option("max_queue", "requests that may wait; more get 429", low=0, high=1 << 20, group=SERVE),
    Option("request_timeout", "seconds for a request; 0 = any", low=0, high=86400, group=SERVE),
    Option(
        "step_timeout",
        "seconds for a step; longer counts as a crash; 0 = any",
        low=0,
        high=86400,
        group=SERVE,
    ),
    Option("drain_timeout", "seconds for jobs after SIGTERM", low=0, high=86400, group=SERVE),
    Option("lenient", "ignore unknown parameters, named in X-Ignored-Parameters", group=SERVE),
    Option("max_body_kb", "KiB of a request's body", low=1, high=1 << 20, group=SERVE),
    Option("max_prompt_ratio", "prompt characters per context token", low=1, high=999, group=SERVE),
    Option("max_headers", "headers of a request", low=8, high=1024, group=SERVE),
    Option("max_connections", "connections at a time", low=1, high=1 << 16, group=SERVE),
    Option("idle_timeout", "seconds a connection may be silent", low=1, high=3600, group=SERVE),
    Option("stall_timeout", "seconds an answer may lie unread", low=1, high=86400, group=SERVE),
    Option("keep_jobs_s", "seconds a finished job is kept", low=0, high=1 << 20, group=SERVE),
    Option("keep_jobs", "finished jobs kept", low=0, high=1 << 20, group=SERVE),
    Option("journal", "directory in which jobs outlive the worker; empty = none", group=SERVE),
    Option(
        "journal_sync",
        "what waits for the journal's disk itself, against power loss: that a job was accepted or "
        "has ended, every event, or nothing",
        group=SERVE,
    ),
    Option(
        "journal_mb", "MiB of the journal; old jobs leave first", low=1, high=1 << 20, group=SERVE
    ),
    Option("trace", "file for a Chrome/Perfetto trace; empty = none", group=SERVE),
    Option("otel_endpoint", "OTLP/HTTP collector for spans; empty = none", group=SERVE),
)
