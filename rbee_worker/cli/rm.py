"""`rbee-worker rm`: removes models from the cache."""

from __future__ import annotations

import sys

import click

from rbee_worker.cli.terminal import flat, size
from rbee_worker.config import Settings


@click.argument("refs", nargs=-1, required=True, metavar="MODEL...", help="as `models` lists them")
def rm(settings: Settings, refs: tuple[str, ...]) -> None:
    """Remove downloaded models; files of your own are never touched."""
    from rbee_worker.checkpoint import removing

    for found in [removing.find(ref, settings.cache_dir) for ref in refs]:  # all, or none
        nbytes = removing.remove(found, settings.cache_dir)
        sys.stdout.write(f"{flat(found.ref)}  {size(nbytes)} freed\n")
