"""Requests and answers of llama.cpp's server as structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from rbee_worker.sequence_end import StopRecord
from rbee_worker.server.schemas import Model, Seconds

# ---- requests


class OptionsEnvelope(Struct, kw_only=True):
    """What an answer may be asked for with. Sampling parameters are checked as those of other
    routes are."""

    model: Model | None = None
    stream: bool = False
    return_tokens: bool = False
    response_fields: list[str] | None = None
    n_cmpl: Annotated[int, Meta(ge=1, le=64)] | None = None
    n: Annotated[int, Meta(ge=1, le=64)] | None = None  # another name of n_cmpl
    timeout_s: Seconds | None = None  # the worker's own, like the next one
    speculation: Any = None
    n_predict: Any = None
    max_tokens: Any = None
    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    min_p: Any = None
    repeat_penalty: Any = None
    repeat_last_n: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    seed: Any = None
    stop: Any = None
    ignore_eos: Any = None
    n_probs: Any = None
    grammar: Any = None
    json_schema: Any = None
    # without effect: prefixes are found in any case, and a context is never cut
    cache_prompt: bool | None = None
    id_slot: int | None = None
    n_keep: int | None = None
    n_discard: int | None = None
    n_cache_reuse: int | None = None
    sse_ping_interval: float | None = None
    # not implemented: `settings.OFF` has the values that ask for nothing
    typical_p: Any = None
    top_n_sigma: Any = None
    dynatemp_range: Any = None
    dynatemp_exponent: Any = None
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    xtc_probability: Any = None
    xtc_threshold: Any = None
    dry_multiplier: Any = None
    dry_base: Any = None
    dry_allowed_length: Any = None
    dry_penalty_last_n: Any = None
    dry_sequence_breakers: Any = None
    adaptive_target: Any = None
    adaptive_decay: Any = None
    samplers: Any = None
    min_keep: Any = None
    n_indent: Any = None
    t_max_predict_ms: Any = None
    post_sampling_probs: Any = None
    timings_per_token: Any = None
    return_progress: Any = None
    lora: Any = None


class CompletionEnvelope(OptionsEnvelope, kw_only=True):
    """`prompt`: a text, ids, both mixed, an object with a `prompt_string`, or a list of these."""

    prompt: Any = None


class ExtraFile(Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    filename: str = "tmp"


class InfillEnvelope(OptionsEnvelope, kw_only=True):
    """prompt: text of the gap that is there already."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[ExtraFile] | None = None
    prompt: str | None = None


class EmbeddingEnvelope(Struct, kw_only=True):
    """content, or its other name, input. embd_normalize: only as the model normalises. truncate:
    as of /v1/embeddings, not llama.cpp's."""

    content: str | list[Any] | None = None
    input: str | list[Any] | None = None
    model: Model | None = None
    embd_normalize: int | None = None
    encoding_format: Literal["float"] | None = None
    truncate: bool = False


# ---- answers


class Timings(Struct, frozen=True, kw_only=True):
    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


class Probability(Struct, kw_only=True):
    id: int
    token: str
    bytes: list[int]
    logprob: float


class TokenProbability(Probability, kw_only=True):
    top_logprobs: list[Probability]


class Piece(Struct, kw_only=True):
    """A part of a streamed answer."""

    index: int
    content: str
    tokens: list[int]
    stop: Literal[False] = False
    id_slot: int = -1
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: list[TokenProbability] | UnsetType = UNSET


class Answer(Struct, kw_only=True):
    """A whole answer, or the end of a streamed one. rbee: the worker's own record of the stop."""

    index: int
    content: str
    tokens: list[int]
    id_slot: int = -1
    stop: Literal[True] = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    generation_settings: dict[str, Any]
    prompt: str
    has_new_line: bool
    truncated: bool
    stop_type: Literal["eos", "limit", "word", "none"]
    stopping_word: str
    tokens_cached: int
    timings: Timings
    completion_probabilities: list[TokenProbability] | UnsetType = UNSET
    rbee: StopRecord | UnsetType = UNSET


class Vectors(Struct, frozen=True):
    index: int
    embedding: list[list[float]]  # one, because the model's rows are pooled


class Slot(Struct, frozen=True, kw_only=True):
    """A place for a sequence. Sequences are not bound to places: the first ones are taken."""

    id: int
    n_ctx: int
    speculative: bool
    is_processing: bool


class DefaultSettings(Struct, frozen=True, kw_only=True):
    id: int = 0
    n_ctx: int
    speculative: bool
    is_processing: bool
    params: dict[str, Any]


class Properties(Struct, frozen=True, kw_only=True):
    default_generation_settings: DefaultSettings
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    bos_token: str
    eos_token: str
    modalities: dict[str, bool]
    build_info: str
    is_sleeping: Literal[False] = False
