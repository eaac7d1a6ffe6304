"""The default model's own vocabulary, as its GGUF file has it."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.eos import eos_set
from rbee_worker.tokenizer.eos import template_special_ids as specials_of
from rbee_worker.tokenizer.load import load_tokenizer
from rbee_worker.tokenizer.stream import Detokenizer
from tests.tokenizer.published import DIGITS_GPT2
from tests.tokenizer.texts import TEXTS
from tests.yardstick import cpu_s, ratio

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ours(smollm2: Checkpoint) -> Tokenizer:
    return load_tokenizer(smollm2)


@pytest.fixture(scope="module")
def hf(smollm2: Checkpoint) -> AutoTokenizer:
    """transformers' reading of the same file. Its table lacks "smollm" and falls back to GPT-2's
    pre-tokenizer, so the published one is put in its place."""
    loaded = AutoTokenizer.from_pretrained(smollm2.path.parent, gguf_file=smollm2.path.name)
    shell = json.loads(loaded.backend_tokenizer.to_str())
    shell["pre_tokenizer"] = DIGITS_GPT2
    loaded._tokenizer = Backend.from_str(json.dumps(shell))
    return loaded


def test_ids_and_text(ours: Tokenizer, hf: AutoTokenizer) -> None:
    assert ours.warnings == ()
    for text in TEXTS:
        ids = hf.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids, text
        want = hf.decode(ids, clean_up_tokenization_spaces=False)
        assert ours.decode(ids, skip_special=False) == want


def test_ids_as_published(ours: Tokenizer) -> None:
    """SmolLM2's tokenizer.json splits digits off before words: blanks before one stay together."""
    assert ours.encode("<|im_start|>user\n") == [1, 4093, 198]
    pieces = [ours.token_text(i) for i in ours.encode("a  12  b")]
    assert pieces == ["a", "ĠĠ", "1", "2", "Ġ", "Ġb"]
    assert ours.vocab_size == 49152
    assert ours.special_ids == frozenset(range(17))


def test_every_token_streams(ours: Tokenizer, hf: AutoTokenizer) -> None:
    decoded = hf.backend_tokenizer.decode_batch(
        [[i] for i in range(ours.vocab_size)], skip_special_tokens=False
    )
    for token, want in enumerate(decoded):
        out = Detokenizer(ours, skip_special=False)
        assert out.push(token) + out.flush() == want
        assert ours.decode([token], skip_special=False) == want


def test_end_tokens_and_template(ours: Tokenizer, smollm2: Checkpoint) -> None:
    found = {e.id: (e.text, e.origins) for e in eos_set(smollm2, ours)}
    assert found == {
        0: ("<|endoftext|>", ("vocabulary",)),
        2: ("<|im_end|>", ("gguf:tokenizer.ggml.eos_token_id", "vocabulary")),
    }
    assert specials_of(ours.chat_template, ours) == {1, 2}


def test_its_template_renders_as_transformers_does(ours: Tokenizer, hf: AutoTokenizer) -> None:
    """And the rendered text needs no special tokens added: the template has written them."""
    talk = [{"role": "user", "content": "Hi <b>"}, {"role": "assistant", "content": "Hello."}]
    assert ours.chat_template is not None
    with ChatRenderer(
        ours.chat_template, bos_token=ours.bos_token, eos_token=ours.eos_token
    ) as chat:
        for messages in (talk[:1], talk, [{"role": "system", "content": "Be brief."}, *talk]):
            text = chat.render(messages)
            want = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert text == want
            ids = hf.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert ours.encode(text, add_special=False) == ids
            assert ids.count(1) == len(messages) + 1 + (messages[0]["role"] != "system")


def test_speed(ours: Tokenizer, hf: AutoTokenizer, smollm2: Checkpoint) -> None:
    """Loading from GGUF and streaming cost little more than `tokenizers` alone, which is Rust."""
    shell = hf.backend_tokenizer.to_str()

    def load() -> float:
        return cpu_s(lambda: load_tokenizer(smollm2))

    assert ratio(load, lambda: cpu_s(lambda: Backend.from_str(shell)), enough=4) < 4
    ids = ours.encode(" ".join(TEXTS) * 20)

    def stream() -> None:
        out = Detokenizer(ours)
        for token in ids:
            out.push(token)

    def peer() -> None:
        out = DecodeStream(skip_special_tokens=False)
        for token in ids:
            out.step(hf.backend_tokenizer, token)

    assert ratio(lambda: cpu_s(stream), lambda: cpu_s(peer), enough=5) < 5
