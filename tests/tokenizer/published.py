"""Pre-tokenizers and normalizers as published tokenizer.json files have them: the oracle.

Where transformers carries the family's own tokenizer class, its regex is taken from there.
"""

from __future__ import annotations

import json
from typing import Any

from transformers.integrations.gguf import gguf_tokenizer_mapping as hf
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN35

NFC = {"type": "NFC"}


def _split(pattern: str) -> dict[str, Any]:
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


DIGITS = {"type": "Digits", "individual_digits": True}
GPT2 = _bytes(True)
DIGITS_GPT2 = _sequence(DIGITS, _bytes(True))
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

# deepseek-llm-7b-base: letters of alphabets with case, as JavaScript lists them.
DEEPSEEK_LETTERS = json.loads(
    r'"[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af'
    r"\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-"
    r"\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-"
    r"\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-"
    r"\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc"
    r"\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-"
    r"\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    r"\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-"
    r"\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-"
    r"\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\ud801\udc00-\ud801\udc4f\ud801"
    r"\udcb0-\ud801\udcd3\ud801\udcd8-\ud801\udcfb\ud803\udc80-\ud803\udcb2\ud803\udcc0-\ud803"
    r'\udcf2\ud806\udca0-\ud806\udcdf\ud83a\udd00-\ud83a\udd43]+"'
)

# tokenizer.ggml.pre -> (pre_tokenizer, normalizer, ignore_merges)
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any] | None, bool]] = {
    "gpt-2": (GPT2, None, False),
    "phi-2": (GPT2, None, False),
    "mpt": (GPT2, NFC, False),
    "olmo": (GPT2, NFC, False),
    "smollm": (DIGITS_GPT2, None, False),
    "starcoder": (DIGITS_GPT2, None, False),
    "refact": (DIGITS_GPT2, None, False),
    "command-r": (DIGITS_GPT2, NFC, False),
    "llama-bpe": (_sequence(_split(hf._LLAMA3_SPLIT), _bytes(False)), None, True),
    "llama-v3": (_sequence(_split(hf._LLAMA3_SPLIT), _bytes(False)), None, True),
    "dbrx": (_sequence(_split(hf._LLAMA3_SPLIT), _bytes(False)), None, False),
    "chatglm-bpe": (_sequence(_split(hf._LLAMA3_SPLIT), _bytes(False)), None, False),
    "glm4": (_sequence(_split(hf._LLAMA3_SPLIT), _bytes(False)), None, False),
    "qwen2": (_sequence(_split(QWEN2), _bytes(False)), NFC, False),
    "deepseek-r1-qwen": (_sequence(_split(QWEN2), _bytes(False)), NFC, False),
    "qwen35": (_sequence(_split(QWEN35), _bytes(False)), NFC, False),
    "tekken": (_sequence(_split(hf._TEKKEN_SPLIT), _bytes(False)), None, True),
    "gpt-4o": (_sequence(_split(hf._GPT4O_SPLIT), _bytes(False)), None, False),
    "llama4": (_sequence(_split(hf._GPT4O_SPLIT), _bytes(False)), None, True),
    "deepseek-llm": (
        _sequence(
            _split("[\r\n]"),
            _split(r"\s?" + DEEPSEEK_LETTERS),
            _split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
            _split(r"\s+$"),
            _split(CJK),
            DIGITS,
            _bytes(False),
        ),
        None,
        False,
    ),
    "deepseek-coder": (
        _sequence(
            _split("[\r\n]"),
            _split(r"\s?\p{L}+"),
            _split(r"\s?\p{P}+"),
            _split(CJK),
            DIGITS,
            _bytes(False),
        ),
        None,
        False,
    ),
    "deepseek-v3": (
        _sequence(
            _split(r"\p{N}{1,3}"),
            _split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            _split(
                "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
                "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
                "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
            ),
            _bytes(False),
        ),
        None,
        False,
    ),
    "falcon": (
        _sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            _bytes(True),
            {"type": "Digits", "individual_digits": False},
            _split("[0-9][0-9][0-9]"),
        ),
        None,
        False,
    ),
}
