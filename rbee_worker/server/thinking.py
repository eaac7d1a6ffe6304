"""Reasoning switched on or off, as APIs ask for it that do not know how a model is told."""

from __future__ import annotations

from rbee_worker.errors import FieldError
from rbee_worker.params import Rules, switch_of
from rbee_worker.types import Request


def switched(field: str, on: bool, rules: Rules, faults: list[FieldError]) -> bool | None:
    """The value for the template's switch, None if it has none; a fault where it says nothing, or
    cannot be had."""
    if switch_of(rules.template_for(Request(id=""))) is not None:
        return on
    if not on and rules.form.reasons:
        message = "this model's chat template cannot switch reasoning off"
        faults.append(FieldError(field, "reasoning", message))
    if on and not rules.form.reasons:
        message = "means nothing here: no marks of reasoning are known for this model"
        faults.append(FieldError(field, "no reasoning", message))
    return None
