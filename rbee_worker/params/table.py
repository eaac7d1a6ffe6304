"""Every parameter that a request may have, in one place: `resolve`, /info and the command line read
this table.

A parameter with different meanings on different surfaces (`max_tokens`, `logprobs`) has a row for
each.
"""

from __future__ import annotations

from typing import Any

from rbee_worker.params.constraint import CONSTRAINTS
from rbee_worker.params.groups import group_of
from rbee_worker.params.other_keys import INERT, TRANSPORT, UNSUPPORTED
from rbee_worker.params.parameter import MAX_INT, MAX_SEED, REST, Parameter, Surface


def _max_tokens(
    default: int | None, meaning: str, *surfaces: Surface, chat: str | None = None
) -> Parameter:
    return Parameter(
        name="max_tokens",
        kind="integer",
        low=1,
        default=default,
        chat=chat,
        aliases=("max_completion_tokens",),
        surfaces=surfaces,
        meaning=meaning,
    )


_SAMPLING = (
    _max_tokens(128, "tokens to generate at most; 0 only with echo", "job", "generate", chat=REST),
    _max_tokens(16, "tokens to generate at most; 0 only with echo", "completions"),
    _max_tokens(None, "tokens to generate at most", "chat", chat=REST),
    _max_tokens(None, "tokens to draw at most; two are a frame of 1/75 s", "speech"),
    Parameter(
        name="temperature",
        kind="number",
        low=0,
        high=2,
        default=1.0,
        chat=0.8,
        generation=True,
        meaning="logits are divided by it; 0 = the likeliest token, exactly (ties: lower id)",
    ),
    Parameter(
        name="top_p",
        kind="number",
        low=0,
        high=1,
        above=True,
        default=1.0,
        chat=0.95,
        generation=True,
        meaning="keep the smallest set of likeliest tokens with this probability; 1 = off",
    ),
    Parameter(
        name="top_k",
        kind="integer",
        low=0,
        high=MAX_INT,
        default=0,
        chat=40,
        off=(-1,),
        generation=True,
        meaning="keep this many likeliest tokens; 0 = off",
    ),
    Parameter(
        name="min_p",
        kind="number",
        low=0,
        high=1,
        default=0.0,
        chat=0.05,
        generation=True,
        meaning="keep tokens with at least min_p times the largest probability; 0 = off",
    ),
    Parameter(
        name="repetition_penalty",
        kind="number",
        low=0,
        high=2,
        above=True,
        default=1.0,
        aliases=("repeat_penalty",),
        generation=True,
        meaning="once per distinct token in the window: a logit > 0 is divided by it, any other "
        "multiplied; EOS ids and special tokens of the chat template are exempt; 1 = off, exactly",
    ),
    Parameter(
        name="repeat_last_n",
        kind="integer",
        low=-1,
        high=MAX_INT,
        default=128,
        meaning="tokens of prompt and output that repetition_penalty looks back on; 0 and -1 = "
        "all of them (in llama.cpp 0 turns the penalty off; here it does not)",
    ),
    Parameter(
        name="presence_penalty",
        kind="number",
        low=-2,
        high=2,
        default=0.0,
        meaning="taken from the logit of every token generated so far; 0 = off",
    ),
    Parameter(
        name="frequency_penalty",
        kind="number",
        low=-2,
        high=2,
        default=0.0,
        meaning="taken from a token's logit once for each time it was generated; 0 = off",
    ),
    Parameter(
        name="logit_bias",
        kind="biases",
        low=-100,
        high=100,
        default={},
        meaning="added to the logits of these token ids, before everything else",
    ),
    Parameter(
        name="seed",
        kind="integer",
        low=0,
        high=MAX_SEED,
        meaning="same seed, same request: same tokens; absent = random, and reported",
    ),
    Parameter(
        name="stop",
        kind="strings",
        default=(),
        meaning="the answer ends before any of these strings",
    ),
    Parameter(
        name="stop_token_ids",
        kind="ids",
        default=(),
        meaning="the answer ends at any of these token ids",
    ),
    Parameter(
        name="ignore_eos",
        kind="boolean",
        default=False,
        meaning="go on after an end-of-sequence token",
    ),
    Parameter(
        name="min_tokens",
        kind="integer",
        low=0,
        default=0,
        meaning="EOS and stop ids cannot be drawn before this many tokens; at most max_tokens",
    ),
    Parameter(
        name="logprobs",
        kind="integer",
        low=0,
        high=20,
        surfaces=("job", "generate", "speech"),
        meaning="log-probabilities of the drawn token and of this many likeliest ones; from the "
        "raw logits, before bias, penalties and temperature",
    ),
    Parameter(
        name="logprobs",
        kind="integer",
        low=0,
        high=5,
        surfaces=("completions",),
        meaning="log-probabilities of the drawn token and of this many likeliest ones; from the "
        "raw logits, before bias, penalties and temperature",
    ),
    Parameter(
        name="logprobs",
        kind="boolean",
        default=False,
        surfaces=("chat",),
        meaning="log-probabilities of the drawn token; from the raw logits, before bias, "
        "penalties and temperature",
    ),
    Parameter(
        name="top_logprobs",
        kind="integer",
        low=0,
        high=20,
        default=0,
        surfaces=("chat",),
        meaning="with logprobs: also of this many likeliest tokens",
    ),
    Parameter(
        name="echo",
        kind="boolean",
        default=False,
        meaning="the prompt comes first (with logprobs: and its log-probabilities)",
    ),
    Parameter(
        name="skip_special_tokens",
        kind="boolean",
        default=True,
        meaning="special tokens have no text in the answer",
    ),
    Parameter(
        name="speculation",
        kind="boolean",
        default=True,
        meaning="draft tokens as the worker's --speculate says; false: draft none. Only the "
        "speed of the answer depends on it",
    ),
    Parameter(
        name="thinking_budget",
        kind="integer",
        low=0,
        high=MAX_INT,
        aliases=("max_thinking_tokens",),
        surfaces=("job", "generate", "chat"),
        meaning="tokens of reasoning; after so many its end is written, and the answer begins",
    ),
)

PARAMETERS: tuple[Parameter, ...] = _SAMPLING + CONSTRAINTS + TRANSPORT + INERT + UNSUPPORTED


def names(surface: Surface) -> dict[str, Parameter]:
    """Every key that a request on this surface may have, aliases included."""
    return {
        key: parameter
        for parameter in PARAMETERS
        if surface in parameter.surfaces
        for key in (parameter.name, *parameter.aliases)
    }


def split(body: dict[str, Any], surface: Surface) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a request's body into (keys that the route reads itself, keys for `resolve`)."""
    known = names(surface)
    transport = {k: v for k, v in body.items() if k in known and known[k].role == "transport"}
    return transport, {k: v for k, v in body.items() if k not in transport}


def describe() -> list[dict[str, Any]]:
    """The table as JSON, for /info."""
    return [
        {
            "name": p.name,
            "role": p.role,
            "group": group_of(p.name),
            "kind": p.kind,
            "range": p.range,
            "default": list(p.default) if isinstance(p.default, tuple) else p.default,
            **({} if p.chat is None else {"chat_default": p.chat}),
            "meaning": p.meaning,
            "aliases": list(p.aliases),
            "off": list(p.off),
            "surfaces": list(p.surfaces),
        }
        for p in PARAMETERS
    ]
