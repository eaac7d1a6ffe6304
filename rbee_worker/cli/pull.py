"""`rbee-worker pull`: fetch a model into the cache and say what was fetched."""

from __future__ import annotations

import sys

from typing import Annotated

import typer

from rbee_worker.config import Settings


def pull(
    settings: Settings,
    ref: Annotated[str | None, typer.Argument(help="what to fetch (default: smollm2)")] = None,
) -> None:
    """Fetch a model, check it, print where it lies."""
