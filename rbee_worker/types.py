"""The data types that all parts of the worker share: parameters, requests, events, records.

All are frozen `msgspec.Struct`s, so they go between processes and onto the wire unchanged. This
module knows nothing of torch, tokenizers or HTTP.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class EosToken(Struct, frozen=True, kw_only=True):
    """An id that ends a sequence, and every place that defines it as such."""

    id: int
    text: str
    origins: tuple[
        str, ...
    ]  # "config.json", "generation_config.json", "gguf:tokenizer.ggml.eot_token_id", ...


class SamplingParams(Struct, frozen=True, kw_only=True):
    """The resolved parameters of one request: every field has a value within its range.

    Meanings and ranges: docs/worker-api.md, "Infer parameters"; `params/` is the only producer.
    The engine reads ids and numbers; `stop` and `skip_special_tokens` belong to the client.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = 128  # 0 and -1 = every token of prompt and output
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int = 0  # 0 .. 2^64-1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None  # None = none; 0 = the drawn token only; k = also the k most likely
    echo: bool = False  # the prompt (and, with logprobs, its log-probabilities) comes first
    skip_special_tokens: bool = True
    speculation: bool = True  # False: nothing is drafted, whatever the worker's settings


Rule = Literal[
    "MAX_TOKENS", "EOS", "STOP_SEQUENCE", "CONTEXT_FULL", "CANCELLED", "TIMEOUT", "ERROR", "VECTOR"
]  # VECTOR: no tokens were wanted, but a vector, and it is there


class StopRecord(Struct, frozen=True, kw_only=True):
    """Why a sequence ended: one record for all causes."""

    rule: Rule
    at: int  # number of output tokens when it ended
    token_id: int | None = None  # the EOS or stop id
    token_text: str | None = None
    origin: str | None = None  # where the rule comes from: "request", "generation_config.json", ...
    sequence: str | None = None  # the stop string that matched


class Usage(Struct, frozen=True, kw_only=True):
    """Counts and times of one sequence; times in milliseconds.

    drafted_tokens: tokens that were guessed before they were drawn; accepted_tokens: those of them
    that were drawn. Both depend on the request and its tokens alone.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class TokenLogprob(Struct, frozen=True, kw_only=True, gc=False):
    """log softmax of the raw logits (before bias, penalties, temperature) at one position."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (id, logprob), most likely first; ties: lower id


PoolingRule = Literal["mean", "cls", "last"]


class Pool(Struct, frozen=True, kw_only=True):
    """One vector of a sequence, wanted in place of tokens: made of its rows by `how` (the mean of
    all, the first or the last one).

    head: then goes through the model's output head (the scores of a classifier). dimensions: of
    its numbers, the first ones that are kept (0: all). normalize: then divided by its length.
    """

    how: PoolingRule
    head: bool = False
    dimensions: int = 0
    normalize: bool = False


class Request(Struct, frozen=True, kw_only=True):
    """A caller's request, before anything is resolved. Exactly one of the three prompts is set.

    pool: a vector is wanted, not an answer; `prompt` or `token_ids` is set. pair: the second of two
    texts that the model sees together. truncate: a text that is too long is cut, not refused.
    """

    id: str
    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    token_ids: tuple[int, ...] | None = None
    params: dict[str, Any] = {}  # names and values as the caller wrote them
    surface: Literal["job", "generate", "completions", "chat"] = "job"
    choice: int = 0  # index among `n` answers to one prompt; part of the random key
    timeout_s: float | None = None
    template_args: dict[str, Any] = {}  # e.g. {"enable_thinking": False}
    add_generation_prompt: bool | None = None  # messages: None = unless the last one is continued
    continue_final_message: bool | None = None  # messages: the last one is left open
    add_special_tokens: bool | None = None  # None = yes for a prompt that no template rendered
    pool: Pool | None = None
    pair: str | None = None
    truncate: bool = False


