"""Settings whose other files (adapters, a draft model, a tower) are paths on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from rbee_worker.adapter_spec import AdapterSpec, parse_specs, written
from rbee_worker.checkpoint.mmproj import NONE
from rbee_worker.checkpoint.refs import resolve
from rbee_worker.config import Settings

Progress = Callable[[str, int, int], None]


def localized(settings: Settings, progress: Progress | None = None) -> Settings:
    """The settings with every reference to another file than the model's as a path, downloaded
    first if it is remote. Raises BadReference, CheckpointError, ModelError."""
    settings = with_local_tower(settings, progress)
    if settings.draft_model:
        path = resolve(settings.draft_model, cache_dir=settings.cache_dir, progress=progress)
        settings = replace(settings, draft_model=str(path.absolute()))
    if not settings.lora:
        return settings
    specs = [local_spec(s, settings.cache_dir, progress) for s in parse_specs(settings.lora)]
    return replace(settings, lora=written(specs))


def with_local_tower(settings: Settings, progress: Progress | None = None) -> Settings:
    """The settings with --mmproj as a path, if it is a reference. Raises as `localized` does."""
    if settings.mmproj in ("", NONE):
        return settings
    path = resolve(settings.mmproj, cache_dir=settings.cache_dir, progress=progress)
    return replace(settings, mmproj=str(path.absolute()))


def local_spec(spec: AdapterSpec, cache_dir: str, progress: Progress | None = None) -> AdapterSpec:
    """The same for one adapter."""
    path: Path = resolve(spec.ref, cache_dir=cache_dir, progress=progress)
    return replace(spec, ref=str(path.absolute()))
