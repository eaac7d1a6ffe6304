r"""Byte-level BPE pre-tokenizers by the name a GGUF file gives in `tokenizer.ggml.pre`: data only.

A row says how the published `tokenizer.json` of that family splits text before BPE, in components
of the `tokenizers` library. Splits are regular expressions of Oniguruma, that library's engine: so
`(?i:..)` folds case as Unicode does, `$` also matches before a newline, and `\s`, `\p{L}`, `\p{N}`,
`\p{P}`, `\p{S}`, `\p{M}` are Unicode properties. Other readers of GGUF files rewrite some of these
for engines with fewer features (no case folding, no classes); where such a rewrite differs from the
published form, this table has the published one.

Sources: the `tokenizer.json` files of the families named in each row; names of rows and aliases are
those that llama.cpp's converter writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Step(NamedTuple):
    """One pre-tokenizer component; `arg` is its regex or option."""

    kind: Literal["split", "remove", "digits", "punctuation", "byte_level"]
    arg: str | bool


@dataclass(frozen=True)
class Pre:
    """How one family splits text before byte-level BPE."""

    steps: tuple[Step, ...]
    nfc: bool = False  # normalize text to Unicode NFC first
    ignore_merges: bool = False  # a whole word that is a token is used without merging
    add_bos: bool = False  # if the file does not say


def _split(*patterns: str) -> tuple[Step, ...]:
    return (*(Step("split", p) for p in patterns), Step("byte_level", False))


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"


def _tiktoken(digits: str) -> str:
    """cl100k's kind: contractions, words, runs of up to `digits` digits, symbols, blanks."""
    return _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + _SYMBOLS + _TAIL


_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _o200k(contraction: str, digits: str) -> str:
    """o200k's kind: words are split where lower case changes to upper case."""
    head = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{head}{_UPPER}*{_LOWER}+{contraction}|{head}{_UPPER}+{_LOWER}*{contraction}|{digits}"
        + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
        + _TAIL
    )


# Letters of alphabets with case, as deepseek-llm's tokenizer.json lists them.
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    "Ὀ-Ὅὐ-ὗὙὛὝ\u1f5f-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌ\u1fd0-\u1fd3\u1fd6-\u1fdbῠ-Ῥῲ-ῴῶ-ῼ\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d"
    "\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214eↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮ"
    "ⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_CJK = "[一-龥ࠀ-一가-\ud7ff]+"
_ASCII_SYMBOLS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""

_GPT2 = (Step("byte_level", True),)
_DIGITS_GPT2 = (Step("digits", True), Step("byte_level", True))
_CL100K = _tiktoken(r"\p{N}{1,3}")
_CL100K_SINGLE = _tiktoken(r"\p{N}")
_DIGITS_AND_BYTES = (Step("digits", True), Step("byte_level", False))

PRE_TOKENIZERS: dict[str, Pre] = {
    "gpt-2": Pre(_GPT2),  # GPT-2, Phi-1/2
    "mpt": Pre(_GPT2, nfc=True),  # GPT-NeoX-20B's: MPT, Pythia, Mamba
    "olmo": Pre(_GPT2, nfc=True),
    "modern-bert": Pre(_GPT2, nfc=True),
    "smollm": Pre(_DIGITS_GPT2),
    "starcoder": Pre(_DIGITS_GPT2),
    "refact": Pre(_DIGITS_GPT2),  # also Granite 3
    "codeshell": Pre(_DIGITS_GPT2),
    "exaone": Pre(_DIGITS_GPT2),
    "command-r": Pre(_DIGITS_GPT2, nfc=True),
    "llama-bpe": Pre(_split(_CL100K), ignore_merges=True, add_bos=True),
    "dbrx": Pre(_split(_CL100K)),
    "smaug-bpe": Pre(_split(_CL100K)),
    "chatglm-bpe": Pre(_split(_CL100K)),
    "qwen2": Pre(_split(_CL100K_SINGLE), nfc=True),
    "stablelm2": Pre(_split(_CL100K_SINGLE), nfc=True),
    "grok-2": Pre(_split(_CL100K_SINGLE)),
    "qwen35": Pre(
        _split(
            _CONTRACTIONS
            + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
            + _TAIL
        ),
        nfc=True,
    ),
    "tekken": Pre(_split(_o200k("", r"\p{N}")), ignore_merges=True, add_bos=True),
    "gpt-4o": Pre(_split(_o200k(_CONTRACTIONS + "?", r"\p{N}{1,3}"))),
    "llama4": Pre(
        _split(_o200k(_CONTRACTIONS + "?", r"\p{N}{1,3}")), ignore_merges=True, add_bos=True
    ),
    "deepseek-llm": Pre(
        (
            Step("split", r"[\r\n]"),
            Step("split", rf"\s?[{_CASED}]+"),
            Step("split", r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Step("split", r"\s+$"),
            Step("split", _CJK),
            *_DIGITS_AND_BYTES,
        ),
    ),
    "deepseek-coder": Pre(
        (
            Step("split", r"[\r\n]"),
            Step("split", r"\s?\p{L}+"),
            Step("split", r"\s?\p{P}+"),
            Step("split", _CJK),
            *_DIGITS_AND_BYTES,
        ),
    ),
    "deepseek-v3": Pre(
        _split(
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            _ASCII_SYMBOLS
            + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            + _TAIL,
        ),
    ),
    "falcon": Pre(
        (
            Step("punctuation", "contiguous"),
            Step("byte_level", True),
            Step("digits", False),
            Step("split", "[0-9][0-9][0-9]"),
        )
    ),
}

ALIASES: dict[str, str] = {
    "gpt2": "gpt-2",
    "phi-2": "gpt-2",
    "mellum": "gpt-2",
    "gigachat": "gpt-2",
    "exaone4": "gpt-2",
    "gpt-neox": "mpt",
    "minerva-7b": "smollm",
    "mellum2": "smollm",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "falcon-h1": "llama-bpe",
    "pixtral": "llama-bpe",
    "midm-2.0": "llama-bpe",
    "lfm2": "llama-bpe",
    "glm4": "chatglm-bpe",
    "deepseek-r1-qwen": "qwen2",
    "megrez": "qwen2",
    "kormo": "qwen2",
    "hunyuan": "qwen2",
    "deepseek-coder-v2": "deepseek-llm",
    "hunyuan-dense": "deepseek-v3",
    "kanana2": "gpt-4o",
    "minimax-m2": "gpt-4o",
}

# For a file that does not say (or says "default"): tokens that only one family has, tried in order.
# (token that must be in the vocabulary, smallest vocabulary size, row)
TELLTALES: tuple[tuple[str, int, str], ...] = (
    ("<|begin_of_text|>", 100_000, "llama-bpe"),
    ("<｜begin▁of▁sentence｜>", 120_000, "deepseek-v3"),
    ("<｜begin▁of▁sentence｜>", 90_000, "deepseek-llm"),
    ("<｜begin▁of▁sentence｜>", 0, "deepseek-coder"),
    ("[gMASK]", 100_000, "chatglm-bpe"),
    ("<|START_OF_TURN_TOKEN|>", 0, "command-r"),
    ("[AVAILABLE_TOOLS]", 100_000, "tekken"),
    ("<|startoftext|>", 190_000, "gpt-4o"),
    ("<|im_start|>", 150_000, "qwen2"),
    ("<|endoftext|>", 150_000, "qwen2"),
    (">>TITLE<<", 60_000, "falcon"),
    ("<fim_prefix>", 0, "starcoder"),
    ("<|padding|>", 0, "mpt"),
)
FALLBACK = "gpt-2"
