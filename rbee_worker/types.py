"""The data types that all parts of the worker share: parameters, requests and events.

All are frozen `msgspec.Struct`s, so they go between processes and onto the wire unchanged. This
module knows nothing of torch, tokenizers or HTTP.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from rbee_worker.answer_parts import CallPiece
from rbee_worker.sequence_end import StopRecord, Usage


class EosToken(Struct, frozen=True, kw_only=True):
    """An id that ends a sequence, and every place that defines it as such."""

    id: int
    text: str
    origins: tuple[
        str, ...
    ]  # "config.json", "generation_config.json", "gguf:tokenizer.ggml.eot_token_id", ...


class Constraint(Struct, frozen=True, kw_only=True):
    """What the whole text of an answer must be, for an answer that is complete.

    kind: how `text` says it. "json_schema": a JSON Schema, as JSON; the answer is one JSON value.
    "regex": a regular expression for all of the text. "choice": a JSON array of the possible texts.
    "gbnf": llama.cpp's grammars, from the rule `root`. "lark": Lark's, from the rule `start`, with
    llguidance's extensions (`%json {...}` for a schema inside, `<name>` for a special token).
    """

    kind: Literal["json_schema", "regex", "choice", "gbnf", "lark"]
    text: str


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
    thinking_budget: int | None = None  # tokens of reasoning, after which its end is written
    constraint: Constraint | None = None


class TokenLogprob(Struct, frozen=True, kw_only=True, gc=False):
    """log softmax of the raw logits (before bias, penalties, temperature) at one position."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (id, logprob), most likely first; ties: lower id


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
# Where in an answer a prompt ends: before it, within its reasoning, or where its text begins or
# has begun.
Place = Literal["start", "reasoning", "text"]


class ChatOptions(Struct, frozen=True, kw_only=True):
    """What only a conversation can ask for. None: not asked for.

    tools: functions in OpenAI's form. tool_choice: also the name of the tool to call, as
    {"name": ..}. separate_reasoning: False leaves reasoning in the text, marks and all.
    chat_defaults: what neither the job nor the model says has the defaults of chats.
    """

    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: Literal["auto", "none", "required"] | dict[str, str] = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    separate_reasoning: bool = True
    chat_defaults: bool = False

    @property
    def offered(self) -> tuple[dict[str, Any], ...]:
        """The tools that the model is shown."""
        return () if self.tool_choice == "none" else self.tools


PoolingRule = Literal["mean", "cls", "last"]
# What a dense map of a vector ends with, in the words of torch.nn.
DenseAct = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]


class Pool(Struct, frozen=True, kw_only=True):
    """One vector of a sequence, wanted in place of tokens: made of its rows by `how` (the mean of
    all, the first or the last one).

    head: then goes through the model's output head (the scores of a classifier, or logits). ids: of
    the head's results, the only ones that are kept, in this order (none: all). dimensions: of
    its numbers, the first ones that are kept (0: all). normalize: then divided by its length.
    without: the beginning of the text whose tokens have no share in the vector; first: how many
    these are, once the text is tokens.
    """

    how: PoolingRule
    head: bool = False
    ids: tuple[int, ...] = ()
    dimensions: int = 0
    normalize: bool = False
    without: str = ""
    first: int = 0


Detail = Literal["auto", "low", "high"]


class PictureFile(Struct, frozen=True, kw_only=True):
    """A picture as its caller gave it: the bytes of a file, not looked at yet.

    detail: "low": the whole picture once; "high": also in pieces; "auto": as the model's files say.
    field: the caller's name for it, in errors.
    """

    data: bytes
    detail: Detail = "auto"
    field: str = "images"


class Speech(Struct, frozen=True, kw_only=True):
    """How an answer is spoken. voice: a speaker's embedding, float32 little-endian, b"" for none;
    guidance: how closely it is followed; books: codebooks of a frame."""

    voice: bytes
    guidance: float
    books: int


class Request(Struct, frozen=True, kw_only=True):
    """A caller's request, before anything is resolved. Exactly one of the three prompts is set.

    pictures: in the order of the parts {"type": "image"} of its messages, or of the placeholders in
    another prompt.

    pool: a vector is wanted, not an answer; `prompt` or `token_ids` is set. pair: the second of two
    texts that the model sees together; instruction: what the second one is looked for, where the
    model is told; None: its usual one. truncate: a text that is too long is cut, not refused.
    """

    id: str
    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    token_ids: tuple[int, ...] | None = None
    params: dict[str, Any] = {}  # names and values as the caller wrote them
    surface: Literal["job", "generate", "completions", "chat", "speech"] = "job"
    choice: int = 0  # index among `n` answers to one prompt; part of the random key
    timeout_s: float | None = None
    template_args: dict[str, Any] = {}  # e.g. {"enable_thinking": False}
    add_generation_prompt: bool | None = None  # messages: None = unless the last one is continued
    continue_final_message: bool | None = None  # messages: the last one is left open
    add_special_tokens: bool | None = None  # None = yes for a prompt that no template rendered
    chat: ChatOptions = ChatOptions()
    place: Place | None = None  # token_ids of a conversation: where in the answer they end
    constraint: Constraint | None = None  # of the route itself; else that of `params`, if any
    pool: Pool | None = None
    pair: str | None = None
    instruction: str | None = None
    truncate: bool = False
    adapter: str = ""  # the name of the adapter that answers it; "": the model alone
    adapter_key: str = ""  # `AdapterInfo.key` of that name when the request came; "": any
    pictures: tuple[PictureFile, ...] = ()
    speech: Speech | None = None  # of a model that speaks; None: with its own voice


class Resolved(Struct, frozen=True, kw_only=True):
    """Parameters with their origins: "request", "worker option", "generation_config", "default",
    "worker default (chat)", "random", "chat_format"."""

    params: SamplingParams
    origins: dict[str, str]
    ignored: tuple[str, ...] = ()  # unknown keys that --lenient let through
    exempt_ids: tuple[int, ...] = ()  # ids that the repetition penalty never changes
    constraint_field: str = ""  # the request's field that has the constraint


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
    place: Place = "start"  # where in the answer the prompt ends


class Token(Struct, frozen=True, kw_only=True, gc=False, tag="token", tag_field="type"):
    """Complete UTF-8 text and its ids; `i` is the first id's position in the output.

    In an event, reasoning comes before text, and text before pieces of tool calls.
    """

    t: str
    i: int
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


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
    reasoning: str = ""  # the rest of it
    calls: tuple[CallPiece, ...] = ()


class Vector(Struct, frozen=True, kw_only=True, tag="vector", tag_field="type"):
    """What a request with a `pool` gets in place of tokens: float32, little-endian."""

    data: bytes


class Error(Struct, frozen=True, kw_only=True, tag="error", tag_field="type"):
    code: Literal["VRAM_OOM", "INVALID_REQUEST", "INFERENCE_FAILED", "ENGINE_LOST"]
    message: str


Event = Started | PromptLogprobs | Token | Narration | Metrics | Vector | End | Error
