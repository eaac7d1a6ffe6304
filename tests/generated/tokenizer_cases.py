"""Tokenizer files, edited; the outside reader is transformers: where both read, ids are equal."""

from __future__ import annotations

import json
import logging
import random
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from rbee_worker.checkpoint.reading import read_json
from rbee_worker.checkpoint.tokenizer_files import tokenizer_files
from rbee_worker.tokenizer.core import Tokenizer as Ours
from rbee_worker.tokenizer.eos import eos_set
from rbee_worker.tokenizer.load import load_tokenizer
from tests.generated import mutate
from tests.generated.budget import within_budget
from tests.tokenizer.builders import Source, train_byte_level
from tests.tokenizer.published import PUBLISHED
from tests.tokenizer.texts import CORPUS, SPECIALS

TEXTS = (
    "Hello 123 world, it's 2.5 é日本 🤫!",
    "  two  blanks\n\n\tand more \r\n ",
    "<|im_start|>user\nhi<|im_end|><think><extra>x<s>",
    "",
    "A" * 40,
)
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "x_token")
TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "<extra>", "<s>", "", "a", "<unk>")


def _meta(kind: str) -> dict[str, Any]:
    """A tokenizer.json of SentencePiece's kind, trained here."""
    if kind == "unigram":
        backend = Tokenizer(models.Unigram())
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=["<unk>", *SPECIALS], unk_token="<unk>"
        )
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<unk>", *SPECIALS, *(f"<0x{b:02X}>" for b in range(256))],
            show_progress=False,
        )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    if kind == "unigram":
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    made: dict[str, Any] = json.loads(backend.to_str())
    return made


@cache
def sound() -> tuple[dict[str, Any], ...]:
    """tokenizer.json files of every kind."""
    transformers.logging.set_verbosity(logging.CRITICAL)
    rows = [train_byte_level(*PUBLISHED[name]) for name in ("llama-bpe", "qwen2", "gpt-2")]
    return *rows, _meta("bpe"), _meta("unigram")


def written(rng: random.Random, folder: Path) -> None:
    """One case's files."""
    for old in folder.iterdir():
        old.unlink()
    made = rng.choice(sound())
    if rng.random() < 0.6:
        made = _edited(rng, made)
    text = mutate.written(made)
    if rng.random() < 0.1:
        text = mutate.damaged(rng, text, front=2000)
    (folder / "tokenizer.json").write_bytes(text)
    config = {name: rng.choice(TOKENS) for name in NAMES if rng.random() < 0.3}
    if rng.random() < 0.3:
        config["added_tokens_decoder"] = _listed(rng, made)
    if rng.random() < 0.2:
        config["additional_special_tokens"] = rng.sample(TOKENS, 2)
    if rng.random() < 0.2:
        config = mutate.edited(rng, config)
    files: dict[str, Any] = {"tokenizer_config.json": config}
    if rng.random() < 0.3:
        names = {name: rng.choice(TOKENS) for name in NAMES if rng.random() < 0.4}
        files["special_tokens_map.json"] = (
            mutate.edited(rng, names) if rng.random() < 0.2 else names
        )
    if rng.random() < 0.3:
        size = _size(made)
        files["added_tokens.json"] = {
            t: size + n + rng.choice([0, 0, 0, 1]) for n, t in enumerate(rng.sample(TOKENS[2:5], 2))
        }
    for name, content in files.items():
        (folder / name).write_bytes(mutate.written(content))


def _edited(rng: random.Random, made: dict[str, Any]) -> dict[str, Any]:
    """A change outside of the vocabulary, or one of its entries."""
    out = dict(made)
    part = rng.choice(["normalizer", "pre_tokenizer", "decoder", "post_processor", "added_tokens"])
    how = rng.random()
    if how < 0.15:
        out[part] = None if part != "added_tokens" else []
    elif how < 0.5:
        out[part] = mutate.near(rng, out[part])
    elif how < 0.7:
        model = dict(out["model"])
        key = rng.choice([k for k in model if k not in ("vocab", "merges")])
        out["model"] = {**model, key: mutate.near(rng, model[key])}
    elif how < 0.85 and isinstance(out["model"]["vocab"], dict):
        vocab = dict(out["model"]["vocab"])
        vocab[rng.choice(["zz", "<extra>", "é"])] = rng.choice([5, 900, 2**22, 2**31, -1])
        out["model"] = {**out["model"], "vocab": vocab}
    else:
        out = mutate.edited(rng, out)
    return out


def _listed(rng: random.Random, made: Any) -> dict[str, Any]:
    size = _size(made)
    flags = ("lstrip", "rstrip", "special", "single_word", "normalized")
    return {
        str(size + n): {"content": t, **{f: rng.random() < 0.3 for f in flags}}
        for n, t in enumerate(rng.sample(["<extra>", "<s>", "<new>", "a"], rng.randrange(1, 4)))
    }


def _size(made: Any) -> int:
    """Tokens of the vocabulary, as far as there is one."""
    model = made.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return len(vocab) if isinstance(vocab, dict | list) else 700


def check(number: int, folder: Path) -> str:
    """Run case `number`: "refused", "alone" where transformers refuses, or "equal"."""
    rng = random.Random(f"tokenizer {number}")
    home = folder / "case"
    home.mkdir(exist_ok=True)
    written(rng, home)
    loaded = within_budget(lambda: load(home)).value
    if loaded is None:
        return "refused"
    hf = theirs(home)
    if hf is None or placed_by_the_file(loaded, hf, home):
        return "alone"
    for text in TEXTS:
        same(loaded, hf, text)
    return "equal"


def load(folder: Path) -> Ours:
    """As a checkpoint's text side is made."""
    path = folder / "tokenizer_config.json"
    source = Source(files=tokenizer_files(folder), tokenizer_config=read_json(path))
    loaded = load_tokenizer(source)
    eos_set(source, loaded)
    return loaded


def theirs(folder: Path) -> PreTrainedTokenizerFast | None:
    """transformers' tokenizer; None where it refuses, or its library panics."""
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


def placed_by_the_file(loaded: Ours, hf: PreTrainedTokenizerFast, folder: Path) -> bool:
    """Has a file given a token an id that transformers does not give it?"""
    listed: dict[str, int] = {}
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    for key, entry in (config.get("added_tokens_decoder") or {}).items():
        listed[entry["content"]] = int(key)
    if "added_tokens_decoder" not in config and (folder / "added_tokens.json").exists():
        listed |= json.loads((folder / "added_tokens.json").read_bytes())
    theirs = hf.get_vocab()
    return any(loaded.token_id(t) == i != theirs.get(t) for t, i in listed.items())


def same(loaded: Ours, hf: PreTrainedTokenizerFast, text: str) -> None:
    """Ids of a text, and the text of the ids."""
    for special in (True, False):
        found = within_budget(lambda s=special: loaded.encode(text, add_special=s)).value
        if found is None:
            continue
        want = hf.encode(text, add_special_tokens=special)
        assert found == want, f"{text[:20]!r}: {found[:12]} for {want[:12]}"
        got = loaded.decode(want, skip_special=False)
        expected = hf.decode(want, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert got == expected, f"{got[:40]!r} for {expected[:40]!r}"
