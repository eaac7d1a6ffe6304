"""`TextSide`: the parts of a model that deal with text: tokenizer, EOS set, chat template.

Torch-free, and read from the checkpoint while the engine's process loads the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from rbee_worker.answer import NO_FORMAT, Format, find_format
from rbee_worker.config import Settings
from rbee_worker.pictures.limits import Limits
from rbee_worker.types import EosToken

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.pictures.side import PictureSide
    from rbee_worker.session.constraints import Constraints
    from rbee_worker.session.pair_texts import PairTexts
    from rbee_worker.speech.side import SpeechSide
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.core import Tokenizer

_USUAL = Settings()


class TextStream(Protocol):
    """Takes ids, gives complete characters (tokenizer.stream.Detokenizer). within: a character is
    not complete yet."""

    @property
    def within(self) -> bool: ...

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


@dataclass(frozen=True)
class TextSide:
    """The text parts of a model. exempt_ids: special tokens of the chat template, never
    penalised. form: what the model's answers look like. tool_chat: a template of its own for
    conversations with tools, which some models have. constraints: None if the model has no
    vocabulary. pictures: None if its files do not say how it takes pictures, or say what is not
    supported, which `no_pictures` tells. speech: of a model that speaks. pairs: how a reranker
    reads two texts."""

    ckpt: Checkpoint
    tokenizer: Tokenizer
    eos: tuple[EosToken, ...]
    chat: ChatRenderer | None
    exempt_ids: frozenset[int]
    stream: Callable[[bool], TextStream]  # skip_special -> a new stream
    form: Format = NO_FORMAT
    tool_chat: ChatRenderer | None = None
    constraints: Constraints | None = None
    pictures: PictureSide | None = None
    no_pictures: str = ""
    speech: SpeechSide | None = None
    pairs: PairTexts | None = None

    def renderer(self, *, tools: bool) -> ChatRenderer | None:
        """The chat template for a conversation with tools, or without."""
        return self.tool_chat if tools and self.tool_chat is not None else self.chat

    def close(self) -> None:
        """End the processes of the chat templates, of the constraints and of the pictures."""
        for owner in (self.chat, self.tool_chat, self.constraints, self.pictures):
            if owner is not None:
                owner.close()

    @property
    def generation(self) -> dict[str, Any]:
        """The model's own sampling defaults."""
        return self.ckpt.generation


def open_text(ckpt: Checkpoint, settings: Settings = _USUAL) -> TextSide:
    """Build the text side of a checkpoint. Raises subclasses of ModelError."""
    from rbee_worker.checkpoint.pair_rule import pair_rule
    from rbee_worker.models import architecture
    from rbee_worker.pictures.side import open_pictures
    from rbee_worker.session.constraints import Constraints
    from rbee_worker.session.pair_texts import pair_texts
    from rbee_worker.speech.opening import speech_of
    from rbee_worker.tokenizer.chat import ChatRenderer
    from rbee_worker.tokenizer.eos import eos_set, template_special_ids
    from rbee_worker.tokenizer.load import load_tokenizer
    from rbee_worker.tokenizer.stream import Detokenizer

    tokenizer = load_tokenizer(ckpt)
    template = tokenizer.chat_template
    pictures = open_pictures(ckpt, tokenizer.token_id, limits_of(settings))
    side = None if isinstance(pictures, str) else pictures
    renderer = partial(
        ChatRenderer,
        special_tokens=tokenizer.template_tokens,
        picture="" if side is None else side.placeholder,
    )
    chat, tool_chat, exempt = None, None, frozenset[int]()
    if template is not None:
        chat = renderer(template)
        exempt = template_special_ids(template, tokenizer)
        if tokenizer.tool_template not in (None, template):
            assert tokenizer.tool_template is not None
            tool_chat = renderer(tokenizer.tool_template)
    row = architecture(ckpt.arch, where=ckpt.ref, config=ckpt.config)
    encodes = row.stacks_of(ckpt.config) == "encoder"
    eos = () if encodes else eos_set(ckpt, tokenizer)
    speech = speech_of(ckpt, settings)
    draws = row.stacks == "decoder" and not encodes and not ckpt.classifies and speech is None
    return TextSide(
        ckpt=ckpt,
        tokenizer=tokenizer,
        eos=eos,
        chat=chat,
        exempt_ids=exempt,
        stream=lambda skip_special: Detokenizer(tokenizer, skip_special=skip_special),
        form=find_format(
            [t for t in dict.fromkeys((template, tokenizer.tool_template)) if t is not None],
            lambda text: tokenizer.token_id(text) is not None,
        ),
        tool_chat=tool_chat,
        constraints=Constraints(tokenizer, eos) if speech is None else None,
        pictures=side,
        no_pictures=pictures if isinstance(pictures, str) else "",
        speech=speech,
        pairs=pair_texts(ckpt, pair_rule(ckpt, settings.rerank), tokenizer, chat, draws=draws),
    )


def limits_of(settings: Settings) -> Limits:
    """What a request may bring of pictures."""
    return Limits(
        count=settings.max_pictures,
        bytes=settings.max_picture_kb << 10,
        pixels=settings.max_picture_mp * 1_000_000,
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

    within = False

    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""
