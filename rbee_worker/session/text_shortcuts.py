"""The parts of a text side under their own names, for what has a text side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from rbee_worker.session.text import TextSide, TextStream
from rbee_worker.types import EosToken

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.checkpoint.sentence import Sentence
    from rbee_worker.pictures.side import PictureSide
    from rbee_worker.speech.side import SpeechSide
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.core import Tokenizer


class TextShortcuts(ABC):
    """All raise what `text` raises."""

    @property
    @abstractmethod
    def text(self) -> TextSide:
        """What has these parts."""

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    def stream(self, *, skip_special: bool) -> TextStream:
        """A new stream that makes text of ids, as answers do."""
        return self.text.stream(skip_special)

    @property
    def ckpt(self) -> Checkpoint:
        return self.text.ckpt

    @property
    def eos(self) -> tuple[EosToken, ...]:
        return self.text.eos

    @property
    def chat(self) -> ChatRenderer | None:
        return self.text.chat

    def renderer(self, *, tools: bool) -> ChatRenderer | None:
        """The chat template for a conversation with tools, or without."""
        return self.text.renderer(tools=tools)

    @property
    def pictures(self) -> PictureSide | None:
        """How the model takes pictures; None if it takes none."""
        return self.text.pictures

    @property
    def speech(self) -> SpeechSide | None:
        """What the model speaks with; None if it does not speak."""
        return self.text.speech

    @property
    def sentence(self) -> Sentence:
        """What the model's files say about making vectors."""
        return self.text.ckpt.sentence
