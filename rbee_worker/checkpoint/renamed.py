"""Reads a checkpoint whose config and tensors have older names (a dialect) under today's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rbee_worker.checkpoint.formats import TensorSource
from rbee_worker.checkpoint.names import Dialect
from rbee_worker.checkpoint.other_names import OtherNames
from rbee_worker.checkpoint.spellings import check_spellings, refuse_different
from rbee_worker.errors import CheckpointError, UnsupportedModel

_TIED = "tie_word_embeddings"
# Keys that describe a multimodal model as a whole, including its text model.
_OF_THE_WHOLE = frozenset(
    {
        _TIED,
        *("eos_token_id", "bos_token_id", "pad_token_id", "dtype", "torch_dtype"),
        *("architectures", "auto_map", "model_type", "transformers_version", "_name_or_path"),
        *("initializer_range", "quantization_config", "use_cache", "return_dict"),
        *("is_encoder_decoder", "output_attentions", "output_hidden_states", "problem_type"),
        *("id2label", "label2id", "chunk_size_feed_forward", "use_bidirectional_attention"),
    }
)

# Old keys that win over the new key, because the model's own code reads the old one: ChatGLM's
# embedding has more rows than vocab_size says, Qwen was trained on fewer positions than it allows,
# and Falcon has no intermediate_size. transformers reads the old keys of LFM2, too.
_OLD_KEYS_THAT_WIN = (
    *("padded_vocab_size", "seq_length", "ffn_hidden_size"),
    *("block_ff_dim", "tie_embedding"),
)


def renamed_config(dialect: Dialect, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`config` under today's keys. Raises UnsupportedModel for a value that is not supported,
    CheckpointError for one that is damaged."""
    wrong = [f"{k} is {config[k]!r}" for k, v in dialect.only.items() if config.get(k, v) != v]
    if wrong:
        raise UnsupportedModel(
            f"{where}: {', '.join(wrong)}, which is not supported.",
            fix="use another version of this model",
        )
    other = {*dialect.inside, *dialect.ignored, *dialect.only, *dialect.keys, *dialect.beside}
    today = {k: v for k, v in config.items() if k not in other}
    for name in (name for name in dialect.inside if name in config):
        _check_text(config[name], dialect, f"{where}: {name}")
        today = {**dialect.assumed, **_text_half(config[name], today, f"{where}: {name}")}
    today |= {key: config[key] for key in dialect.beside if key in config}
    pairs = ((new, old) for old, new in dialect.keys.items() if old not in _OLD_KEYS_THAT_WIN)
    refuse_different(config, pairs, where)
    for old, new in dialect.keys.items():
        if config.get(old) is not None:
            today[new] = config[old]
    for old, (new, factor) in dialect.factors.items():
        if isinstance(value := today.get(old), int | float):
            del today[old]
            whole = isinstance(value, int) and (value * factor).is_integer()
            today[new] = int(value * factor) if whole else value * factor
    return {**today, **dialect.constants, "model_type": dialect.model_type}


def _check_text(inside: Any, dialect: Dialect, where: str) -> None:
    """Raise UnsupportedModel for a text model of another kind than the dialect's."""
    found = inside.get("model_type") if isinstance(inside, dict) else None
    if dialect.text and found is not None and found not in dialect.text:
        raise UnsupportedModel(
            f"{where}: a text model of the kind {str(found)[:40]!r} is not supported here.",
            fix=f"supported: {', '.join(dialect.text)}.",
        )


def _text_half(inside: Any, around: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of a multimodal model's text model: `inside`, with the whole model's keys added.

    A key of `around` that belongs to the text model, and differs there, is kept under another name,
    so that it is reported as a key that nothing reads. Raises CheckpointError.
    """
    if not isinstance(inside, dict):
        raise CheckpointError(f"{where} is not an object.", fix="fetch it again")
    check_spellings(inside, where)
    both = {_TIED: inside.get(_TIED), f"{_TIED} outside it": around.get(_TIED)}
    refuse_different(both, [(_TIED, f"{_TIED} outside it")], where)
    outside = {
        k if k in _OF_THE_WHOLE else f"{k} (outside the text model's config)": v
        for k, v in around.items()
        if k in _OF_THE_WHOLE or inside.get(k) != v
    }
    return {**inside, **outside}


class RenamedSource(OtherNames):
    """Tensors under the names that a dialect's rows give them. Names without a row stay as they
    are.

    Raises CheckpointError if two tensors would get the same name.
    """

    def __init__(self, source: TensorSource, dialect: Dialect, layers: object) -> None:
        patterns = {row.gguf: row for row in dialect.tensors}
        last = {row.gguf: row for row in dialect.after}
        where: dict[str, str] = {}
        for name in source.names():
            pattern, number = _split(name)
            row = patterns.get(name) or patterns.get(pattern)
            if row is not None and number + row.shift == layers:
                row = last.get(pattern, row)
            start = next((old for old in dialect.prefixes if name.startswith(old)), "")
            hf = dialect.prefixes[start] + name.removeprefix(start) if start else name
            if row is not None:
                hf = row.hf.replace("{}", str(number + row.shift))
            if hf in where:
                raise CheckpointError(
                    f"tensors {where[hf]!r} and {name!r} would both be named {hf!r}.",
                    fix="download the checkpoint again",
                )
            where[hf] = name
        super().__init__(source, where)


def _split(name: str) -> tuple[str, int]:
    """ "transformer.h.12.ln.bias" -> ("transformer.h.{}.ln.bias", 12)."""
    match = re.search(r"\.([0-9]{1,6})\.", name)
    if match is None:
        return name, 0
    return f"{name[: match.start()]}.{{}}.{name[match.end() :]}", int(match[1])
