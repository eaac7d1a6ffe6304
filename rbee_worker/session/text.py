"""`TextSide`: the parts of a model that deal with text: tokenizer, EOS set, chat template.

Torch-free, and read from the checkpoint while the engine's process loads the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rbee_worker.types import EosToken

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.core import Tokenizer


class TextStream(Protocol):
    """Takes ids, gives complete characters (tokenizer.stream.Detokenizer)."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


@dataclass(frozen=True)
class TextSide:
    """The text parts of a model. exempt_ids: special tokens of the chat template, never
    penalised."""

    ckpt: Checkpoint
    tokenizer: Tokenizer
    eos: tuple[EosToken, ...]
    chat: ChatRenderer | None
    exempt_ids: frozenset[int]
    stream: Callable[[bool], TextStream]  # skip_special -> a new stream

    @property
    def generation(self) -> dict[str, Any]:
        """The model's own sampling defaults."""
        return self.ckpt.generation


def open_text(ckpt: Checkpoint) -> TextSide:
    """Build the text side of a checkpoint. Raises subclasses of ModelError."""
    from rbee_worker.models import ENCODERS
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.eos import eos_set, template_special_ids
    from rbee_worker.tokenizer.load import load_tokenizer
    from rbee_worker.tokenizer.stream import Detokenizer

    tokenizer = load_tokenizer(ckpt)
    template = tokenizer.chat_template
    chat, exempt = None, frozenset[int]()
    if template is not None:
        chat = ChatRenderer(template, special_tokens=tokenizer.template_tokens)
        exempt = template_special_ids(template, tokenizer)
    return TextSide(
        ckpt=ckpt,
        tokenizer=tokenizer,
        eos=() if ckpt.arch in ENCODERS else eos_set(ckpt, tokenizer),  # nothing is drawn
        chat=chat,
        exempt_ids=exempt,
        stream=lambda skip_special: Detokenizer(tokenizer, skip_special=skip_special),
    )


def wordless(ckpt: Checkpoint) -> TextSide:
    """The text side of a model without a vocabulary: no text in or out, no end tokens."""
    import tokenizers

    from rbee_worker.tokenizer.core import Tokenizer
    from rbee_worker.tokenizer.pieces import Decoding

    empty = tokenizers.Tokenizer(tokenizers.models.BPE())
    return TextSide(
        ckpt=ckpt,
        tokenizer=Tokenizer(empty, Decoding(), pieces=[], special_ids=()),
        eos=(),
        chat=None,
        exempt_ids=frozenset(),
        stream=lambda skip_special: _Silent(),
    )


class _Silent:
    """A stream that gives no text."""

    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""
