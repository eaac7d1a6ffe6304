"""What sentence-transformers' file of the transformer itself says: which texts it is given, and
what it gives. Its name was another one for each family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rbee_worker.errors import UnsupportedModel

_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
TRANSFORMER = tuple(f"sentence_{family}_config.json" for family in _FAMILIES)  # the first one

# What it may give, and keys for loading config.json and the tokenizer that change no number.
_GIVES = {
    "transformer_task": (None, "feature-extraction", "sequence-classification"),
    "module_output_name": (None, "token_embeddings", "scores"),
}
_ANSWERS = {"transformer_task": "text-generation", "module_output_name": "causal_logits"}
_IDLE = ("use_cache", "attn_implementation", "torch_dtype", "dtype", "trust_remote_code")
_IDLE_WORDS = ("padding_side", "use_fast", "trust_remote_code", "model_max_length")
_ARGUMENTS = {
    "config_args": _IDLE,
    "config_kwargs": _IDLE,
    "tokenizer_args": _IDLE_WORDS,
    "processor_kwargs": _IDLE_WORDS,
}
_PROCESSING = "processing_kwargs"  # how its tokenizer is called
_CALLED = ("padding", "pad_to_multiple_of", "return_tensors", "max_length")  # no other tokens
_CUT = (True, "longest_first")  # how texts are cut here
_MESSAGE = "message"
_CHAT, _OPENS = "chat_template", "add_generation_prompt"


def check_transformer(path: Path, config: Mapping[str, Any], *, pairs: bool = False) -> None:
    """Raise UnsupportedModel if the transformer gives something else than rows, or class scores, or
    is another one than its config.json says, or gets other tokens than a text has here. pairs: of a
    cross-encoder, whose pairs may become messages, and which may answer with a token."""
    gives = {key: (*fine, _ANSWERS[key]) if pairs else fine for key, fine in _GIVES.items()}
    wrong = {k: config[k] for k, fine in gives.items() if config.get(k) not in fine}
    for key, idle in _ARGUMENTS.items():
        given = _object(config.get(key))
        wrong |= {f"{key}.{name}": given[name] for name in sorted(set(given) - {*idle})}
    wrong |= _wrong_calls(config.get(_PROCESSING), ("common", "text", *[_CHAT] * (not pairs)))
    if pairs and (others := set(_object(_object(config.get(_PROCESSING)).get(_CHAT))) - {_OPENS}):
        wrong[f"{_PROCESSING}.{_CHAT}"] = ", ".join(sorted(others))
    if reads_messages(config) and not pairs:
        wrong["modality_config"] = _MESSAGE
    if wrong:
        told = ", ".join(f"{key} is {str(value)[:40]!r}" for key, value in wrong.items())
        raise UnsupportedModel(
            f"{path}: sentence-transformers' files say that {told[:120]}, which is not supported.",
            fix="use a model that config.json describes alone.",
        )


def reads_messages(config: Mapping[str, Any]) -> bool:
    """Whether texts become messages of a conversation, rendered by the chat template."""
    return _MESSAGE in _object(config.get("modality_config"))


def opens_answer(config: Mapping[str, Any]) -> bool:
    """Whether the beginning of an answer follows the messages."""
    return _object(_object(config.get(_PROCESSING)).get(_CHAT)).get(_OPENS) is True


def longest(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    """The tokens beyond which a text is cut; 0: not said. tokenizer: its own config, in which newer
    versions write the number alone. What the tokenizer is called with counts first."""
    told = (
        _object(_object(config.get(_PROCESSING)).get("text")).get("max_length"),
        _object(config.get("processor_kwargs")).get("model_max_length"),
        _object(config.get("tokenizer_args")).get("model_max_length"),
        config.get("max_seq_length"),
        tokenizer.get("model_max_length"),
    )
    return next(filter(None, map(count, told)), 0)


def count(value: Any) -> int:
    """A positive number; 0 for anything else."""
    return value if type(value) is int and value > 0 else 0


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _wrong_calls(given: Any, parts: Sequence[str]) -> dict[str, Any]:
    """What the tokenizer of texts is called with that would give other tokens than it does here."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        return {_PROCESSING: given}
    wrong: dict[str, Any] = {}
    for part in parts:
        calls = given.get(part) or {}
        if not isinstance(calls, dict):
            return {f"{_PROCESSING}.{part}": calls}
        wrong |= {
            f"{_PROCESSING}.{part}.{key}": value
            for key, value in calls.items()
            if key not in _CALLED and not (key == "truncation" and value in _CUT)
        }
    return wrong
