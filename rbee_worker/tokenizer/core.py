"""The tokenizer as the rest of the worker sees it: text to ids, ids to bytes, special ids."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import tokenizers

from rbee_worker.errors import FieldError, InferenceFailed, InvalidRequest
from rbee_worker.tokenizer.bounds import Bounded, Growth
from rbee_worker.tokenizer.pieces import Decoding, Utf8Stream
from rbee_worker.tokenizer.unheard import unheard

RERANK = "rerank"  # the name of a template for a query and a document, which is no conversation
QUICK_CHARS = 2000  # a longer text takes more than a fraction of a millisecond to encode
# Beyond it published patterns reach a limit of the library too: Llama 3's, in a run of blanks.
PANICKING_CHARS = 1 << 20


def is_library_failure(error: BaseException) -> bool:
    """Whether the `tokenizers` library raised `error`: a bare Exception, or a panic of its Rust
    code, which derives from BaseException and would otherwise end an event loop."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


class Texts(NamedTuple):
    """Ids of one text or two. second: the position from which on tokens belong to the second one, 0
    where the model does not tell them apart; whole: how many ids there are if nothing is cut."""

    ids: list[int]
    second: int
    whole: int


def _shares(lengths: list[int], room: int) -> list[int]:
    """How much of one text, or of each of two, is kept in `room`: the longer one is cut first; if
    both are longer than half, the room is halved, and the odd token is the longer one's."""
    room = max(room, 0)
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    short = min(lengths)
    if 2 * short > room:
        short = room // 2
    first_is_short = lengths[0] <= lengths[1]
    return [short, room - short] if first_is_short else [room - short, short]


