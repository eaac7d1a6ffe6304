"""The text side of constraints: what tokens are as text, also at the start of one."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from rbee_worker.constraints.compiled import compiled, vocabulary
from rbee_worker.constraints.grammar import grammar_of
from rbee_worker.constraints.matcher import Matcher, Opening
from rbee_worker.constraints.words import NOTHING
from rbee_worker.session.constraints import Constraints, words_of
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.types import Constraint
from tests.tokenizer.builders import Source, train_sentencepiece

TEXTS = ["the river", " the river", "  the", "a", "é", "river the", "\nthe"]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """SentencePiece's: it drops the blank before a text."""
    path = tmp_path_factory.mktemp("sp") / "tokenizer.model"
    path.write_bytes(train_sentencepiece(request.param, byte_fallback=True))
    source: Any = Source(files={"tokenizer.model": path})
    return load_tokenizer(source)


def test_tokens_are_the_bytes_that_they_add(tokenizer: Tokenizer) -> None:
    words = words_of(tokenizer, tokenizer.vocab_size + 3, ends={2})
    assert len(words.tokens) == tokenizer.vocab_size + 3
    assert words.tokens[-3:] == (b"", b"", b"")
    assert set(words.special) == tokenizer.special_ids | {2}
    for i, data in enumerate(words.tokens[:-3]):
        if i not in words.special:
            assert data == tokenizer.joined_bytes(i)
    assert words.opening
    for i, same in words.opening.items():
        opened = tokenizer.opened(i)
        assert words.tokens[same] == opened if same >= 0 else (same == NOTHING) == (not opened)


@pytest.mark.parametrize("text", TEXTS)
def test_the_constraint_is_on_the_text_that_the_caller_sees(
    tokenizer: Tokenizer, text: str
) -> None:
    """Walk through all answers of one text, token by token: each decodes to exactly that text."""
    words = words_of(tokenizer, tokenizer.vocab_size, ends={2})
    known = vocabulary(words)
    grammar = grammar_of(Constraint(kind="choice", text=f'["{text}"]'.replace("\n", "\\n")))
    todo: list[list[int]] = [[]]
    found = 0
    while todo and found < 200:
        ids = todo.pop()
        matcher = Matcher(compiled(known, grammar), Opening(words), [2])
        matcher.follow(ids, 0)
        assert not matcher.error
        if matcher.complete:
            assert tokenizer.decode(ids) == text, ids
            found += 1
            continue
        row = matcher.masks(())[0]
        allowed = [i for i in range(tokenizer.vocab_size) if row[i >> 5] >> (i & 31) & 1]
        assert allowed, "stuck"
        todo += [[*ids, i] for i in allowed]
    assert found


def test_a_token_that_ends_answers_is_no_text(tokenizer: Tokenizer) -> None:
    """Even if its name could be."""
    checked = Constraints(tokenizer, ())
    name = tokenizer.token_text(2)
    words = words_of(tokenizer, tokenizer.vocab_size, ends={2})
    grammar = checked.grammar("x", Constraint(kind="regex", text=".*"), tokenizer.vocab_size)
    matcher = Matcher(compiled(vocabulary(words), grammar), Opening(words), [])
    row = matcher.masks(())[0]
    assert name
    assert not row[0] >> 2 & 1
    checked.close()


def test_a_killed_process_costs_no_grammar(tokenizer: Tokenizer) -> None:
    """Whoever ends it from outside: the grammar is as good as it was."""
    constraints = Constraints(tokenizer, ())
    rows = tokenizer.vocab_size
    constraints.grammar("regex", Constraint(kind="regex", text="a+"), rows)
    first = constraints._child.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)  # it takes the request and does not answer
    threading.Timer(0.1, os.kill, (first, signal.SIGKILL)).start()
    assert constraints.grammar("regex", Constraint(kind="regex", text="b+"), rows)
    assert constraints._child.pid != first
    constraints.close()
