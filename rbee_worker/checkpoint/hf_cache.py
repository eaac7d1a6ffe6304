"""Hugging Face's own cache on this machine: where it is, and which of its models are complete.

Layout: `models--owner--name/{blobs,refs,snapshots/<commit>}`. The files of a snapshot are links to
blobs. A snapshot may be incomplete: a program that needed one file fetched only that file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from rbee_worker.checkpoint.tokenizer_files import has_vocabulary
from rbee_worker.checkpoint.weight_files import INDEX, SINGLE
from rbee_worker.errors import BadReference, CheckpointError
from rbee_worker.machine import user_cache

_PREFIX = "models--"


def cache_root() -> Path:
    """Where huggingface_hub keeps models: HF_HUB_CACHE, HF_HOME/hub, or the default directory."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if given := os.environ.get(name):
            return Path(os.path.expanduser(os.path.expandvars(given)))
    home = os.environ.get("HF_HOME")
    if not home and (base := os.environ.get("XDG_CACHE_HOME")):
        home = os.path.join(base, "huggingface")
    if not home:
        return user_cache() / "huggingface" / "hub"
    return Path(os.path.expanduser(os.path.expandvars(home))) / "hub"


def offline() -> bool:
    """Whether the user has told huggingface_hub not to use the network."""
    said = (os.environ.get(n, "").upper() for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value in ("1", "ON", "YES", "TRUE") for value in said)


def folder_of(repo: str, store: Path) -> Path:
    """The folder of the model `owner/name` in a cache."""
    return store / f"{_PREFIX}{repo.replace('/', '--')}"


def found(repo: str, revision: str, file: str, store: Path) -> Path | None:
    """A model (or its file `file`) that can be used at `revision`; "" means the default branch.
    See `lacking` for what it may lack."""
    folder = folder_of(repo, store)
    snapshot = _snapshot(folder, revision or "main")
    if snapshot is None:
        return None
    if file:
        return snapshot / file if (snapshot / file).is_file() else None
    return snapshot if is_whole(snapshot) else None


def is_repository(path: Path) -> bool:
    """Whether `path` is one model's folder in such a cache, with snapshots inside."""
    return path.name.startswith(_PREFIX) and (path / "snapshots").is_dir()


def current(folder: Path) -> Path:
    """The snapshot that the default branch points to, or the only one.

    Raises BadReference.
    """
    snapshot = _snapshot(folder, "main")
    all_of_them = sorted(p for p in (folder / "snapshots").iterdir() if p.is_dir())
    if snapshot is None and len(all_of_them) == 1:
        snapshot = all_of_them[0]
    if snapshot is None:
        names = ", ".join(p.name for p in all_of_them[:3]) or "none"
        raise BadReference(
            f"{folder}: no branch says which snapshot to use (available: {names}).",
            fix=f"give one: {folder}/snapshots/...",
        )
    return snapshot


def whole_models(store: Path) -> Iterator[tuple[str, Path]]:
    """(owner/name, snapshot) of every complete safetensors model in a cache."""
    for folder in sorted(store.glob(f"{_PREFIX}*--*")):
        snapshot = _snapshot(folder, "main")
        if snapshot is not None and is_whole(snapshot):
            yield folder.name.removeprefix(_PREFIX).replace("--", "/", 1), snapshot


def is_whole(snapshot: Path) -> bool:
    """Whether a snapshot has its config, its vocabulary and every weight file."""
    if not (snapshot / "config.json").is_file():
        return False
    try:
        if not has_vocabulary(snapshot):
            return False
    except CheckpointError:
        return False
    if (snapshot / SINGLE).is_file():
        return True
    try:
        index = json.loads((snapshot / INDEX).read_bytes())
        names = {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(names) and all("/" not in n and (snapshot / n).is_file() for n in names)


def _snapshot(folder: Path, revision: str) -> Path | None:
    """The snapshot of a branch, tag or commit, if the cache has it."""
    if ".." in revision or revision.startswith("/"):
        return None
    try:
        commit = (folder / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if "/" not in commit and commit and snapshot.is_dir() else None


def repository_of(path: Path) -> str:
    """owner/name of the model that a snapshot in such a cache is of; "" for any other path."""
    folder = path.parent.parent
    if path.parent.name != "snapshots" or not folder.name.startswith(_PREFIX):
        return ""
    return folder.name.removeprefix(_PREFIX).replace("--", "/", 1)
