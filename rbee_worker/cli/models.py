"""`rbee-worker models`: lists the models in the cache."""

from __future__ import annotations

import json
import sys

import click

from rbee_worker.cli.terminal import aside, dim, flat, size
from rbee_worker.config import Settings


@click.option("--json", "as_json", is_flag=True, help="print one JSON array")
def models(settings: Settings, as_json: bool) -> None:
    """List the models on this machine.

    Each with the reference that names it, its size and its path.
    """
    from rbee_worker.checkpoint import refs

    found = refs.list_models(settings.cache_dir)
    if as_json:
        rows = [{"ref": m.ref, "path": str(m.path), "bytes": m.nbytes} for m in found]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    if not found:
        aside("No models yet. Fetch one: rbee-worker pull smollm2")
        return
    wide = max(len(model.ref) for model in found)
    for model in found:
        where = dim(flat(str(model.path)), sys.stdout)
        sys.stdout.write(f"{flat(model.ref):<{wide}}  {size(model.nbytes):>9}  {where}\n")
