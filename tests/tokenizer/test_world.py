"""RWKV's World tokenizer: against an independent longest match, against the authors' package, and
its files; the chat format that comes with it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from rbee_worker.checkpoint.tokenizer_files import WORLD as FILE
from rbee_worker.errors import CheckpointError, InvalidRequest
from rbee_worker.params import Rules, check_request
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.eos import eos_set
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.stream import Detokenizer
from rbee_worker.tokenizer.world import STOPS, TEMPLATE, read_vocabulary
from rbee_worker.types import Request
from tests.tokenizer.builders import Source
from tests.tokenizer.texts import TEXTS
from tests.tokenizer.world import END, tokens, write_converted, write_listed, write_numbered

VOCABULARY = tokens()


def longest(data: bytes) -> list[int]:
    """The definition: of all tokens that the rest begins with, the longest."""
    ids, at = [], 0
    while at < len(data):
        fits = [i for i, t in VOCABULARY.items() if data.startswith(t, at)]
        ids.append(max(fits, key=lambda i: len(VOCABULARY[i])))
        at += len(VOCABULARY[ids[-1]])
    return ids


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("world") / FILE, VOCABULARY)


def loaded(path: Path, **more: Any) -> Tokenizer:
    return load_tokenizer(Source(files={path.name: path}, **more))


@pytest.fixture(scope="module")
def ours(path: Path) -> Tokenizer:
    return loaded(path)


def drawn(seed: int) -> str:
    """Text of characters, pieces of tokens and whole tokens."""
    rng = random.Random(seed)
    letters = [*"".join(TEXTS)]
    words = [t.decode("utf-8", "ignore") for t in VOCABULARY.values()]
    return "".join(rng.choice(rng.choice((letters, words))) for _ in range(rng.randrange(80)))


@pytest.mark.parametrize("text", [*TEXTS, *map(drawn, range(200))])
def test_ids_are_the_longest_matches_and_text_comes_back(ours: Tokenizer, text: str) -> None:
    ids = ours.encode(text)
    assert ids == longest(text.encode())
    assert b"".join(map(ours.token_bytes, ids)) == text.encode()
    assert ours.decode(ids) == text
    stream = Detokenizer(ours)
    assert "".join([*map(stream.push, ids), stream.flush()]) == text


def test_a_long_text_is_encoded_as_a_short_one(ours: Tokenizer) -> None:
    text = "".join(map(drawn, range(200)))
    assert not ours.is_quick(text)
    assert ours.encode(text) == longest(text.encode())


def test_lone_surrogates_are_refused(ours: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        ours.encode("a\ud800")


def test_the_authors_package_gives_the_same_ids() -> None:
    """On the published vocabulary, which the package has: all 65,529 tokens."""
    theirs = pytest.importorskip(
        "rwkv.rwkv_tokenizer", reason="the package rwkv is not installed (extra test)"
    )
    vocabulary = Path(theirs.__file__).with_name(FILE)
    trie, ours = theirs.TRIE_TOKENIZER(str(vocabulary)), loaded(vocabulary)
    assert read_vocabulary(vocabulary) == trie.idx2token
    assert ours.vocab_size == 65530
    texts = [*TEXTS, *map(drawn, range(200)), vocabulary.read_text("utf-8")[200_000:260_000]]
    for text in texts:
        ids = ours.encode(text)
        assert ids == trie.encode(text)
        assert b"".join(map(ours.token_bytes, ids)) == trie.decodeBytes(ids) == text.encode()


def test_every_file_gives_the_same_tokens(ours: Tokenizer, tmp_path: Path) -> None:
    listed = write_listed(tmp_path / "vocab.txt", VOCABULARY)
    made: Any = write_converted(tmp_path / "t.gguf", VOCABULARY)
    others = [
        loaded(listed, config={"model_type": "rwkv5"}),
        loaded(listed, tokenizer_config={"tokenizer_class": "Rwkv6Tokenizer"}),
        load_tokenizer(Source(gguf=made)),
    ]
    for other in others:
        assert [other.token_bytes(i) for i in VOCABULARY] == list(VOCABULARY.values())
        assert other.special_ids == frozenset({0})
        for seed in range(20):
            assert other.encode(drawn(seed)) == ours.encode(drawn(seed))
    assert not others[2].has(len(VOCABULARY) + 1)  # padding


def test_another_familys_vocab_txt_is_not_taken_for_it(tmp_path: Path) -> None:
    listed = write_listed(tmp_path / "vocab.txt", VOCABULARY)
    with pytest.raises(CheckpointError, match=r"lacks the tokens \[CLS\]"):  # it is read as BERT's
        loaded(listed, config={"model_type": "llama"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("1 'a' 2\n", "line 1 is no token"),
        ("1 'a' 1\nb\n", "line 2 is no token"),
        ("1 __import__('os') 1\n", "line 1 is no token"),
        ("1 'a' 1\n1 'b' 1\n", "two tokens have the id 1"),
        ("1 'a' 1\n2 'a' 1\n", "tokens 1 and 2 are the same"),
        ("1 'a' 1\n", "no token for 255 bytes, such as 0"),
    ],
)
def test_a_damaged_file_is_refused(lines: str, said: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(lines)
    with pytest.raises(CheckpointError, match=said):
        loaded(tmp_path / FILE)


def test_the_end_of_a_text(path: Path, ours: Tokenizer, tmp_path: Path) -> None:
    """Id 0, whatever files call it; a text spells it only by that name, and only where it may."""
    assert [(e.id, e.text) for e in eos_set(Source(), ours)] == [(0, "<|endoftext|>")]
    config = {
        "added_tokens_decoder": {"0": {"content": END, "special": True}},
        "bos_token": END,
        "eos_token": END,
    }
    named = loaded(path, tokenizer_config=config)
    assert named.token_text(0) == named.eos_token == named.bos_token == END
    plain = longest(END.encode())
    assert named.encode(f"a{END}b") == [*longest(b"a"), 0, *longest(b"b")]
    assert named.encode(END, parse_special=False) == plain == ours.encode(END)
    assert named.decode([0, *plain]) == END
    (end,) = eos_set(Source(tokenizer_config=config, config={"eos_token_id": 0}), named)
    assert (end.id, end.origins) == (0, ("config.json", "tokenizer_config.json"))
    assert loaded(path, tokenizer_config={**config, "add_bos_token": True}).encode("a")[0] == 0
    # A file may name an ordinary token for the end; it stays text.
    turn = loaded(path, tokenizer_config={**config, "eos_token": "\n\n"})
    assert turn.eos_id == longest(b"\n\n")[0]
    assert turn.decode(turn.encode("a\n\nb")) == "a\n\nb"


def test_a_gguf_file_ends_turns_with_a_blank_line(tmp_path: Path) -> None:
    """llama.cpp's converter names it for that; its own name of the format is no template."""
    blank = longest(b"\n\n")[0]
    made: Any = write_converted(
        tmp_path / "t.gguf",
        VOCABULARY,
        eot_token_id=blank,
        **{"tokenizer.chat_template": "rwkv-world"},
    )
    source = Source(gguf=made)
    found = load_tokenizer(source)
    assert found.chat_template == TEMPLATE
    assert found.warnings == ()
    assert [(e.id, e.origins) for e in eos_set(source, found)] == [
        (0, ("gguf:tokenizer.ggml.eos_token_id",)),
        (blank, ("gguf:tokenizer.ggml.eot_token_id",)),
    ]


