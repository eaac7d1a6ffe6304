"""An opened model: its config, tensors and tokenizer files, whichever kind of file it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rbee_worker.checkpoint import (
    base_model,
    foreign,
    hf_config,
    hf_named,
    limits,
    mapped,
    safetensors,
    scaled,
    tied,
)
from rbee_worker.checkpoint.colours import with_colours
from rbee_worker.checkpoint.formats import DECODABLE, INTEGERS, TensorSource
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.gguf_split import open_gguf
from rbee_worker.checkpoint.mmproj import with_tower
from rbee_worker.checkpoint.names import TOKENIZER_KEYS, Architecture
from rbee_worker.checkpoint.processor import NONE, ProcessorFiles, read_processor
from rbee_worker.checkpoint.reading import inside, read_json, read_text
from rbee_worker.checkpoint.renamed import RenamedSource
from rbee_worker.checkpoint.sentence import UNSAID, Sentence, read_sentence
from rbee_worker.checkpoint.tokenizer_files import tokenizer_files
from rbee_worker.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """An opened model. `config` is in canonical form (see `hf_config`), and tensor names are HF's
    for both kinds of files. gguf: the file whose metadata says what the model is; None where
    config.json does (safetensors, and GGUF files of `hf_named`)."""

    ref: str  # as the user wrote it
    path: Path
    kind: Literal["safetensors", "gguf"]
    arch: str  # HF's model_type
    config: dict[str, Any]
    generation: dict[str, Any]  # generation_config.json ({} when absent)
    source: TensorSource
    tokenizer_config: dict[str, Any]
    files: dict[str, Path]  # see `tokenizer_files`
    gguf: GgufFile | None
    notes: tuple[str, ...]  # warnings for the user
    sentence: Sentence = UNSAID  # how vectors are made of texts, as far as its files say
    headless: bool = False  # a decoder without an output head: it gives vectors only
    tower: Path | None = None  # the file of what reads pictures, if that is another one
    processor: ProcessorFiles = NONE  # how pictures become its input


def open_checkpoint(
    ref: str,
    *,
    cache_dir: str = "",
    progress: Callable[[str, int, int], None] | None = None,
    mmproj: str = "",
) -> Checkpoint:
    """Find `ref` (downloading it if it is remote) and check all headers, without reading weights.

    progress(what, done, total bytes). mmproj: see `open_found`. Raises BadReference,
    CheckpointError, UnsupportedModel.
    """
    from rbee_worker.checkpoint.refs import (
        resolve,  # imported late: the engine is given a path and needs none of this
    )

    return open_found(ref, resolve(ref, cache_dir=cache_dir, progress=progress), mmproj)


def open_found(ref: str, path: Path, mmproj: str = "") -> Checkpoint:
    """Open the path that `ref` resolved to. mmproj: the path of a GGUF model's tower; "": one that
    lies beside it, "none": none. Raises CheckpointError, UnsupportedModel, UsageError."""
    found = _open_directory(ref, path) if path.is_dir() else _open_gguf(ref, path)
    found = with_tower(found, mmproj)
    limits.check_ranges(found.config, str(path))
    return found


def _open_gguf(ref: str, path: Path) -> Checkpoint:
    file = open_gguf(path)
    if hf_named.is_hf_named(file):
        source, notes = hf_named.HfNamedSource(file), _undecodable(file)
        return _described(ref, path, hf_named.folder_of(path), source, notes)
    row = mapped.architecture_of(file)
    arch, config = mapped.read_config(file, row)
    return Checkpoint(
        ref=ref,
        path=path,
        kind="gguf",
        arch=arch,
        config=config,
        generation=mapped.read_sampling(file),
        source=mapped.GgufSource(file, row.tensors, config),
        tokenizer_config=mapped.read_keys(file, TOKENIZER_KEYS),
        files={},
        gguf=file,
        notes=_notes(file, row) + _undecodable(file),
        sentence=mapped.read_sentence(file),
    )


def _notes(file: GgufFile, row: Architecture) -> tuple[str, ...]:
    """Warnings about a file that opens but cannot be used in full."""
    unused = mapped.unused_keys(file, row)
    return (f"metadata keys that nothing reads: {', '.join(unused[:20])}",) if unused else ()


def _undecodable(file: GgufFile) -> tuple[str, ...]:
    formats = sorted({t.format for t in file.tensors.values()} - DECODABLE - INTEGERS)
    note = f"weights in {', '.join(formats)}, which cannot be computed with yet"
    return (note,) if formats else ()


def _open_directory(ref: str, path: Path) -> Checkpoint:
    foreign.refuse_directory(path)
    if not (path / "config.json").is_file() and list(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path}: has no config.json.", fix="fetch config.json of the model as well"
        )
    tensors, notes = safetensors.open_directory(path)
    return _described(ref, path, path, tensors, notes)


def _described(
    ref: str, path: Path, folder: Path, tensors: TensorSource, notes: tuple[str, ...]
) -> Checkpoint:
    """A model whose weights are at `path`, and which the files in `folder` describe."""
    arch, config, dialect = hf_config.read_config(inside(folder, folder / "config.json"))
    foreign.refuse_quantized(config, tensors, str(path))
    config = scaled.without_known_quantization(config, str(path))
    processor = read_processor(folder)
    config = with_colours(config, processor.image)
    source: TensorSource = tensors
    if isinstance(tensors, safetensors.SafetensorsSource):
        source = scaled.joined(tensors)
    if dialect is not None and (dialect.tensors or dialect.prefixes):
        source = RenamedSource(source, dialect, config.get("num_hidden_layers"))
    config, source, headless = base_model.completed(config, source)
    config, source, more = tied.settle(arch, config, source)
    files = tokenizer_files(folder)
    tokenizer_config = _optional(folder, "tokenizer_config.json")
    if "chat_template.jinja" in files:
        tokenizer_config["chat_template"] = read_text(files["chat_template.jinja"])
    return Checkpoint(
        ref=ref,
        path=path,
        kind="safetensors" if path == folder else "gguf",
        arch=arch,
        config=config,
        generation=_optional(folder, "generation_config.json"),
        source=source,
        tokenizer_config=tokenizer_config,
        files=files,
        gguf=None,
        notes=notes + more,
        sentence=read_sentence(folder),
        headless=headless,
        processor=processor,
    )


def _optional(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    return read_json(inside(directory, path)) if path.is_file() else {}
