"""Every file that says something of tokens is read, or named as not read; against transformers."""

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rbee_worker.checkpoint.reading import read_json
from rbee_worker.checkpoint.tokenizer_files import UNREAD, tokenizer_files
from rbee_worker.errors import CheckpointError
from rbee_worker.tokenizer.chat import ChatRenderer
from rbee_worker.tokenizer.classes import CLASSES, NAMES
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.tokenizer.eos import eos_set
from rbee_worker.tokenizer.load import load_tokenizer
from tests.tokenizer.builders import Source, train_byte_level
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.texts import TEXTS

SIZE = 701  # tokens of what is trained here
USER, END = "<|user|>", "<|end|>"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return train_byte_level(*PUBLISHED["llama-bpe"])


def write(folder: Path, **files: Any) -> Path:
    """Files by their names with `_` for the last dot: objects as JSON, strings as they are."""
    for name, content in files.items():
        path = folder / ".".join(name.rsplit("_", 1))
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
    return folder


def ours_of(folder: Path) -> Tokenizer:
    return load_tokenizer(source_of(folder))


def source_of(folder: Path) -> Source:
    def read(name: str) -> dict[str, Any]:
        path = folder / name
        return read_json(path) if path.exists() else {}

    return Source(
        files=tokenizer_files(folder),
        tokenizer_config=read("tokenizer_config.json"),
        config=read("config.json"),
    )


def same(ours: Tokenizer, hf: PreTrainedTokenizerFast, more: str = "") -> None:
    for text in (*TEXTS, more):
        for special in (True, False):
            want = hf.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special=special) == want, text
    vocab = hf.get_vocab()
    assert {t: ours.token_id(t) for t in vocab} == vocab


ADDED = {
    "those of a conversation": ({USER: SIZE, END: SIZE + 1}, {"eos_token": END}),
    "not in order": ({END: SIZE + 1, USER: SIZE}, {"eos_token": END}),
    "one of them plain": ({"<plain>": SIZE, END: SIZE + 1}, {"eos_token": END}),
    "known ones among them": ({"<|im_end|>": 2, USER: SIZE}, {"eos_token": "<|im_end|>"}),
    "named by nothing": ({USER: SIZE, END: SIZE + 1}, {}),
    "others than the named": ({USER: SIZE}, {"pad_token": "<|pad|>", "bos_token": "<|b|>"}),
}


@pytest.mark.parametrize("name", ADDED)
def test_added_tokens_json_equals_transformers(
    name: str, made: dict[str, Any], tmp_path: Path
) -> None:
    added, config = ADDED[name]
    folder = write(
        tmp_path, tokenizer_json=made, tokenizer_config_json=config, added_tokens_json=added
    )
    ours, hf = ours_of(folder), PreTrainedTokenizerFast.from_pretrained(str(folder))
    same(ours, hf, f"a {USER} b<plain>{END} c")
    assert {text: ours.token_id(text) for text in added} == added
    assert ours.eos_id == hf.eos_token_id
    assert ours.warnings == ()
    assert ours.unread == {}


