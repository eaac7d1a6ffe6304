"""Removing a model from the cache: its own files, and what only they needed.

In Hugging Face's cache the files of a snapshot are links to blobs, which several snapshots may
share; a blob is removed with its last link.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rbee_worker.checkpoint import hf_cache, hub, pypi, refs
from rbee_worker.checkpoint.cache import cache_root, disk_errors, exclusive, silent
from rbee_worker.checkpoint.refs import LocalModel
from rbee_worker.checkpoint.weight_files import parts_of
from rbee_worker.errors import BadReference


def find(ref: str, cache_dir: str = "") -> LocalModel:
    """The model in the cache that `ref` names. Raises BadReference, also for a path: files that
    nobody downloaded are not ours to remove."""
    found = refs.list_models(cache_dir)
    for model in found:
        if model.ref == ref:
            return model
    meant = refs.parse(ref)
    if isinstance(meant, Path):
        raise BadReference(
            f"{ref}: a file of your own, not one of the cache.", fix="remove it yourself"
        )
    root = cache_root(cache_dir)
    if isinstance(meant, hub.HubModel):
        store = hub.store_of(cache_dir, root)
        path = hub.local(meant, root, store) or hub.usable(meant, store)
    else:
        path = pypi.local(meant, root)
    for model in found:
        if model.path == path:
            return model
    raise BadReference(
        f"{ref}: not among the models on this machine.", fix="rbee-worker models lists them"
    )


def remove(model: LocalModel, cache_dir: str = "") -> int:
    """Remove the model; returns the bytes that this frees. Raises ModelError."""
    root = cache_root(cache_dir)
    packages = root / "pypi"
    with disk_errors(model.path):
        if packages in model.path.parents:
            with exclusive(root, model.path.parts[-3], silent):
                return _remove_package(model.path, packages)
        with exclusive(root, "hf", silent):
            freed = _remove_snapshot(model.path)
            hub.forget(model.ref, root)
            return freed


def _remove_package(path: Path, packages: Path) -> int:
    """A file of a wheel, and the folders of its version and package once they are empty."""
    freed = path.stat().st_size
    path.unlink()
    for folder in (path.parent, path.parent.parent):
        if folder != packages and not any(folder.iterdir()):
            folder.rmdir()
    return freed


def _remove_snapshot(path: Path) -> int:
    """A snapshot, or one model file of a snapshot with its other parts."""
    snapshot = path if path.is_dir() else path.parent
    while snapshot.parent.name != "snapshots":
        snapshot = snapshot.parent
    folder = snapshot.parent.parent
    assert hf_cache.is_repository(folder), folder
    if path.is_dir():
        files = [file for file in path.rglob("*") if not file.is_dir()]
    else:
        files = [path.with_name(part) for part in parts_of(path.name)]
    blobs = {file.resolve() for file in files}
    for file in files:
        file.unlink(missing_ok=True)
    used = {file.resolve() for file in folder.glob("snapshots/*/**/*") if file.is_symlink()}
    freed = 0
    for blob in blobs - used:
        if blob.is_file():
            freed += blob.stat().st_size
            blob.unlink()
    if not any(file.is_symlink() or file.is_file() for file in snapshot.rglob("*")):
        shutil.rmtree(snapshot)
    if not any(snapshot.parent.iterdir()):
        shutil.rmtree(folder)
    return freed
