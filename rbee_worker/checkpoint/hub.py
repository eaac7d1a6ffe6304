"""Models on the Hugging Face hub: which files a model needs, and their download into the cache.

Pickles are never downloaded. huggingface_hub resumes downloads, verifies checksums and handles
credentials.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from rbee_worker.checkpoint import hf_cache, lacking
from rbee_worker.checkpoint.cache import (
    POLL_SECONDS,
    Progress,
    disk_errors,
    exclusive,
    need_space,
    silent,
    staged,
)
from rbee_worker.checkpoint.weight_files import parts_of
from rbee_worker.errors import BadReference, ModelError

# The files of a model directory; others, and those in subfolders of the repository (but those
# of sentence-transformers' steps), are not fetched.
_WANTED = re.compile(
    r"(?!consolidated)[^/]+\.safetensors|[^/]+\.json|[^/]+\.jinja|tokenizer[^/]*\.model|"
    r"(?:sentencepiece[^/]*|spiece)\.model|merges\.txt|vocab\.txt|rwkv_vocab_v\d+\.txt|"
    r"[^/]+\.tiktoken|\d+_\w+/(?:config\.json|model\.safetensors)"
)


@dataclass(frozen=True)
class HubModel:
    """`owner/repo` at a revision ("" = the default branch): a whole model, or one .gguf file."""

    repo: str
    revision: str = ""
    file: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{revision}" + (f":{self.file}" if self.file else "")


def store_of(cache_dir: str, root: Path) -> Path:
    """Where downloads go: into Hugging Face's own cache, so that nothing is downloaded twice,
    unless the user has chosen a directory."""
    return root / "hf" if cache_dir else hf_cache.cache_root()


def local(model: HubModel, root: Path, store: Path) -> Path | None:
    """The model's path if it is complete on this machine, whoever downloaded it; None otherwise."""
    for receipt in (_receipt(model, root), _old_receipt(model, root)):
        ref, path = _read_receipt(receipt)
        if ref == str(model) and path is not None and not lacking.listed(path):
            return path
    path = usable(model, store)
    return None if path is None or lacking.listed(path) or lacking.in_doubt(path) else path


def usable(model: HubModel, store: Path) -> Path | None:
    """The model's path if a cache has it, even if files may be lacking that say how vectors are
    made."""
    for place in dict.fromkeys((hf_cache.cache_root(), store)):
        if path := hf_cache.found(model.repo, model.revision, model.file, place):
            return path
    return None


def models(root: Path, cache_dir: str) -> list[tuple[str, Path]]:
    """(reference, path) of every complete hub model on this machine."""
    found: dict[str, Path] = {}
    for file in sorted((root / "hf" / "pulled").glob("*.json")):
        ref, path = _read_receipt(file)
        if path is not None:
            found[ref] = path
    if not cache_dir:
        for repo, path in hf_cache.whole_models(hf_cache.cache_root()):
            found.setdefault(f"hf:{repo}", path)
    return [*found.items()]


def fetch(
    model: HubModel,
    root: Path,
    store: Path,
    progress: Progress = silent,
    *,
    refresh: bool = False,
) -> Path:
    """The model's directory or file, downloaded into `store` unless a complete copy is here.

    refresh: ask the hub whether the revision has moved. Raises BadReference, ModelError (disk).
    """
    with exclusive(root, "hf", progress):
        found = local(model, root, store)
        if found and (not refresh or hf_cache.offline()):
            return found
        partial = None if refresh else usable(model, store)
        if partial is not None and hf_cache.offline() and not lacking.listed(partial):
            return partial  # `open_found` tells what may be lacking
        try:
            with _hub_errors(model):
                path = _fetch(model, store, progress)
        except ModelError as error:
            missing = [] if partial is None else lacking.listed(partial)
            if missing and isinstance(error, BadReference):
                raise _incomplete(model, missing, error) from None
            if partial is None or missing:
                raise
            return partial
        receipt = _receipt(model, root)
        with disk_errors(receipt), staged(receipt) as staging:
            staging.write_text(json.dumps({"ref": str(model), "path": str(path)}))
        return path


def _incomplete(model: HubModel, missing: list[str], error: BadReference) -> BadReference:
    """The error for a snapshot that lacks what its own modules.json lists."""
    why = error.message.removeprefix(f"{model}: ").partition(" Fix: ")[0].rstrip(".")
    return BadReference(
        f"{model}: the copy on this machine lacks {', '.join(missing[:3])}, and cannot be "
        f"completed: {why[:160]}.",
        fix="go online once, or give the path of a model that is complete",
    )


def _fetch(model: HubModel, cache: Path, progress: Progress) -> Path:
    # Imported late: the import takes a second, and downloads are rare.
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(model.repo, revision=model.revision or None, files_metadata=True)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    names = _choose(model, sizes)
    total = sum(sizes[name] for name in names)
    there = hf_cache.folder_of(model.repo, cache) / "snapshots" / str(info.sha)
    missing = sum(sizes[name] for name in names if not (there / name).is_file())
    need_space(cache, missing, str(model))
    blobs = hf_cache.folder_of(model.repo, cache) / "blobs"
    with _watched(blobs, f"fetching {model}", total, progress):
        # One at a time: each transfer uses the full bandwidth, and Ctrl-C ends it at once.
        paths = [
            Path(hf_hub_download(model.repo, name, revision=info.sha, cache_dir=cache))
            for name in names
        ]
    _remember(model, str(info.sha), cache)
    if model.file:
        return paths[0]
    folder = paths[0].parents[names[0].count("/")]
    if lacking.MODULES not in names:
        lacking.note_absence(folder)
    return folder


