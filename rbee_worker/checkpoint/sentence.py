"""What sentence-transformers' files beside a model say about making vectors with it.

modules.json lists the steps (transformer, pooling, dense maps, normalisation) and the folders of
their configs; config_sentence_transformers.json has prompts, texts that are put before the input,
and what a cross-encoder's score goes through. What its classes assume for an absent key, and which
key counts where two say the same, is as in version 6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from msgspec.structs import replace

from rbee_worker.checkpoint.dense import DenseMap, read_dense
from rbee_worker.checkpoint.reading import inside, read_json, read_text
from rbee_worker.checkpoint.sentence_texts import (
    TRANSFORMER,
    check_transformer,
    count,
    longest,
    opens_answer,
    reads_messages,
)
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.model_info import Pooling, ScoreActivation, Similarity
from rbee_worker.types import PoolingRule

_MODULES, _PROMPTS = "modules.json", "config_sentence_transformers.json"
_AGAIN = "download the model's files again"

# The word for a way of pooling -> the way, None: not supported.
_WAYS: Mapping[str, PoolingRule | None] = {
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "max": None,
    "mean_sqrt_len_tokens": None,
    "weightedmean": None,
}
# The older form, a key for each way, and its word.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_BENDS: Mapping[str, ScoreActivation] = {"Identity": "none", "Sigmoid": "sigmoid"}
_SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)


@dataclass(frozen=True)
class Sentence:
    """pooling: None if no file says how. longest: tokens beyond which the authors cut a text; 0:
    not said. prompts: by name; prompt: the name of the one for every text, "" for none. lower:
    texts are put in lower case first. dimensions: numbers of a vector that are kept unless a
    request says otherwise; 0: all. dense: the maps of `pooling`, in order. pairs: the files are of
    a cross-encoder, which reads two texts together. activation: what its score goes through; None:
    no file says so. similarity: how alike two vectors are. answers: the tokens whose logits are the
    score, and the file that says so; messages: pairs go through the chat template, with the
    beginning of an answer behind them if `opens`."""

    pooling: Pooling | None = None
    longest: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    lower: bool = False
    dimensions: int = 0
    dense: tuple[DenseMap, ...] = ()
    pairs: bool = False
    activation: ScoreActivation | None = None
    similarity: Similarity = "cosine"
    answers: tuple[int, ...] = ()
    answers_origin: str = ""
    messages: bool = False
    opens: bool = False


UNSAID = Sentence()


def read_sentence(path: Path, tokenizer: Mapping[str, Any] | None = None) -> Sentence:
    """The files of a model directory. tokenizer: its tokenizer_config.json, which has the longest
    text where no other file says it. Raises CheckpointError for damaged files, UnsupportedModel for
    steps that are not supported."""
    found = [config for name in TRANSFORMER if (config := _config(path, name))]
    transformer = found[0] if found else {}
    said = _config(path, _PROMPTS)
    pairs = said.get("model_type") == "CrossEncoder"
    check_transformer(path, transformer, pairs=pairs)
    prompts, prompt = _prompts(said)
    made = _steps_of(path)
    if made.answers and not pairs:
        raise CheckpointError(
            f"{path / _PROMPTS}: does not say CrossEncoder, whose step LogitScore is.", fix=_AGAIN
        )
    return Sentence(
        pooling=made.pooling,
        longest=longest(transformer, (tokenizer or {}) if (path / _MODULES).is_file() else {}),
        prompts=prompts,
        prompt=prompt,
        lower=transformer.get("do_lower_case") is True,
        dimensions=count(said.get("truncate_dim")),
        similarity=_similarity(said),
        pairs=pairs,
        activation=None if (bend := said.get("activation_fn")) is None else activation(bend),
        dense=made.dense,
        answers=made.answers,
        answers_origin=made.answers_origin,
        messages=reads_messages(transformer),
        opens=opens_answer(transformer),
    )


def activation(name: Any) -> ScoreActivation:
    """What a cross-encoder's score goes through, by the path of a class of torch. Raises
    UnsupportedModel."""
    found = _BENDS.get(str(name).rpartition(".")[2])
    if found is None:
        raise UnsupportedModel(
            f"config: scores through {str(name)[:60]!r} are not supported.",
            fix="use a model with Identity or Sigmoid.",
        )
    return found


def _similarity(said: Mapping[str, Any]) -> Similarity:
    name = said.get("similarity_fn_name")
    for known in _SIMILARITIES:
        if name in (None, known):
            return known
    raise UnsupportedModel(
        f"{_PROMPTS}: similarity_fn_name is {str(name)[:40]!r}, which is not supported.",
        fix=f"known are {', '.join(_SIMILARITIES)}.",
    )


def _steps_of(path: Path) -> Sentence:
    """How the steps of modules.json make a vector, with the dense maps among them, or a score."""
    if not (path / _MODULES).is_file():
        return UNSAID
    how: Pooling | None = None
    dense: list[DenseMap] = []
    normalize = False
    asked = UNSAID  # the steps before it give logits, and nothing follows it
    for step in _steps(path):
        kind, folder = str(step.get("type", "")).rpartition(".")[2], str(step.get("path", ""))
        if kind == "Pooling" and how is None and not asked.answers:
            name = f"{folder}/config.json"
            config = _config(path, name)
            apart = config.get("include_prompt") is False
            how = Pooling(how=_way(path / name, config), origin=name, prompt=not apart)
        elif kind == "Dense" and how is not None and not normalize:
            dense.append(read_dense(path, folder, _config(path, f"{folder}/config.json")))
        elif kind == "Normalize" and not asked.answers:
            _check_normalize(path, folder)
            normalize = how is not None
        elif kind == "LogitScore" and how is None and not asked.answers:
            name = f"{folder}/config.json"
            answers = _answers(path / name, _config(path, name))
            asked = Sentence(answers=answers, answers_origin=name)
        elif kind != "Transformer" or how is not None or asked.answers:
            raise UnsupportedModel(
                f"{path / _MODULES}: the step {kind[:40]!r} is not supported at its place.",
                fix="use a model whose steps are Transformer, Pooling, Dense and Normalize.",
            )
        elif folder not in ("", ".") and (path / folder / "config.json").is_file():
            raise UnsupportedModel(
                f"{path / _MODULES}: the transformer is in the folder {folder[:40]!r}, and not "
                "beside this file, which is not supported.",
                fix="copy the folder's files beside modules.json",
            )
    if how is None:
        return asked
    sizes = tuple(one.outputs for one in dense)
    how = replace(how, normalize=normalize, dense=sizes)
    return Sentence(pooling=how, dense=tuple(dense))


def _answers(path: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens of a step that makes a score of logits: that of yes and, if there is one, of
    no. path: of its config."""
    if config.get("module_input_name") not in (None, "causal_logits"):
        raise UnsupportedModel(
            f"{path}: scores are not made of the model's logits, which is not supported.",
            fix="use a model whose LogitScore reads causal_logits.",
        )
    yes, no = config.get("true_token_id"), config.get("false_token_id")
    found = (yes,) if no is None else (yes, no)
    tokens = tuple(token for token in found if type(token) is int and token >= 0)
    if len(tokens) != len(found):
        raise CheckpointError(f"{path}: names no tokens.", fix=_AGAIN)
    return tokens


