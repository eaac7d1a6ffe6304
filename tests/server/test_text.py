"""Text through the whole client side: ids of the engine in, server-sent events out.

The vocabularies are a tiny byte-level one, and (slow) the default model's; the oracle is one
decode of all ids by the `tokenizers` library behind /detokenize's sibling, never our stream.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.client import Client, End, Token
from rbee_worker.session.text import TextSide
from tests import tiny
from tests.server.scripted import scripted_start, text_of_checkpoint
from tests.server.served import Served

SPECIALS_SHOWN = {"skip_special_tokens": False, "ignore_eos": True}


class Vocabulary:
    """A server that answers with any ids of one vocabulary."""

    def __init__(self, text: TextSide) -> None:
        self.tokenizer = text.tokenizer
        self.scripts: list[list[int]] = []
        self.client: Client | None = None
        self.stop: dict[str, Any] = {}  # of the last answer
        start = scripted_start(lambda m: self.scripts[m.params.seed], lambda: text)
        self.server = Served(token="", start=start, max_prompt_ratio=1)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """One client for all answers."""
        with Client(self.server.url) as self.client:
            yield

    def answer(self, ids: list[int], **params: Any) -> tuple[str, str, list[int]]:
        """(text of all token events, text of `end`, ids of both)."""
        self.scripts.append(ids)
        assert self.client is not None
        seed = len(self.scripts) - 1
        found = self.client.generate(prompt="x", max_tokens=1 << 19, seed=seed, **params)
        events = list(found)
        tokens = [e for e in events if isinstance(e, Token)]
        end = events[-1]
        assert isinstance(end, End)
        self.stop = {"rule": end.stop.rule, "sequence": end.stop.sequence}
        all_ids = [i for t in tokens for i in t.ids] + list(end.ids)
        return "".join(t.t for t in tokens), end.text, all_ids


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_safetensors(path)
    vocabulary = Vocabulary(text_of_checkpoint(path))
    with vocabulary.server, vocabulary.connected():
        yield vocabulary


def check_whole(vocabulary: Vocabulary, ids: list[int]) -> None:
    """The stream of `ids` reads as their one-shot decode, and loses no id."""
    shown, rest, got = vocabulary.answer(ids, **SPECIALS_SHOWN)
    assert got == ids
    assert shown + rest == vocabulary.tokenizer.decode(ids, skip_special=False)


def test_every_token_of_a_small_vocabulary_alone(small: Vocabulary) -> None:
    """Also bytes that are no character, which only the end can show."""
    for token_id in range(small.tokenizer.vocab_size):
        check_whole(small, [token_id])


def test_all_tokens_of_a_small_vocabulary_in_any_order(small: Vocabulary) -> None:
    ids = list(range(small.tokenizer.vocab_size))
    for seed in range(8):
        random.Random(seed).shuffle(ids)
        check_whole(small, ids)


def test_stop_strings_end_the_answer_wherever_tokens_are_cut(small: Vocabulary) -> None:
    words = "one two STOP three"
    ids = small.tokenizer.encode(words, add_special=False)
    shown, rest, got = small.answer(ids, stop=["STOP"])
    assert shown + rest == "one two "
    assert got == ids[: len(got)]


@pytest.mark.parametrize("shown", [False, True])
def test_stop_strings_made_of_special_tokens_stop_whether_or_not_those_are_shown(
    small: Vocabulary, shown: bool
) -> None:
    tokenizer = small.tokenizer
    special = max(tokenizer.special_ids)
    name = tokenizer.token_text(special)
    words = tokenizer.encode("one two", add_special=False)
    ids = [*words, special, *words, special, special, *words]
    pieces = [("one two", False), (name, True), ("one two", False), (name, True), (name, True)]
    whole = "".join(piece for piece, _ in pieces)
    hidden = [special for piece, special in pieces for _ in piece]
    more: dict[str, Any] = {"skip_special_tokens": shown is False, "ignore_eos": True}
    for stop in (name, name[1:], "two" + name, name + name[:2], name[-1] + "one"):
        before = whole[: whole.index(stop)]
        seen = "".join(c for c, h in zip(before, hidden, strict=False) if shown or not h)
        text, rest, got = small.answer(ids, stop=[stop], **more)
        assert text + rest == seen
        assert got == ids[: len(got)]
        assert small.stop["sequence"] == stop


@pytest.mark.long
def test_every_token_of_the_default_vocabulary() -> None:
    """All in order, all shuffled, and each alone between two plain words."""
    reference = os.environ.get("RBEE_TEST_MODEL", "smollm2")
    vocabulary = Vocabulary(text_of_checkpoint(Path(reference)))
    with vocabulary.server, vocabulary.connected():
        ids = list(range(vocabulary.tokenizer.vocab_size))
        check_whole(vocabulary, ids)
        random.Random(3).shuffle(ids)
        check_whole(vocabulary, ids)
        for first in range(0, len(ids), 64):
            check_whole(vocabulary, ids[first : first + 64])
        for token_id in ids[::96]:
            check_whole(vocabulary, [token_id])


class Watched:
    """A tokenizer, and whether an event loop was running where texts were encoded."""

    def __init__(self, inner: Any, quick: bool) -> None:
        self._inner = inner
        self._quick = quick
        self.on_loop: list[bool] = []

    def is_quick(self, text: str) -> bool:
        return self._quick

    def encode(self, text: str, **flags: bool) -> list[int]:
        self.on_loop.append(asyncio._get_running_loop() is not None)
        ids: list[int] = self._inner.encode(text, **flags)
        return ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("quick", [True, False])
def test_short_texts_are_tokenized_beside_the_loop_where_patterns_may_take_long(
    quick: bool,
) -> None:
    with Served() as served:
        watched = Watched(served.engine.tokenizer, quick)
        served.engine.tokenizer = watched  # type: ignore[assignment]
        for body in ({"text": "short"}, {"content": "<s>", "parse_special": False}):
            assert served.http.post("/tokenize", json=body).status_code == 200
        assert watched.on_loop == [quick, quick]
