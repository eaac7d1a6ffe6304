"""Ollama's `options`, `format` and `think` as the worker's own parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rbee_worker.errors import MOST_FAULTS, FieldError
from rbee_worker.params import Rules, nearest
from rbee_worker.params.check import same
from rbee_worker.server.field_names import FieldNames
from rbee_worker.server.ollama.schemas import AnswerEnvelope
from rbee_worker.server.thinking import switched
from rbee_worker.types import Effort

# option -> the worker's parameter; the values are checked as those of other routes are
_PARAMS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_last_n": "repeat_last_n",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
    "speculation": "speculation",  # the worker's own
}
# How a model is loaded, which is for who starts the worker; and what is kept when a context is cut,
# which is never done. Without effect.
INERT = frozenset(
    {
        *("numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all"),
        *("vocab_only", "use_mmap", "use_mlock", "embedding_only", "num_thread", "num_keep"),
        *("mirostat_tau", "mirostat_eta"),  # of mirostat, which is refused
    }
)
_OFF: dict[str, tuple[Any, ...]] = {  # not implemented: the values that ask for nothing
    "tfs_z": (1,),
    "typical_p": (1,),
    "mirostat": (0,),
    "penalize_newline": (True,),
}
NAMES = FieldNames(
    {
        **{own: f"options.{theirs}" for theirs, own in _PARAMS.items()},
        "json_schema": "format",
        "response_format": "format",
        "reasoning_effort": "think",
        "prompt": "prompt",
    }
)
_EMBEDDING = frozenset({"num_ctx", *INERT})  # what options may have where nothing is drawn


def params_of(
    given: AnswerEnvelope, values: Mapping[str, Any], rules: Rules, faults: list[FieldError]
) -> dict[str, Any]:
    """The request's parameters; what is not known or not implemented is added to `faults`."""
    options = given.options or {}
    params = {own: options[name] for name, own in _PARAMS.items() if options.get(name) is not None}
    if any(same(params.get("max_tokens"), endless) for endless in (-1, -2)):  # as many as fit
        del params["max_tokens"]
    if same(params.get("repeat_last_n"), 0):  # no token is looked at
        del params["repeat_last_n"]
        params["repetition_penalty"] = 1.0
    if same(params.get("seed"), -1):
        del params["seed"]
    faults += option_faults(options, rules.context, [*_PARAMS, *_OFF, "num_ctx", *INERT])
    if given.format == "json":
        params["response_format"] = {"type": "json_object"}
    elif given.format:
        params["json_schema"] = given.format
    params |= {n: values[n] for n in ("logprobs", "top_logprobs") if values.get(n) is not None}
    return params


def option_faults(
    options: Mapping[str, Any], context: int, known: list[str] | frozenset[str] = _EMBEDDING
) -> list[FieldError]:
    """The faults of options that are not parameters of the worker."""
    faults = []
    for name, value in list(options.items())[: 2 * MOST_FAULTS]:
        field = f"options.{name[:64]}"
        if value is None:
            continue
        if name not in known:
            faults.append(
                FieldError(field, "a known option", f"is not known{nearest(name, known)}")
            )
        elif name in _OFF and value not in _OFF[name]:
            off = " or ".join(str(v).lower() for v in _OFF[name])
            faults.append(FieldError(field, off, f"is not implemented: only {off} is accepted"))
        elif name == "num_ctx" and not (type(value) is int and 1 <= value <= context):
            message = f"must be at most the context of {context} tokens, which --ctx sets"
            faults.append(FieldError(field, f"1 to {context}", message))
    return faults


def thinking_of(
    given: AnswerEnvelope, rules: Rules, faults: list[FieldError]
) -> tuple[bool | None, Effort | None]:
    """The switch of the template, and the effort, that `think` asks for."""
    if given.think is None:
        return None, None
    if isinstance(given.think, str):
        return None, given.think
    return switched("think", given.think, rules, faults), None