class Resolved(Struct, frozen=True, kw_only=True):
    """Parameters with their origins: "request", "generation_config", "default", "random"."""

    params: SamplingParams
    origins: dict[str, str]
    ignored: tuple[str, ...] = ()  # unknown keys that --lenient let through
    exempt_ids: tuple[int, ...] = ()  # ids that the repetition penalty never changes


# ---- events of one request, in order: Started, then Token / Narration / Metrics, then End or Error


class Started(Struct, frozen=True, kw_only=True, tag="started", tag_field="type"):
    job_id: str
    model: str
    started_at: str  # ISO 8601
    prompt_tokens: int
    seed: int
    sampling: Resolved
    warnings: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()


class Token(Struct, frozen=True, kw_only=True, gc=False, tag="token", tag_field="type"):
    """Complete UTF-8 text and its ids; `i` is the first id's position in the output."""

    t: str
    i: int
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None


class PromptLogprobs(Struct, frozen=True, kw_only=True, tag="prompt_logprobs", tag_field="type"):
    """Only with `echo` and `logprobs`: the prompt's next tokens, as they are computed; one entry
    per token, None for the first of all."""

    logprobs: tuple[TokenLogprob | None, ...]


class Narration(Struct, frozen=True, kw_only=True, tag="narration", tag_field="type"):
    """What is happening, in a sentence for people."""

    actor: str
    action: str
    target: str
    human: str
    job_id: str | None = None


class Metrics(Struct, frozen=True, kw_only=True, tag="metrics", tag_field="type"):
    tokens_per_sec: float
    vram_bytes: int
    kv_usage: float  # 0..1


class End(Struct, frozen=True, kw_only=True, tag="end", tag_field="type"):
    stop: StopRecord
    usage: Usage
    ids: tuple[int, ...] = ()  # last ids, which completed no character or are in a stop string
    text: str = ""  # the rest of the text
    logprobs: tuple[TokenLogprob, ...] | None = None  # of `ids`, if requested


class Vector(Struct, frozen=True, kw_only=True, tag="vector", tag_field="type"):
    """What a request with a `pool` gets in place of tokens: float32, little-endian."""

    data: bytes


class Error(Struct, frozen=True, kw_only=True, tag="error", tag_field="type"):
    code: Literal["VRAM_OOM", "INVALID_REQUEST", "INFERENCE_FAILED", "ENGINE_LOST"]
    message: str


Event = Started | PromptLogprobs | Token | Narration | Metrics | Vector | End | Error


Task = Literal["generate", "embed", "classify"]


class Pooling(Struct, frozen=True, kw_only=True):
    """How a model's rows become one vector, and the file that says so."""

    how: PoolingRule
    normalize: bool = False
    origin: str = "default"


ScoreActivation = Literal["none", "sigmoid", "softmax"]


class Purpose(Struct, frozen=True, kw_only=True):
    """What a model is for. A model that generates gives vectors too: by default the last row's,
    which has seen all of the text.

    labels: of a classifier, by the place of their score; activation: what makes probabilities of
    its scores.
    """

    task: Task = "generate"
    pooling: Pooling = Pooling(how="last", normalize=True)
    labels: tuple[str, ...] = ()
    activation: ScoreActivation = "none"


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The engine's description of itself, once it can serve."""

    model: str  # the reference that the user gave
    arch: str
    device: str  # "cpu", "cuda:0"
    backend: str  # "reference", "cpu", "cuda"
    dtype: str
    kv_dtype: str
    context: int  # longest sequence, tokens
    vocab_size: int  # rows of the output head: ids are 0 .. vocab_size-1
    kv_tokens: int  # tokens that the pool holds
    block_size: int
    weight_bytes: int  # in memory
    kv_bytes: int
    n_layers: int
    n_parameters: int
    speculate: str = "off"  # how tokens are drafted: "off", "ngram"
    purpose: Purpose = Purpose()
    dimensions: int = 0  # numbers of a vector of its rows
    load_s: dict[str, float] = {}  # phase -> seconds
    notes: tuple[str, ...] = ()  # warnings for the user
