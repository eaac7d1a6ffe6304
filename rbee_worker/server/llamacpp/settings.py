"""llama.cpp's options as the worker's parameters, and back as `generation_settings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rbee_worker.errors import FieldError
from rbee_worker.params.check import same
from rbee_worker.params.parameter import MAX_BIASES
from rbee_worker.server.field_names import FieldNames
from rbee_worker.server.llamacpp.schemas import OptionsEnvelope
from rbee_worker.types import SamplingParams

if TYPE_CHECKING:
    from rbee_worker.tokenizer.core import Tokenizer

_SAME = (
    *("temperature", "top_k", "top_p", "min_p", "repeat_last_n", "presence_penalty"),
    *("frequency_penalty", "seed", "stop", "ignore_eos", "grammar", "json_schema"),
    "speculation",
)
NAMES = FieldNames(
    {
        "max_tokens": "n_predict",
        "repetition_penalty": "repeat_penalty",
        "top_logprobs": "n_probs",
        "logprobs": "n_probs",
        "token_ids": "prompt",
    }
)
# option -> values that ask for nothing, the first of which a worker tells as its own
OFF: dict[str, tuple[Any, ...]] = {
    "typical_p": (1.0,),
    "top_n_sigma": (-1.0,),
    "dynatemp_range": (0.0,),
    "mirostat": (0,),
    "xtc_probability": (0.0,),
    "dry_multiplier": (0.0,),
    "adaptive_target": (-1.0,),
    "min_keep": (0,),
    "n_indent": (0,),
    "t_max_predict_ms": (0, -1),
    "post_sampling_probs": (False,),
    "timings_per_token": (False,),
    "return_progress": (False,),
}
# options of an option that is off: they ask for nothing without it
OF = {
    "dynatemp_exponent": ("dynatemp_range", 1.0),
    "mirostat_tau": ("mirostat", 5.0),
    "mirostat_eta": ("mirostat", 0.1),
    "xtc_threshold": ("xtc_probability", 0.1),
    "dry_base": ("dry_multiplier", 1.75),
    "dry_allowed_length": ("dry_multiplier", 2),
    "dry_penalty_last_n": ("dry_multiplier", -1),
    "dry_sequence_breakers": ("dry_multiplier", ["\n", ":", '"', "*"]),
    "adaptive_decay": ("adaptive_target", 0.9),
}
ORDER = ["penalties", "temperature", "top_k", "top_p", "min_p"]  # what the worker applies, in order
_MOST_TEXT = 4096  # characters of a text in logit_bias


def params_of(
    given: OptionsEnvelope, values: Mapping[str, Any], tokenizer: Tokenizer
) -> tuple[dict[str, Any], list[FieldError]]:
    """The parameters, and the faults of what is not implemented."""
    params = {n: values[n] for n in _SAME if values.get(n) is not None}
    faults = [_off(n, values[n]) for n in OFF if not _asks_nothing(values.get(n), OFF[n])]
    for name, empty in (("samplers", (ORDER, [])), ("lora", ([],))):
        if values.get(name) is not None and values[name] not in empty:
            what = f"is fixed: {', '.join(ORDER)}" if name == "samplers" else "is not implemented"
            faults.append(FieldError(name, "absent", what))
    if given.n_predict is not None and given.max_tokens is not None:
        message = "and n_predict are the same parameter: give one"
        faults.append(FieldError("max_tokens", "one name", message))
    most = given.max_tokens if given.n_predict is None else given.n_predict
    if most is not None and not any(same(most, endless) for endless in (-1, -2)):
        params["max_tokens"] = most
    if values.get("repeat_penalty") is not None:
        params["repetition_penalty"] = values["repeat_penalty"]
    if same(params.get("repeat_last_n"), 0):  # no token is looked at
        del params["repeat_last_n"]
        params["repetition_penalty"] = 1.0
    if same(params.get("seed"), -1):
        del params["seed"]
    if given.n_probs is not None and not same(given.n_probs, 0):
        params |= {"logprobs": True, "top_logprobs": given.n_probs}
    if given.logit_bias is not None:
        biases = _biases(given.logit_bias, tokenizer)
        if isinstance(biases, FieldError):
            faults.append(biases)
        else:
            params["logit_bias"] = biases
    return params, faults


def _asks_nothing(value: Any, off: tuple[Any, ...]) -> bool:
    return value is None or any(same(value, one) for one in off)


def _off(name: str, value: Any) -> FieldError:
    off = str(OFF[name][0]).lower()
    return FieldError(name, off, f"is not implemented: only {off} is accepted")


def _biases(given: Any, tokenizer: Tokenizer) -> dict[str, Any] | FieldError:
    """By id: pairs, or an object; a text stands for each of its tokens, false for "never"."""
    wanted = "must be an object, or pairs, of a token id or a text and a number or false"
    fault = FieldError("logit_bias", "ids or texts with numbers", wanted)
    pairs = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(pairs, list) or len(pairs) > MAX_BIASES:
        return fault
    found: dict[str, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return fault
        key, bias = pair
        bias = -100.0 if bias is False else bias
        if type(key) is int:
            found[str(key)] = bias
        elif isinstance(key, str) and isinstance(given, dict) and key.isdigit():
            found[key] = bias
        elif isinstance(key, str) and 0 < len(key) <= _MOST_TEXT and tokenizer.is_quick(key):
            for token in tokenizer.encode(key, add_special=False, parse_special=True):
                found[str(token)] = bias
        else:
            return fault
    return found


def settings_of(params: SamplingParams, *, stream: bool) -> dict[str, Any]:
    """`generation_settings` of resolved parameters."""
    constraint = params.constraint
    return {
        "seed": params.seed,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repeat_last_n": params.repeat_last_n,
        "repeat_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "stop": params.stop,
        "max_tokens": params.max_tokens,
        "n_predict": params.max_tokens,
        "n_keep": 0,
        "n_discard": 0,
        "ignore_eos": params.ignore_eos,
        "stream": stream,
        "logit_bias": [[token, bias] for token, bias in params.logit_bias.items()],
        "n_probs": params.logprobs or 0,
        "grammar": "" if constraint is None else constraint.text,
        "samplers": ORDER,
        "lora": [],
        "speculation": params.speculation,
        **{name: off[0] for name, off in OFF.items()},
        **{name: value for name, (_, value) in OF.items()},
    }
