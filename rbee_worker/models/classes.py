"""Heads that score classes of a whole text: the config keys that describe them, and a decoder's.

A decoder's head is one map without a bias, `score.weight` [classes, columns], of the last row of
the text, in place of the head that draws tokens: transformers' classes for sequence classification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rbee_worker.checkpoint.sentence import activation as activation_of
from rbee_worker.errors import CheckpointError
from rbee_worker.layers.linear import Linear
from rbee_worker.model_info import ScoreActivation
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import read_config
from rbee_worker.models.weights import Weights

LABELS = 2  # of a classifier whose config names none, as in transformers
HEAD = "score"


@dataclass(frozen=True, kw_only=True)
class ClassKeys:
    """The config.json keys about classes. classifier_labels: of a GGUF file, which names no class
    of the model."""

    architectures: list[str] | None = None
    id2label: dict[str, Any] | None = None
    num_labels: int | None = None
    problem_type: str | None = None
    sentence_transformers: dict[str, Any] | None = None
    sbert_ce_default_activation_function: str | None = None
    classifier_labels: list[str] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, by the place of their score. Raises CheckpointError."""
        if self.classifier_labels is not None:
            return tuple(self.classifier_labels)
        if self.id2label is None:
            return tuple(f"LABEL_{n}" for n in range(self.num_labels or LABELS))
        try:
            named = {int(number): str(label) for number, label in self.id2label.items()}
            return tuple(named[n] for n in range(len(named)))
        except (KeyError, ValueError):
            raise CheckpointError(
                "config: the numbers in id2label are not 0, 1, 2 ...", fix="download it again."
            ) from None

    @property
    def activation(self) -> ScoreActivation:
        """What makes probabilities of a classifier's scores, as transformers' pipelines and
        sentence-transformers do: a file's own word, then the kind of problem, then how many classes
        there are. Raises UnsupportedModel."""
        given = (self.sentence_transformers or {}).get("activation_fn")
        given = given or self.sbert_ce_default_activation_function
        if given is not None:
            return activation_of(given)
        if self.problem_type == "regression":
            return "none"
        alone = self.problem_type == "multi_label_classification" or len(self.labels) == 1
        return "sigmoid" if alone else "softmax"


CLASS_KEYS = frozenset(f.name for f in fields(ClassKeys))


@dataclass(frozen=True)
class ClassHead:
    """A decoder's head for classes."""

    out: Linear
    labels: tuple[str, ...]
    activation: ScoreActivation

    def on(self, model: Decoder) -> Decoder:
        """`model` with this head in place of its own. Raises CheckpointError."""
        columns = self.out.weight.cols
        if columns != model.width:
            raise CheckpointError(
                f"config: the model has {model.width} columns, {HEAD}.weight {columns}.",
                fix="the config and the weights belong to different models; download both again.",
            )
        return replace(
            model,
            out=self.out,
            labels=self.labels,
            activation=self.activation,
            logits_scale=1.0,
            logits_softcap=None,
        )


def class_head(config: Mapping[str, Any], w: Weights, where: str) -> ClassHead:
    """The head at the cursor of a whole decoder, read apart from the model, as no family reads its
    tensor. Raises CheckpointError, UnsupportedModel."""
    given = {key: value for key, value in config.items() if key in CLASS_KEYS}
    keys, _ = read_config(ClassKeys, given, where=where)
    shape = w.shape_of(f"{HEAD}.weight")
    columns = shape[-1] if len(shape) == 2 else 1
    return ClassHead(w.linear(HEAD, columns, len(keys.labels)), keys.labels, keys.activation)
