"""The models that a worker serves, by the names that clients may call them by.

Every route reads `model` here and nowhere else: a name stands for a served model, which is the base
model today; whatever else can be chosen by its name is one more row of `served_models`.
"""

from __future__ import annotations

from typing import NamedTuple

from rbee_worker.server.problems import Refusal
from rbee_worker.server.worker import Worker


class ServedModel(NamedTuple):
    """One served model. names: all that clients may call it by; answers show the first."""

    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.names[0]


def served_models(worker: Worker) -> tuple[ServedModel, ...]:
    """Every served model, the base model first."""
    return (ServedModel(listed_names(worker)),)


def listed_names(worker: Worker) -> tuple[str, ...]:
    """The base model's names: those of --served-model-name, or else its reference."""
    return worker.settings.served_names or (worker.settings.model,)


def served_model(worker: Worker, asked: str | None) -> ServedModel:
    """The model of this name; the base model if none is asked for. Raises Refusal 404.

    The base model's reference is a name too, even where --served-model-name keeps it off the list:
    orchestrators know it by that.
    """
    models = served_models(worker)
    base = models[0]
    if asked is None or asked == worker.settings.model:
        return base
    if worker.model is not None and asked == worker.model.model:
        return base
    for model in models:
        if asked in model.names:
            return model
    raise Refusal(
        404,
        "model_not_found",
        "The model does not exist here.",
        fix=f"this worker serves {base.name}; GET /v1/models lists all names.",
        param="model",
    )
