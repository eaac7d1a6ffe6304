"""A vocabulary of 64 ids for the fake model, and clients around fake engines.

Ids 0..57 are letters (some of several characters), 2 is the special `</s>`, 3 is the special
`<turn>`; 58..61 are the four bytes of one character, 62 and 63 the two bytes of another.
"""

from __future__ import annotations

import codecs
import string
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rbee_worker.config import Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.model_info import ModelInfo
from rbee_worker.session.client import EngineClient
from rbee_worker.session.text import TextSide
from rbee_worker.types import Request
from tests.engine.fakes import EOS, VOCAB, FakeModel, make_engine

BYTES = [c.encode() for c in string.ascii_letters[:VOCAB]]
BYTES += [b" ", b"ab", b".", b"\n", b"xyz", b"..."]
BYTES[58:64] = [b"\xf0", b"\x9f", b"\x90", b"\x9d", b"\xc3", b"\xa9"]
SPECIAL = {2: "</s>", 3: "<turn>"}


class FakeTokenizer:
    """One id a character on the way in (letters only); bytes on the way out."""

    vocab_size = VOCAB
    special_ids = frozenset(SPECIAL)
    bos_id = None
    warnings = ("the pre-tokenizer is a fake",)
    chat_template = tool_template = "{{ messages }}"
    turn_stops: tuple[str, ...] = ("\x00next turn",)

    def has(self, token_id: int) -> bool:
        return 0 <= token_id < VOCAB

    def is_quick(self, text: str) -> bool:
        return len(text) < 2000

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        return [1] * add_special + [BYTES.index(c.encode()) for c in text]

    def token_text(self, token_id: int) -> str:
        return SPECIAL.get(token_id, BYTES[token_id].decode(errors="replace"))


class FakeStream:
    """Bytes until they are characters."""

    def __init__(self, skip_special: bool) -> None:
        self.skip = skip_special
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def within(self) -> bool:
        return bool(self.decoder.getstate()[0])

    def push(self, token_id: int) -> str:
        if token_id in SPECIAL:
            return "" if self.skip else self.decoder.decode(SPECIAL[token_id].encode())
        return self.decoder.decode(BYTES[token_id])

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)


def text_of(ids: list[int], skip_special: bool = True) -> str:
    """One-shot decode."""
    parts = [
        b"" if i in SPECIAL and skip_special else SPECIAL[i].encode() if i in SPECIAL else BYTES[i]
        for i in ids
    ]
    return b"".join(parts).decode(errors="replace")


class FakeChat:
    """Renders to the contents, one after another."""

    def __init__(self) -> None:
        self.closed = False

    def render(self, messages: list[dict[str, Any]], **_: Any) -> str:
        return "".join(m["content"] for m in messages)

    def unseen(self, messages: list[dict[str, Any]]) -> tuple[str, ...]:
        return tuple(m["role"] for m in messages if m["role"] == "unseen")

    def dropped(self, messages: list[dict[str, Any]]) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self.closed = True


def fake_text(chat: bool = True) -> TextSide:
    """The text side of the fake model."""
    return TextSide(
        ckpt=SimpleNamespace(ref="fake", path=Path("fake"), generation={}),  # type: ignore[arg-type]
        tokenizer=FakeTokenizer(),  # type: ignore[arg-type]
        eos=EOS,
        chat=FakeChat() if chat else None,  # type: ignore[arg-type]
        exempt_ids=frozenset({3}),
        stream=FakeStream,
    )


def fake_info(engine: Engine) -> ModelInfo:
    """What the fake engine says of itself."""
    return ModelInfo(
        model="x",
        arch="fake",
        device="cpu",
        backend="fake",
        dtype="f32",
        kv_dtype="f32",
        context=engine.context,
        vocab_size=VOCAB,
        kv_tokens=256,
        block_size=4,
        weight_bytes=1000,
        kv_bytes=24,
        n_layers=1,
        n_parameters=1,
    )


@asynccontextmanager
async def fake_client(
    model: FakeModel | None = None,
    *,
    settings: Settings | None = None,
    make: Callable[..., Engine] = make_engine,
    keep: list[Engine] | None = None,
    **options: Any,
) -> AsyncIterator[EngineClient]:
    """A ready client whose engine runs the fake model in a thread; `keep` receives the engine."""

    def load(_: Settings, report: Any) -> tuple[Engine, ModelInfo]:
        engine = make(model, **options)
        if keep is not None:
            keep.append(engine)
        return engine, fake_info(engine)

    client = await EngineClient.start(
        settings or Settings(model="fake"), in_process=True, load=load, text=fake_text
    )
    try:
        await client.ready()
        yield client
    finally:
        await client.close()


def request(name: str, prompt: str = "hello", **params: Any) -> Request:
    """A greedy request unless `params` say otherwise."""
    fields = {"timeout_s", "surface", "token_ids", "messages", "choice"}
    named = {k: params.pop(k) for k in list(params) if k in fields}
    if "token_ids" not in named and "messages" not in named:
        named["prompt"] = prompt
    return Request(id=name, params={"temperature": 0, **params}, **named)
