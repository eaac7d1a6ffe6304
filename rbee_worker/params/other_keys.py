"""Keys of a request other than sampling parameters: keys that the route reads, keys without effect,
and keys that are known but not implemented."""

from __future__ import annotations

from typing import Any

from rbee_worker.params.parameter import SURFACES, Kind, Parameter, Surface


def _unsupported(name: str, meaning: str, *off: Any, aliases: tuple[str, ...] = ()) -> Parameter:
    return Parameter(
        name=name, kind="any", meaning=meaning, role="unsupported", off=off, aliases=aliases
    )


def _inert(name: str, meaning: str) -> Parameter:
    return Parameter(name=name, kind="any", meaning=meaning, role="inert")


def _transport(
    name: str, meaning: str, *surfaces: Surface, default: Any = None, kind: Kind = "any"
) -> Parameter:
    return Parameter(
        name=name,
        kind=kind,
        meaning=meaning,
        role="transport",
        default=default,
        surfaces=surfaces or SURFACES,
    )


TRANSPORT = (
    _transport("prompt", "the text to continue", "job", "generate", "completions"),
    _transport("messages", "the conversation to answer", "job", "generate", "chat"),
    _transport("token_ids", "the tokens to continue", "job", "generate"),
    _transport("images", "pictures of a prompt or of ids, one for each placeholder", "job"),
    _transport("operation", "what the job does", "job"),
    _transport("model", "the model's name; must be the one served"),
    _transport(
        "stream", "send events as they come", "completions", "chat", default=False, kind="boolean"
    ),
    _transport(
        "stream_options", "include_usage: a last event with the usage", "completions", "chat"
    ),
    _transport("n", "answers to the prompt", "completions", "chat", default=1, kind="integer"),
    _transport("best_of", "must equal n", "completions", kind="integer"),
    _transport(
        "timeout_s",
        "seconds until the answer is cut off",
        "job",
        "completions",
        "chat",
        "speech",
        kind="number",
    ),
    _transport("template_args", "variables of the chat template", "job", "generate", "chat"),
    _transport("chat_template_kwargs", "the same under vLLM's name", "chat"),
    _transport(
        "add_generation_prompt",
        "the template opens the assistant's turn; default: unless the last message is continued",
        "job",
        "chat",
        kind="boolean",
    ),
    _transport(
        "continue_final_message",
        "the answer continues the last message, which is left open",
        "job",
        "chat",
        kind="boolean",
    ),
    _transport(
        "add_special_tokens",
        "the tokenizer puts its opening token before the text; default: before a prompt that does "
        "not begin with it, never before a conversation, whose template has written its own",
        "job",
        "completions",
        "chat",
        kind="boolean",
    ),
    _transport("tools", "functions that the model may call", "job", "chat"),
    _transport(
        "tool_choice",
        "auto; none: no tool is offered; required: one at least is called; or the tool to call",
        "job",
        "chat",
        default="auto",
    ),
    _transport(
        "parallel_tool_calls",
        "false: the answer ends where a second call begins",
        "job",
        "chat",
        default=True,
        kind="boolean",
    ),
    _transport(
        "reasoning_effort",
        "none, minimal, low, medium, high or xhigh, for templates that read it; for those that "
        "can only switch reasoning on and off, all but none switch it on",
        "job",
        "chat",
    ),
    _transport(
        "enable_thinking", "the template's switch for reasoning", "job", "chat", kind="boolean"
    ),
    _transport(
        "reasoning_format",
        "auto: reasoning is told apart from the text; none: it stays in it, marks included",
        "job",
        "chat",
        default="auto",
    ),
    _transport(
        "chat_defaults",
        "the sampling defaults are those of chats",
        "job",
        default=False,
        kind="boolean",
    ),
    _transport("trace", "put the job's phases into its end event", "job", default=False),
    _transport("input", "the text to speak", "speech"),
    _transport("voice", "a name, none, or a clip as a data URL", "speech", default="default"),
    _transport("response_format", "wav, pcm, or tokens: codes, not sound", "speech", default="wav"),
    _transport("stream_format", "audio, or sse: its pieces in events", "speech", default="audio"),
    _transport(
        "guidance_scale",
        "how closely the voice is followed, 0 to 10",
        "speech",
        default=3.0,
        kind="number",
    ),
    _transport(
        "codebooks",
        "of the answer; default: all that the model's files make",
        "speech",
        kind="integer",
    ),
    _transport(
        "speed",
        "only 1.0: the model chooses how fast it speaks",
        "speech",
        default=1.0,
        kind="number",
    ),
    _transport("instructions", "only empty: the model follows its text and its voice", "speech"),
)

INERT = (
    _inert("user", "who asks"),
    _inert("safety_identifier", "who asks"),
    _inert("metadata", "the caller's own notes"),
    _inert("store", "whether to keep the answer: it is never kept"),
    _inert("service_tier", "there is only one tier"),
    _inert("prompt_cache_key", "equal prefixes are found without a key"),
    _inert("cache_prompt", "llama.cpp's: equal prefixes are found in any case"),
    _inert("id_slot", "llama.cpp's: an answer does not depend on its place"),
)

UNSUPPORTED = (
    _unsupported("functions", "tool calls in their first form: use tools", []),
    _unsupported("function_call", "tool calls in their first form: use tool_choice", "none"),
    _unsupported("suffix", "text after the answer", ""),
    _unsupported("chat_template", "a template of the request's own: only the model's is used"),
    _unsupported("modalities", "answers other than text", ["text"]),
    _unsupported("audio", "spoken answers"),
    _unsupported("prediction", "predicted output"),
    _unsupported("web_search_options", "web search"),
    _unsupported("use_beam_search", "beam search", False),
    _unsupported("num_beams", "beam search", 1),
    _unsupported("length_penalty", "beam search", 1),
    _unsupported("no_repeat_ngram_size", "n-gram blocking", 0),
    _unsupported("typical_p", "locally typical sampling", 1, aliases=("typical",)),
    _unsupported("tfs_z", "tail-free sampling", 1),
    _unsupported("mirostat", "mirostat sampling", 0),
    _unsupported("xtc_probability", "excluding top choices", 0),
    _unsupported("dry_multiplier", "the DRY penalty", 0),
    _unsupported("timings_per_token", "llama.cpp's times in a stream", False),
    _unsupported("return_progress", "llama.cpp's progress of a prompt", False),
)
