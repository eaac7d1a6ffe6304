"""Opens a model: its config, tensors and tokenizer files, whichever kind of file it is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint import (
    base_model,
    foreign,
    hf_config,
    hf_named,
    lacking,
    limits,
    mapped,
    own_code,
    safetensors,
    scaled,
    stages,
    tied,
)
from rbee_worker.checkpoint.checkpoint import Checkpoint
from rbee_worker.checkpoint.colours import with_colours
from rbee_worker.checkpoint.formats import DECODABLE, INTEGERS, TensorSource
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.gguf_split import open_gguf
from rbee_worker.checkpoint.mmproj import with_tower
from rbee_worker.checkpoint.names import TOKENIZER_KEYS, Architecture
from rbee_worker.checkpoint.processor import read_processor
from rbee_worker.checkpoint.reading import inside, read_json, read_text
from rbee_worker.checkpoint.renamed import RenamedSource
from rbee_worker.checkpoint.sentence import read_sentence
from rbee_worker.checkpoint.tokenizer_files import tokenizer_files
from rbee_worker.errors import CheckpointError


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
    found = own_code.completed(with_tower(found, mmproj))
    limits.check_ranges(found.config, str(path))
    return found


def _open_gguf(ref: str, path: Path) -> Checkpoint:
    file = open_gguf(path)
    if hf_named.is_hf_named(file):
        source, notes = hf_named.HfNamedSource(file), _undecodable(file)
        speaks = stages.is_first(file.tensors)
        folder = path.parent if speaks else hf_named.folder_of(path)
        return _described(ref, path, folder, source, notes)
    row = mapped.architecture_of(file)
    arch, config = mapped.read_config(file, row)
    sentence = mapped.read_sentence(file)
    return Checkpoint(
        ref=ref,
        path=path,
        kind="gguf",
        arch=arch,
        config=config,
        generation=mapped.read_sampling(file),
        source=mapped.GgufSource(
            file, row.tensors, config, but=[one.weight for one in sentence.dense]
        ),
        tokenizer_config=mapped.read_keys(file, TOKENIZER_KEYS),
        files={},
        gguf=file,
        notes=_notes(file, row) + _undecodable(file),
        sentence=sentence,
    )


def _notes(file: GgufFile, row: Architecture) -> tuple[str, ...]:
    """Warnings about a file that opens but cannot be used in full."""
    unused = mapped.unused_keys(file, row)
    notes = (f"metadata keys that nothing reads: {', '.join(unused[:20])}",) if unused else ()
    lacking = (why for name, why in row.usual.items() if name not in file.tensors)
    return (*notes, *lacking)


def _undecodable(file: GgufFile) -> tuple[str, ...]:
    formats = sorted({t.format for t in file.tensors.values()} - DECODABLE - INTEGERS)
    note = f"weights in {', '.join(formats)}, which cannot be computed with yet"
    return (note,) if formats else ()


def _open_directory(ref: str, path: Path) -> Checkpoint:
    foreign.refuse_directory(path)
    if stages.is_directory(path):
        return _described(ref, path, path, stages.open_first(path), ())
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
    speaks = stages.is_first(tensors.names())
    dialect = None
    if speaks and not (folder / "config.json").is_file():
        arch, config = stages.ARCH, stages.read_shapes(tensors, str(path))
    else:
        arch, config, dialect = hf_config.read_config(inside(folder, folder / "config.json"))
    if speaks:
        config = {**config, "eos_token_id": stages.END_OF_AUDIO}
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
    generation = _optional(folder, "generation_config.json")
    files = tokenizer_files(folder)
    tokenizer_config = _optional(folder, "tokenizer_config.json")
    if "chat_template.jinja" in files:
        tokenizer_config["chat_template"] = read_text(files["chat_template.jinja"])
    return Checkpoint(
        ref=ref,
        path=path,
        kind="safetensors" if path == folder else "gguf",
        arch=arch,
        config=_started(config, generation),
        generation=generation or (stages.GENERATION if speaks else {}),
        source=source,
        tokenizer_config=tokenizer_config,
        files=files,
        gguf=None,
        notes=notes + more + ((lacking.UNKNOWN,) if lacking.in_doubt(folder) else ()),
        sentence=read_sentence(folder, tokenizer_config),
        headless=headless,
        processor=processor,
        stages=folder if speaks else None,
    )


def _started(config: dict[str, Any], generation: dict[str, Any]) -> dict[str, Any]:
    """The config with the token that answers of a decoder beside an encoder begin with: that of
    generation_config.json, which transformers uses before the config's own."""
    key = "decoder_start_token_id"
    if config.get("is_encoder_decoder") is not True or generation.get(key) is None:
        return config
    return {**config, key: generation[key]}


def _optional(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    return read_json(inside(directory, path)) if path.is_file() else {}
