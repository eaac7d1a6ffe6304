"""`rbee-worker inspect`: what a model is and what it needs here; loads no weights, nor torch."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from rbee_worker.cli.terminal import Status, dim, download_progress, visible
from rbee_worker.config import Settings


def inspect(
    settings: Settings,
    ref: Annotated[
        str | None, typer.Argument(help="the model (default: RBEE_MODEL, else smollm2)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """What a model is and what it needs here; loads no weights."""
    from rbee_worker.cli.report import lines, report

    status = Status()
    try:
        found = report(settings, download_progress(status.show))
    finally:
        status.clear()
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    for label, text in lines(found):
        sys.stdout.write(f"{dim(f'{label:<14}', sys.stdout)} {visible(text)}\n")
