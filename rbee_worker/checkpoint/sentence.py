"""What sentence-transformers' files beside a model say about making vectors with it.

modules.json lists the steps (transformer, pooling, normalisation) and the folders of their configs;
config_sentence_transformers.json has prompts, texts that are put before the input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.reading import inside, read_json, read_text
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.types import Pooling, PoolingRule

_MODULES, _PROMPTS = "modules.json", "config_sentence_transformers.json"
_LENGTHS = ("sentence_bert_config.json", "sentence_roberta_config.json")
_AGAIN = "download the model's files again"

# The config key of a way of pooling, and its newer name -> the way, None: not supported.
_WAYS: Mapping[str, PoolingRule | None] = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
    "max": None,
    "max_tokens": None,
    "mean_sqrt_len_tokens": None,
    "weightedmean": None,
    "weightedmean_tokens": None,
}


@dataclass(frozen=True)
class Sentence:
    """pooling: None if no file says how. longest: tokens beyond which the authors cut a text; 0:
    not said. prompts: by name; prompt: the name of the one for every text, "" for none. lower:
    texts are put in lower case first."""

    pooling: Pooling | None = None
    longest: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    lower: bool = False


UNSAID = Sentence()


def read_sentence(path: Path) -> Sentence:
    """The files of a model directory. Raises CheckpointError for damaged ones, UnsupportedModel for
    steps that are not supported."""
    lengths = next((found for name in _LENGTHS if (found := _config(path, name))), {})
    prompts, prompt = _prompts(_config(path, _PROMPTS))
    longest = lengths.get("max_seq_length")
    return Sentence(
        pooling=_pooling(path),
        longest=longest if type(longest) is int and longest > 0 else 0,
        prompts=prompts,
        prompt=prompt,
        lower=lengths.get("do_lower_case") is True,
    )


def _pooling(path: Path) -> Pooling | None:
    if not (path / _MODULES).is_file():
        return None
    how: Pooling | None = None
    normalize = False
    for step in _steps(path):
        kind, folder = str(step.get("type", "")).rpartition(".")[2], str(step.get("path", ""))
        if kind == "Pooling":
            name = f"{folder}/config.json"
            how = Pooling(how=_way(path, name), origin=name)
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer" or how is not None:
            raise UnsupportedModel(
                f"{path / _MODULES}: the step {kind[:40]!r} is not supported.",
                fix="use a model whose steps are Transformer, Pooling and Normalize.",
            )
    if how is None:
        return None
    return Pooling(how=how.how, normalize=normalize, origin=how.origin)


def _steps(path: Path) -> list[dict[str, Any]]:
    try:
        steps = json.loads(read_text(inside(path, path / _MODULES)))
    except (ValueError, RecursionError):
        steps = None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{path / _MODULES}: is not a list of objects.", fix=_AGAIN)
    return steps


def _way(path: Path, name: str) -> PoolingRule:
    config = _config(path, name)
    chosen = config.get("pooling_mode")
    words = [chosen] if isinstance(chosen, str) else []
    words += [
        key.removeprefix("pooling_mode_")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    ways = [_WAYS.get(word) for word in words]
    if len(ways) == 1 and ways[0] is not None:
        return ways[0]
    if not words:
        raise CheckpointError(f"{path / name}: says no way of pooling.", fix=_AGAIN)
    raise UnsupportedModel(
        f"{path / name}: pooling by {' and '.join(map(str, words))[:80]} is not supported.",
        fix="use a model that pools by cls, mean or lasttoken.",
    )


def _prompts(config: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Prompts by name, and the name of the default one."""
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name") or ""
    sound = isinstance(prompts, dict) and all(isinstance(p, str) for p in prompts.values())
    if not sound or not isinstance(default, str) or (default and default not in prompts):
        raise CheckpointError(
            f"{_PROMPTS}: prompts or default_prompt_name cannot be used.", fix=_AGAIN
        )
    return prompts, default


def _config(path: Path, name: str) -> dict[str, Any]:
    """The object in a file of the directory; {} without the file."""
    return read_json(inside(path, path / name)) if (path / name).is_file() else {}