def test_the_chat_format_of_the_model_cards(ours: Tokenizer) -> None:
    """Turns end with a blank line, so that there is none inside of them."""
    assert ours.chat_template == TEMPLATE
    assert any("no chat template" in note for note in ours.warnings)
    talk = [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": " a\n\n\nb "},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    start = "System: Be brief.\n\nUser: a\nb\n\nAssistant: c\n\nUser: d\n\n"
    with ChatRenderer(TEMPLATE) as chat:
        assert chat.render(talk) == start + "Assistant:"
        assert chat.render(talk, add_generation_prompt=False) == start
        with pytest.raises(InvalidRequest, match="has no tool messages"):
            chat.render([{"role": "tool", "content": "4"}])


def test_a_conversation_stops_before_the_next_turn(ours: Tokenizer) -> None:
    """By default, with its origin; what a request says counts, and a plain prompt has none."""
    assert ours.turn_stops == STOPS == ("\n\nUser:",)
    rules = Rules(context=64, vocab_size=99, template="x", turn_stops=ours.turn_stops)
    talk: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}]}
    cases: list[tuple[dict[str, Any], tuple[tuple[str, ...], str]]] = [
        (talk, (("\n\nUser:",), "chat_format")),
        ({**talk, "params": {"stop": ["x"]}}, (("x",), "request")),
        ({**talk, "params": {"stop": []}}, ((), "request")),
        ({"prompt": "a"}, ((), "default")),
    ]
    for fields, want in cases:
        found = check_request(Request(id="r", **fields), rules)
        assert (found.params.stop, found.origins["stop"]) == want


def test_a_checkpoints_own_template_counts(path: Path) -> None:
    """The stop string goes with templates that write turns as the model cards do."""
    for template, stops in (("{{ 'User: ' }}", STOPS), ("{{ '<|user|>' }}", ())):
        made = loaded(path, tokenizer_config={"chat_template": template})
        assert (made.chat_template, made.turn_stops, made.warnings) == (template, stops, ())