def test_the_end_token_is_the_one_that_the_file_gives_an_id(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """It once got the id of the token that the file lists before it."""
    added = {USER: SIZE, END: SIZE + 1}
    folder = write(
        tmp_path,
        tokenizer_json=made,
        tokenizer_config_json={"eos_token": END},
        added_tokens_json=added,
    )
    ends = {e.id: e.text for e in eos_set(source_of(folder), ours_of(folder))}
    assert ends[SIZE + 1] == END
    assert SIZE not in ends


@pytest.mark.parametrize("listed", ["added_tokens.json", "tokenizer_config.json"])
def test_an_id_beyond_a_gap_is_the_files(listed: str, made: dict[str, Any], tmp_path: Path) -> None:
    """transformers gives such a token the next free id, whatever the file says."""
    tokens = {"<far>": 900, "<near>": 800}
    entries = {str(i): {"content": t, "special": True} for t, i in tokens.items()}
    folder = write(tmp_path, tokenizer_json=made)
    if listed == "added_tokens.json":
        write(folder, added_tokens_json=tokens, tokenizer_config_json={"eos_token": "<far>"})
    else:
        config = {"added_tokens_decoder": entries, "eos_token": "<far>"}
        write(folder, tokenizer_config_json=config)
    ours = ours_of(folder)
    plain = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert ours.encode("a<near>b<far>", add_special=False) == [
        *plain.encode("a", add_special_tokens=False),
        800,
        *plain.encode("b", add_special_tokens=False),
        900,
    ]
    assert (ours.token_text(900), ours.vocab_size, ours.eos_id) == ("<far>", 901, 900)
    assert not ours.has(850)
    for text in TEXTS:
        assert ours.encode(text) == plain.encode(text)


def test_two_tokens_for_one_id_are_refused_with_both(made: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path, tokenizer_json=made, added_tokens_json={END: 2})
    with pytest.raises(CheckpointError, match=r"gives id 2 to '<\|end\|>'.*'<\|im_end\|>'"):
        ours_of(folder)
    write(folder, added_tokens_json={END: 900, USER: 900})
    with pytest.raises(CheckpointError, match=r"both have id 900"):
        ours_of(folder)


def test_where_two_files_place_a_token_the_vocabulary_counts(
    made: dict[str, Any], tmp_path: Path
) -> None:
    folder = write(
        tmp_path, tokenizer_json=made, added_tokens_json={"<|im_end|>": 1, "<|im_start|>": 2}
    )
    ours, hf = ours_of(folder), PreTrainedTokenizerFast.from_pretrained(str(folder))
    same(ours, hf)
    assert ours.warnings == (
        "added_tokens.json places 2 tokens at other ids than the vocabulary: "
        "the vocabulary's ids apply",
    )


NAMING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "both name it": ({"eos_token": "<|im_end|>"}, {"eos_token": "<|endoftext|>"}),
    "the map alone": ({}, {"eos_token": {"content": "<|im_end|>"}}),
    "the map has more": ({"eos_token": "<|im_end|>"}, {"pad_token": "<|pad|>", "cls_token": "C"}),
    "added tokens are listed": (
        {"eos_token": "<|im_end|>", "added_tokens_decoder": {}},
        {"eos_token": "<|endoftext|>"},
    ),
    "lists in both": (
        {"additional_special_tokens": ["<|q|>"]},
        {"additional_special_tokens": ["<|z|>"]},
    ),
    "a list in the map": ({}, {"additional_special_tokens": ["<|z|>"]}),
    "ids in the order of names": ({"pad_token": "<p>", "x_token": "<x>", "bos_token": "<b>"}, {}),
}


@pytest.mark.parametrize("name", NAMING)
def test_names_come_from_the_file_that_transformers_takes(
    name: str, made: dict[str, Any], tmp_path: Path
) -> None:
    config, names = NAMING[name]
    folder = write(
        tmp_path, tokenizer_json=made, tokenizer_config_json=config, special_tokens_map_json=names
    )
    ours, hf = ours_of(folder), PreTrainedTokenizerFast.from_pretrained(str(folder))
    same(ours, hf, "a<|q|><|z|><p><x><b>C<|pad|>")
    assert ours.eos_id == hf.eos_token_id
    assert ours.template_tokens == hf.special_tokens_map
    told = [w for w in ours.warnings if "eos_token" in w]
    assert len(told) == (name == "both name it")
    assert ("special_tokens_map.json" in ours.unread) == (name == "added tokens are listed")


KNOWN: dict[str, dict[str, Any]] = {
    "none": {},
    "all": {name: f"<{name}>" for name in NAMES},
    "an object": {"unk_token": {"__type": "AddedToken", "content": "<unk>"}},
    "null": {"pad_token": None, "bos_token": "<|im_start|>"},
    "names of its own": {"image_token": "<img>", "x": "y", "boi_token": "<boi>"},
    "a list of extra tokens": {"extra_special_tokens": ["<q>"]},
    "extra tokens by name": {"extra_special_tokens": {"audio_token": "<aud>"}},
    "not text": {"add_bos_token": True, "errors": "replace"},
}
TEMPLATE = "".join(f"[{{{{ {n} }}}}]" for n in (*NAMES, "image_token", "boi_token", "audio_token"))