def _check_normalize(path: Path, folder: str) -> None:
    """Raise UnsupportedModel unless it is the vector that is normalised."""
    config = _config(path, f"{folder}/config.json") if folder else {}
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedModel(
                f"{path / folder}: {key} is {str(config[key])[:40]!r}, which is not supported.",
                fix="use a model that normalises its vectors.",
            )


def _steps(path: Path) -> list[dict[str, Any]]:
    try:
        steps = json.loads(read_text(inside(path, path / _MODULES)))
    except (ValueError, RecursionError):
        steps = None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{path / _MODULES}: is not a list of objects.", fix=_AGAIN)
    return steps


def _way(path: Path, config: Mapping[str, Any]) -> PoolingRule:
    """The way that a step's config says. path: of its file. Without any word it is the mean."""
    if not config:
        raise CheckpointError(f"{path}: says no way of pooling.", fix=_AGAIN)
    chosen = config.get("pooling_mode")
    if chosen is None:  # else the older keys beside it do not count
        words = [word for key, word in _FLAGS.items() if config.get(key)] or ["mean"]
    else:
        words = chosen if isinstance(chosen, list) else [chosen]
    ways = [_WAYS.get(word) if isinstance(word, str) else None for word in words]
    if len(ways) == 1 and ways[0] is not None:
        return ways[0]
    raise UnsupportedModel(
        f"{path}: pooling by {' and '.join(map(str, words))[:80]} is not supported.",
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
