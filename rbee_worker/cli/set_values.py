"""What `/set` of a conversation takes: names and values that a request to this model may have."""

from __future__ import annotations

from typing import Any

from rbee_worker import params
from rbee_worker.errors import InvalidRequest, UsageError
from rbee_worker.params.parameter import REST
from rbee_worker.params.resolve import CHAT_DEFAULT

# Reports that a conversation in the terminal does not show.
UNSHOWN = ("echo", "logprobs")


def settable() -> list[str]:
    """The names, in the table's order."""
    names = [option.parameter.name for option in params.options()]
    return [name for name in names if name not in UNSHOWN]


def defaults(rules: params.Rules) -> dict[str, dict[str, Any]]:
    """The value and origin of each parameter that is not set."""
    found = params.defaults_of(rules, "generate", chat=True)
    length = found["max_tokens"]
    if length["origin"] == CHAT_DEFAULT:
        length["value"] = REST
    return {name: found[name] for name in settable()}


def read(name: str, text: str | list[str], rules: params.Rules) -> Any:
    """The value that `text` stands for. Raises UsageError, also for one that is out of range."""
    if name in UNSHOWN:
        raise UsageError(
            f"{name} shows nothing in a conversation.", fix="rbee-worker generate --json has it."
        )
    value = params.from_text(name, text)
    check({name: value}, rules)
    return value


def check(values: dict[str, Any], rules: params.Rules) -> None:
    """Raises UsageError for values that no request to this model may have."""
    try:
        params.resolve(
            values,
            surface="generate",
            vocab_size=rules.vocab_size,
            context=rules.context,
            worker=rules.worker,
            generation=rules.generation,
            chat=True,
        )
    except InvalidRequest as error:
        said = "; ".join(f"{fault.field}: {fault.message}" for fault in error.errors)
        raise UsageError(f"{said}.", fix="/set lists what there is.") from None
