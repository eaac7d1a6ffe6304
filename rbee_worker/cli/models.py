"""`rbee-worker models`: lists the models in the cache."""

from __future__ import annotations

import sys

from rbee_worker.cli.terminal import aside, dim, flat, size
from rbee_worker.config import Settings


def models(settings: Settings) -> None:
    """List the models on this machine, each with the reference that names it."""
    from rbee_worker.checkpoint import refs

    found = refs.list_models(settings.cache_dir)
    if not found:
        aside("No models yet. Fetch one: rbee-worker pull smollm2")
        return
    wide = max(len(model.ref) for model in found)
    for model in found:
        where = dim(flat(str(model.path)), sys.stdout)
        sys.stdout.write(f"{flat(model.ref):<{wide}}  {size(model.nbytes):>9}  {where}\n")
