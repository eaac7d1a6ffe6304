"""Ollama's names of models: `name` and `name:latest` are the same."""

from __future__ import annotations

from rbee_worker.server.problems import Refusal
from rbee_worker.server.served_models import ServedModel, served_model
from rbee_worker.server.worker import Worker

_TAG = ":latest"


def named(worker: Worker, asked: str | None) -> ServedModel:
    """The served model of this name. Raises Refusal 404."""
    if asked is not None and asked.endswith(_TAG):
        try:
            return served_model(worker, asked)
        except Refusal:
            asked = asked.removesuffix(_TAG)
    return served_model(worker, asked)