class Backend(Protocol):
    """What encodes: a tokenizer of the `tokenizers` library, or an encoder of this package."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        """An object whose `ids` are those of the text."""

    def encode_batch_fast(self, texts: Sequence[str], *, add_special_tokens: bool) -> Sequence[Any]:
        """The same of each text; the library lets other threads run meanwhile."""

    def token_to_id(self, piece: str) -> int | None:
        """The id of a piece, spelled as in the vocabulary."""

    def no_truncation(self) -> None:
        """Never cut a text."""

    def no_padding(self) -> None:
        """Never add ids to make texts equally long."""


class Tokenizer:
    """One vocabulary with its splitting and decoding rules. Threads may share it.

    bos_id: the token that opens a sequence, None if there is none.
    spelled: by id, pieces that decode to another text than the vocabulary's.
    affixes: ids that `add_special` puts before and after the text; None: those of the
    tokenizer.json's own post-processor. closes_once: not after a text that ends with them.
    opens_both: of two texts, the second one has those before it too.
    chat_templates: by name; `chat_template` is the one to use. template_tokens: texts of the tokens
    that a template knows by name. literal: makes the backend that reads special tokens as text;
    None: as the library does it. turn_stops: texts before which an answer to a conversation ends,
    in a chat format without a token for that. unread: files of the checkpoint that are not used,
    and why.
    """

    def __init__(
        self,
        backend: Backend,
        decoding: Decoding,
        *,
        pieces: list[str | None],
        spelled: Mapping[int, str] | None = None,
        special_ids: Iterable[int],
        bos_id: int | None = None,
        eos_id: int | None = None,
        affixes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        closes_once: bool = False,
        opens_both: bool = False,
        chat_templates: Mapping[str, str] | None = None,
        template_tokens: Mapping[str, str] | None = None,
        unread: Mapping[str, str] | None = None,
        bounded: Bounded | None = None,
        warnings: tuple[str, ...] = (),
        literal: Callable[[], Backend] | None = None,
        turn_stops: tuple[str, ...] = (),
    ) -> None:
        backend.no_truncation()  # a prompt is never truncated silently
        backend.no_padding()
        self._backend = backend
        self._make_plain = literal or partial(_reading_literally, backend)
        self._plain: Backend | None = None
        self._lock = threading.Lock()
        self._pieces = pieces
        self._spelled = dict(spelled or {})
        self._bytes: list[bytes | None] = [None] * len(pieces)
        self._affixes, self._closes_once, self._opens_both = affixes, closes_once, opens_both
        self.decoding = decoding
        self.vocab_size = len(pieces)
        self.special_ids = frozenset(special_ids)
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.chat_templates = dict(chat_templates or {})
        self.template_tokens = dict(template_tokens or {})
        self.unread = dict(unread or {})
        self._slow = bounded is not None and bounded.slow
        self._growth = Growth() if bounded is None else bounded.growth
        self.warnings = warnings
        self.turn_stops = turn_stops

    @property
    def chat_template(self) -> str | None:
        """The template named "default", or the only one there is for conversations."""
        templates = {n: text for n, text in self.chat_templates.items() if n != RERANK}
        if len(templates) == 1:
            return next(iter(templates.values()))
        return templates.get("default")

    @property
    def tool_template(self) -> str | None:
        """The template of conversations with tools: that named "tool_use", as in transformers, or
        `chat_template`."""
        return self.chat_templates.get("tool_use") or self.chat_template

    @property
    def bos_token(self) -> str:
        """Text of the opening token, '' if there is none; chat templates write it."""
        return "" if self.bos_id is None else self.token_text(self.bos_id)

    @property
    def eos_token(self) -> str:
        """Text of the tokenizer's own end token, '' if there is none."""
        return "" if self.eos_id is None else self.token_text(self.eos_id)

    def is_quick(self, text: str) -> bool:
        """Whether an event loop may wait until `text` is encoded."""
        return len(text) <= QUICK_CHARS and not self._slow

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Ids of `text`.

        add_special: put the model's opening and closing tokens around it (pass False for a rendered
        chat template, which has written its own). parse_special: special tokens spelled out in the
        text become their ids; False: they are plain text.
        Raises InvalidRequest for text that is not Unicode (lone surrogates) or that the tokenizer
        makes far too long, InferenceFailed if the tokenizer itself fails.
        """
        backend = self._backend if parse_special else self._literal()
        own = add_special and self._affixes is None
        ids: list[int] = self._encoding(backend, text, own).ids
        if add_special and self._affixes is not None:
            before, after = self._affixes
            if self._closes_once and tuple(ids[-1:]) == after:
                after = ()
            ids = [*before, *ids, *after]
        return ids

    def encode_texts(self, text: str, pair: str | None = None, *, most: int) -> Texts:
        """Ids of a text, or of two that the model sees together, with the model's own tokens around
        them. If they have more than `most`, the longer text is cut first, then both.

        Raises as `encode` does.
        """
        given = [text] if pair is None else [text, pair]
        parts = [self._encoding(self._backend, part, False) for part in given]
        other = parts[1] if pair is not None else None
        around = self._around(len(parts))
        whole = around + sum(len(part.ids) for part in parts)
        shares = _shares([len(part.ids) for part in parts], most - around)
        if self._affixes is not None:
            before, after = self._affixes
            first = [*before, *parts[0].ids[: shares[0]], *after]
            again = before if self._opens_both else ()
            rest = [*again, *other.ids[: shares[1]], *after] if other is not None else []
            return Texts([*first, *rest], len(first) if rest else 0, whole)
        if whole > most:
            for part, kept in zip(parts, shares, strict=True):
                part.truncate(kept)
        made = self._library().post_process(parts[0], other, add_special_tokens=True)
        kinds = made.type_ids
        return Texts(made.ids, kinds.index(1) if 1 in kinds else 0, whole)

    def _around(self, texts: int) -> int:
        """How many tokens the model has around one text, or two."""
        if self._affixes is None:
            count: int = self._library().num_special_tokens_to_add(texts > 1)
            return count
        before, after = self._affixes
        return len(before) * (texts if self._opens_both else 1) + texts * len(after)

    def _library(self) -> tokenizers.Tokenizer:
        """The backend of a tokenizer without `affixes`, which is always the library's."""
        assert isinstance(self._backend, tokenizers.Tokenizer)
        return self._backend

    def _encoding(self, backend: Backend, text: str, own: bool) -> Any:
        """The encoding of `text`. own: with the post-processor's special tokens."""
        try:
            self._growth.check(text)
            if self.is_quick(text):
                return backend.encode(text, add_special_tokens=own)
            # in a batch call, the library lets Python's other threads run
            call = partial(backend.encode_batch_fast, [text], add_special_tokens=own)
            panics = self._slow or len(text) > PANICKING_CHARS
            return (unheard(call) if panics else call())[0]
        except (UnicodeEncodeError, TypeError) as e:
            raise InvalidRequest(
                [FieldError("prompt", "unicode", "text has a lone surrogate, not Unicode text")]
            ) from e
        except BaseException as e:
            if not is_library_failure(e):
                raise
            raise InferenceFailed("the model's tokenizer fails on this text") from e

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`. Ids without a token give no text; broken UTF-8 gives U+FFFD."""
        skipped = self.special_ids if skip_special else frozenset()
        kept = [i for i in ids if i not in skipped and self.has(i)]
        data = b"".join(
            self.joined_bytes(i) if at else self.opening_bytes(i) or b""
            for at, i in enumerate(kept)
        )
        stream = Utf8Stream(per_byte=self.decoding.byte_fallback)
        text = stream.push(data, final=True)
        for _ in range(self.decoding.strip_left):
            text = text.removeprefix(" ")
        return text

    def has(self, token_id: int) -> bool:
        """Whether a token has this id (a model's head may have more rows than tokens)."""
        return 0 <= token_id < self.vocab_size and self._pieces[token_id] is not None

    def token_id(self, piece: str) -> int | None:
        """The id of a piece, spelled as in the vocabulary."""
        found: int | None = self._backend.token_to_id(piece)
        return found

    def token_text(self, token_id: int) -> str:
        """The piece as spelled in the vocabulary, for reports; '' if there is none."""
        return (self._pieces[token_id] or "") if self.has(token_id) else ""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for inside a text; b'' if there is none."""
        if not self.has(token_id):
            return b""
        data = self._bytes[token_id]
        if data is None:
            data = self.decoding.token_bytes(self._spelling(token_id))
            self._bytes[token_id] = data
        return data

    def joined_bytes(self, token_id: int) -> bytes:
        """`token_bytes` after another token: with the joiner, if the decoder has one."""
        if self.decoding.joiner and self.has(token_id):
            return self.decoding.joined(self._spelling(token_id))
        return self.token_bytes(token_id)

    def opening_bytes(self, token_id: int) -> bytes | None:
        """The bytes of the token at the start of a text; None for an id without a token."""
        if not self.has(token_id):
            return None
        return self.decoding.token_bytes(self._spelling(token_id), first=True)

    def opened(self, token_id: int) -> bytes:
        """The bytes of the token at the start of a text, as `decode` gives them: without the blanks
        that the decoder strips there."""
        data = self.opening_bytes(token_id) or b""
        for _ in range(self.decoding.strip_left):
            data = data.removeprefix(b" ")
        return data

    def _spelling(self, token_id: int) -> str:
        """The spelling used for decoding: an added token that is normalized has its normalized
        form."""
        return self._spelled.get(token_id) or self._pieces[token_id] or ""

    def _literal(self) -> Backend:
        """A second backend that reads special tokens as text; made on first use."""
        with self._lock:
            if self._plain is None:
                self._plain = self._make_plain()
            return self._plain


def _reading_literally(own: Any) -> Backend:
    """The library's tokenizer `own`, but with special tokens read as text. It shares the
    vocabulary: reading that again would hold every thread for a second."""
    plain = tokenizers.Tokenizer(own.model)
    plain.normalizer = own.normalizer  # before tokens, which some of them go through
    plain.pre_tokenizer = own.pre_tokenizer
    plain.post_processor = own.post_processor
    plain.decoder = own.decoder
    added = own.get_added_tokens_decoder()
    plain.add_tokens([added[i] for i in sorted(added)])
    plain.encode_special_tokens = True
    return plain
