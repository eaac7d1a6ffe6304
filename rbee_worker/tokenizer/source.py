"""What a tokenizer needs of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class HasMetadata(Protocol):
    """A GGUF file, as far as the tokenizer cares."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...


class TokenizerSource(Protocol):
    """As much of a `Checkpoint` as the tokenizer, the template and the end tokens come from."""

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
