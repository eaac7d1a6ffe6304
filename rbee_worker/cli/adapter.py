"""Which adapter a command uses that asks one model one thing."""

from __future__ import annotations

from rbee_worker.adapter_spec import parse_specs
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError


def only_adapter(settings: Settings) -> str:
    """The name of the adapter of --lora, which then answers; "" without. Raises UsageError for
    several."""
    specs = parse_specs(settings.lora)
    if len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(
            f"--lora is given {len(specs)} times ({names[:80]}), and this command uses one.",
            fix="give one; serve takes several.",
        )
    return specs[0].name if specs else ""


def refuse_adapters(settings: Settings, command: str) -> None:
    """Raise UsageError for a command that works on the model alone."""
    if settings.lora:
        raise UsageError(f"{command} takes no --lora.", fix="leave it out.")