def _remember(model: HubModel, commit: str, cache: Path) -> None:
    """Store which commit the branch points to, where other programs look while offline."""
    branch = model.revision or "main"
    if branch == commit:
        return
    note = hf_cache.folder_of(model.repo, cache) / "refs" / branch
    with staged(note) as partial:
        partial.write_text(commit)


def _choose(model: HubModel, sizes: dict[str, int]) -> list[str]:
    """The files to fetch. Raises BadReference if the repository lacks them."""
    ggufs = sorted(name for name in sizes if name.endswith(".gguf"))
    if model.file:
        if model.file not in ggufs:
            held = ", ".join(ggufs[:8]) or "none"
            raise BadReference(
                f"{model}: the repository has no such GGUF file (it has: {held}).",
                fix="name one of its .gguf files, or no file for a safetensors model",
            )
        return _parts(model, ggufs)
    names = sorted(name for name in sizes if _WANTED.fullmatch(name))
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        fix = f"name a file: {model}:{ggufs[0]}" if ggufs else "use a repository with safetensors"
        raise BadReference(f"{model}: the repository has no safetensors weights.", fix=fix)
    return names


def _parts(model: HubModel, ggufs: list[str]) -> list[str]:
    """The requested file first, then the other parts of a model that is split into several files.

    Raises BadReference if the repository lacks a part.
    """
    folder, _, name = model.file.rpartition("/")
    parts = [f"{folder}/{part}" if folder else part for part in parts_of(name)]
    if missing := [part for part in parts if part not in ggufs]:
        raise BadReference(
            f"{model}: the repository lacks {len(missing)} of the model's {len(parts)} files "
            f"({missing[0]}).",
            fix="use another version of the model",
        )
    return [model.file, *(part for part in parts if part != model.file)]


@contextmanager
def _watched(blobs: Path, what: str, total: int, progress: Progress) -> Iterator[None]:
    """Report how many bytes have arrived in `blobs` while the block runs.

    Counts bytes on the disk, because the hub's own progress bars differ between its versions.
    """
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    ended = Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            progress(what, min(_held(blobs), total), total)

    quiet_before = are_progress_bars_disabled()
    watcher = Thread(target=watch, daemon=True)
    progress(what, 0, total)
    if not quiet_before:
        disable_progress_bars()
    watcher.start()
    try:
        yield
        progress(what, total, total)
    finally:
        ended.set()
        watcher.join()
        if not quiet_before:
            enable_progress_bars()


def _held(directory: Path) -> int:
    """The total size of the files in a directory. Files may vanish during the count."""
    held = 0
    for file in directory.glob("*"):
        with suppress(OSError):
            held += file.stat().st_size
    return held


@contextmanager
def _hub_errors(model: HubModel) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except errors.GatedRepoError:
        raise BadReference(
            f"{model}: its owner must grant access to it.",
            fix="accept its terms on huggingface.co, then set HF_TOKEN",
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise BadReference(
            f"{model}: no such repository, or it is private.",
            fix="check the name; for a private repository set HF_TOKEN",
        ) from None
    except errors.RevisionNotFoundError:
        raise BadReference(f"{model}: no such revision.", fix="check the part after @") from None
    except errors.OfflineModeIsEnabled:
        raise BadReference(
            f"{model}: HF_HUB_OFFLINE is set, and no complete copy is on this machine.",
            fix="unset HF_HUB_OFFLINE to go online, or give the path of a model that is here",
        ) from None
    # The hub's HTTP library and its transfer library raise errors of their own, of many classes.
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise BadReference(
            f"{model}: the Hugging Face hub cannot be reached ({said[0][:200]}).",
            fix="go online, or give the path of a model that is on this machine",
        ) from None


def forget(ref: str, root: Path) -> None:
    """Remove the records of downloads of `ref`."""
    for receipt in (root / "hf" / "pulled").glob("*.json"):
        try:
            recorded = json.loads(receipt.read_bytes())["ref"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if recorded == ref:
            receipt.unlink(missing_ok=True)


def _receipt(model: HubModel, root: Path) -> Path:
    """The file that records a download. The digest in its name gives each reference its own
    file."""
    old = _old_receipt(model, root)
    digest = hashlib.sha256(str(model).encode()).hexdigest()[:16]
    return old.with_name(f"{old.stem[:100]}-{digest}.json")


def _old_receipt(model: HubModel, root: Path) -> Path:
    """The record's earlier location. Two references could share it, so callers check its
    content."""
    name = re.sub(r"[^A-Za-z0-9._-]", "--", str(model).removeprefix("hf:"))
    return root / "hf" / "pulled" / f"{name}.json"


def _read_receipt(file: Path) -> tuple[str, Path | None]:
    """(reference, path). The path is None if it no longer exists, is a folder without weights (that
    of a step, once) or the record is unreadable."""
    try:
        receipt = json.loads(file.read_bytes())
        ref, path = str(receipt["ref"]), Path(receipt["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", None
    return ref, path if path.is_file() or any(path.glob("*.safetensors")) else None
