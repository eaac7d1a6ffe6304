"""The models that a worker serves, by the names that clients may call them by.

Every route reads `model` here and nowhere else: a name stands for the base model, or for the base
model with an adapter. The adapter is kept in a context variable for the jobs that the route begins,
so no route can forget it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from rbee_worker.server.problems import Refusal

if TYPE_CHECKING:
    from rbee_worker.server.worker import Worker

_CHOSEN: ContextVar[str] = ContextVar("rbee_chosen_adapter", default="")


class ServedModel(NamedTuple):
    """One served model. names: all that clients may call it by; answers show the first. adapter:
    the name of the adapter that it is, "" for the base model."""

    names: tuple[str, ...]
    adapter: str = ""

    @property
    def name(self) -> str:
        return self.names[0]


def served_models(worker: Worker) -> tuple[ServedModel, ...]:
    """Every served model, the base model first."""
    adapters = () if worker.engine is None else worker.engine.adapters.infos
    others = (ServedModel((info.name,), info.name) for info in adapters)
    return (ServedModel(listed_names(worker)), *others)


def listed_names(worker: Worker) -> tuple[str, ...]:
    """The base model's names: those of --served-model-name, or else its reference."""
    return worker.settings.served_names or (worker.settings.model,)


def base_names(worker: Worker) -> tuple[str, ...]:
    """All names of the base model. Its reference is one even where --served-model-name keeps it off
    the list: orchestrators know it by that."""
    loaded = () if worker.model is None else (worker.model.model,)
    return (*listed_names(worker), worker.settings.model, *loaded)


def served_model(worker: Worker, asked: str | None) -> ServedModel:
    """The model of this name; the base model if none is asked for. The jobs that begin in this
    context are answered by it. Raises Refusal 404."""
    models = served_models(worker)
    base = models[0]
    if asked is None or asked in base_names(worker):
        _CHOSEN.set("")
        return base
    for model in models:
        if asked in model.names:
            _CHOSEN.set(model.adapter)
            return model
    raise Refusal(
        404,
        "model_not_found",
        "The model does not exist here.",
        fix=f"this worker serves {base.name}; GET /v1/models lists all names.",
        param="model",
    )


def chosen_adapter() -> str:
    """The adapter that the request under way has asked for by its model's name."""
    return _CHOSEN.get()
