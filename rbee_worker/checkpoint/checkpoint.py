"""What an opened model is, whichever kind of file it is in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rbee_worker.checkpoint.base_model import classifies
from rbee_worker.checkpoint.formats import TensorSource
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.processor import NONE, ProcessorFiles
from rbee_worker.checkpoint.sentence import UNSAID, Sentence


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
    turn_stops: tuple[str, ...] = ()  # texts before which an answer to a conversation ends
    stages: Path | None = None  # of a model that speaks: the directory with its other parts

    @cached_property
    def classifies(self) -> bool:
        """Whether a decoder's head scores classes of a text."""
        return classifies(self.config, self.source.names())
