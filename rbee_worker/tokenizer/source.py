"""The interface through which a tokenizer reads a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class HasMetadata(Protocol):
    """The part of a GGUF file that the tokenizer reads."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...


class TokenizerSource(Protocol):
    """The part of a `Checkpoint` that the tokenizer, the template and the end tokens come from."""

    @property
    def ref(self) -> str: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def generation(self) -> dict[str, Any]: ...
    @property
    def tokenizer_config(self) -> dict[str, Any]: ...
    @property
    def files(self) -> dict[str, Path]: ...
    @property
    def gguf(self) -> HasMetadata | None: ...