@pytest.mark.parametrize("name", KNOWN)
def test_names_that_a_template_knows_are_those_of_transformers(
    name: str, made: dict[str, Any], tmp_path: Path
) -> None:
    config = {**KNOWN[name], "chat_template": TEMPLATE}
    write(tmp_path, tokenizer_json=made, tokenizer_config_json=config)
    hf = PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    ours = ours_of(tmp_path)
    ask = [{"role": "user", "content": "x"}]
    assert ours.chat_template is not None
    with ChatRenderer(ours.chat_template, special_tokens=ours.template_tokens) as renderer:
        assert renderer.render(ask) == hf.apply_chat_template(ask, tokenize=False)


@pytest.mark.parametrize("name", CLASSES)
def test_defaults_of_classes_are_those_of_transformers(name: str) -> None:
    parameters = inspect.signature(getattr(transformers, name)).parameters
    found = {n: str(p.default) for n, p in parameters.items() if n in NAMES and p.default}
    assert dict(CLASSES[name].tokens) == found


@pytest.mark.parametrize(
    ("config", "tokenizer_config"),
    [
        ({"model_type": "qwen2"}, {}),
        ({"model_type": "qwen2"}, {"eos_token": "<|im_end|>", "pad_token": None}),
        ({"model_type": "llama"}, {"tokenizer_class": "Qwen2TokenizerFast"}),
        ({"model_type": "llama"}, {"tokenizer_class": "LlamaTokenizerFast"}),
        ({"model_type": "llama"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"model_type": "llama"}, {}),
        ({"model_type": "starcoder2"}, {}),
    ],
    ids=str,
)
def test_a_template_knows_what_a_class_assumes(
    config: dict[str, Any],
    tokenizer_config: dict[str, Any],
    made: dict[str, Any],
    tmp_path: Path,
) -> None:
    write(tmp_path, tokenizer_json=made, config_json=config, tokenizer_config_json=tokenizer_config)
    assert ours_of(tmp_path).template_tokens == auto(tmp_path).special_tokens_map


def auto(folder: Path) -> PreTrainedTokenizerFast:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(str(folder))


def gpt2_files(folder: Path, pre: str) -> Path:
    """vocab.json and merges.txt of a vocabulary that was trained with that row's split."""
    trained = train_byte_level(*PUBLISHED[pre])
    vocab = trained["model"]["vocab"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in trained["model"]["merges"])]
    return write(folder, vocab_json=vocab, merges_txt="\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("pre", "config"),
    [
        ("gpt-2", {"tokenizer_class": "GPT2Tokenizer"}),
        ("gpt-2", {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}),
        ("gpt-2", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}),
        ("qwen2", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}),
        ("qwen2", {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|pad|>"}),
        ("mpt", {"tokenizer_class": "GPTNeoXTokenizer"}),
    ],
    ids=str,
)
def test_vocab_and_merges_equal_transformers(
    pre: str, config: dict[str, Any], tmp_path: Path
) -> None:
    gpt2_files(tmp_path, pre)
    added = {"<|tool|>": SIZE - 1}
    write(tmp_path, tokenizer_config_json=config, added_tokens_json=added)
    write(tmp_path, config_json={"model_type": "gpt_bigcode"})
    cls = getattr(transformers, config["tokenizer_class"].removesuffix("Fast"))
    hf, ours = cls.from_pretrained(str(tmp_path)), ours_of(tmp_path)
    same(ours, hf, "a<|im_end|><|tool|> b<|endoftext|>c")
    assert ours.template_tokens == hf.special_tokens_map
    for text in TEXTS:
        ids = hf.encode(text)
        assert ours.decode(ids, skip_special=False) == hf.decode(
            ids, clean_up_tokenization_spaces=False
        )


def test_vocab_and_merges_of_an_unknown_class_are_refused(tmp_path: Path) -> None:
    gpt2_files(tmp_path, "gpt-2")
    write(tmp_path, tokenizer_config_json={"tokenizer_class": "OwnTokenizer"})
    with pytest.raises(CheckpointError, match=r"do not say how text is split.*'OwnTokenizer'"):
        ours_of(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"vocab_json": {"a": 0}, "merges_txt": "b c\n"},
        {"vocab_json": {"a": -1}, "merges_txt": ""},
        {"vocab_json": {"a": "x"}, "merges_txt": ""},
        {"vocab_json": {"a": 0, "b": 1}, "merges_txt": "a\n"},
    ],
    ids=str,
)
def test_damaged_vocab_and_merges(files: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config_json={"tokenizer_class": "GPT2Tokenizer"}, **files)
    with pytest.raises(CheckpointError, match=r"do not match.*Fix: download both"):
        ours_of(tmp_path)


@pytest.mark.parametrize("name", UNREAD)
def test_a_vocabulary_that_is_not_read_is_named(
    name: str, made: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(CheckpointError, match=f"no tokenizer found.*{name} is "):
        ours_of(tmp_path)
    write(tmp_path, tokenizer_json=made)
    assert ours_of(tmp_path).unread == {name: "tokenizer.json has the vocabulary"}


def test_half_of_a_vocabulary_is_named(tmp_path: Path) -> None:
    write(tmp_path, vocab_json={})
    with pytest.raises(CheckpointError, match="make a vocabulary only together"):
        ours_of(tmp_path)


TEMPLATES = {
    "processor only": ({}, {"chat_template_json": {"chat_template": "P"}}, "P"),
    "a list": (
        {},
        {"chat_template_json": {"chat_template": [{"name": "default", "template": "L"}]}},
        "L",
    ),
    "config before it": (
        {"chat_template": "C"},
        {"chat_template_json": {"chat_template": "P"}},
        "C",
    ),
    "jinja before all": (
        {"chat_template": "C"},
        {"chat_template_jinja": "J", "chat_template_json": {"chat_template": "P"}},
        "J",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_of_a_processor_is_read_or_named(
    name: str, made: dict[str, Any], tmp_path: Path
) -> None:
    config, files, want = TEMPLATES[name]
    write(tmp_path, tokenizer_json=made, tokenizer_config_json=config, **files)
    ours = ours_of(tmp_path)
    assert ours.chat_template == want
    left = want != "P" and name != "a list"
    assert ("chat_template.json" in ours.unread) == left
    assert any("has another chat template" in w for w in ours.warnings) == left


def test_templates_of_a_folder_equal_transformers(made: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, tokenizer_json=made, chat_template_jinja="D")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("T")
    ours, hf = ours_of(tmp_path), PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    assert ours.chat_templates == hf.chat_template == {"default": "D", "tool_use": "T"}
    assert ours.chat_template == "D"


BROKEN: dict[str, dict[str, Any]] = {
    "added tokens no object": {"added_tokens_json": []},
    "an id of text": {"added_tokens_json": {"<a>": "1"}},
    "an id below zero": {"added_tokens_json": {"<a>": -1}},
    "an id beyond all": {"added_tokens_json": {"<a>": 10**8}},
    "listed no object": {"tokenizer_config_json": {"added_tokens_decoder": []}},
    "listed no token": {"tokenizer_config_json": {"added_tokens_decoder": {"1": 5}}},
    "listed at no id": {"tokenizer_config_json": {"added_tokens_decoder": {"x": {"content": "a"}}}},
    "extra tokens no list": {"tokenizer_config_json": {"extra_special_tokens": 5}},
    "half of a character": {"tokenizer_config_json": {"eos_token": "\ud800"}},
    "half of a character, too": {"added_tokens_json": {"\udfff": 900}},
    "names no object": {"special_tokens_map_json": []},
    "a processor's no object": {"chat_template_json": []},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line_with_the_fix(
    name: str, made: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, tokenizer_json=made, **BROKEN[name])
    with pytest.raises(CheckpointError) as caught:
        ours_of(tmp_path)
    assert caught.value.fix
    assert "\n" not in str(caught.value)
