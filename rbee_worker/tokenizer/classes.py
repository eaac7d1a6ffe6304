"""What transformers' tokenizer classes assume if a checkpoint's files do not say. Data only.

The values are the defaults of the classes' constructors; `tests/tokenizer/test_files.py` compares
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The names that any tokenizer may give to tokens, in the order in which missing ones get ids.
NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class TokenizerClass:
    """tokens: by name, unless the files say otherwise. pre: the row of `PRE_TOKENIZERS` that splits
    text if the vocabulary is in vocab.json and merges.txt; "" if it never is.
    """

    tokens: Mapping[str, str] = field(default_factory=dict)
    pre: str = ""


_END = "<|endoftext|>"

CLASSES: Mapping[str, TokenizerClass] = {
    "GPT2Tokenizer": TokenizerClass(
        {"bos_token": _END, "eos_token": _END, "unk_token": _END}, "gpt-2"
    ),
    "Qwen2Tokenizer": TokenizerClass(
        {"eos_token": _END, "unk_token": _END, "pad_token": _END}, "qwen2"
    ),
    "GPTNeoXTokenizer": TokenizerClass(
        {"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"},
        "mpt",
    ),
    "GemmaTokenizer": TokenizerClass(
        {
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        }
    ),
    "CohereTokenizer": TokenizerClass(
        {
            "bos_token": "<BOS_TOKEN>",
            "eos_token": "<|END_OF_TURN_TOKEN|>",
            "unk_token": "<UNK>",
            "cls_token": "<CLS>",
            "sep_token": "<SEP>",
            "mask_token": "<MASK_TOKEN>",
            "pad_token": "<PAD>",
        }
    ),
    "RobertaTokenizer": TokenizerClass(
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "cls_token": "<s>",
            "mask_token": "<mask>",
        },
        "gpt-2",
    ),
    "LlamaTokenizer": TokenizerClass(
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ),
}

# The class for a checkpoint that names none.
_BY_MODEL_TYPE: Mapping[str, str] = {
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "GemmaTokenizer"),
    **dict.fromkeys(("mpt", "olmo"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("phi", "starcoder2"), "GPT2Tokenizer"),
    **dict.fromkeys(("t5", "mt5", "umt5"), "T5Tokenizer"),
    "cohere": "CohereTokenizer",
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
}


def class_name(tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The tokenizer class that a checkpoint's files name or imply, without "Fast"."""
    named = tokenizer_config.get("tokenizer_class")
    if not isinstance(named, str):
        named = config.get("tokenizer_class")
    if not isinstance(named, str):
        named = _BY_MODEL_TYPE.get(str(config.get("model_type")), "")
    return named.removesuffix("Fast")


def class_of(name: str, *, byte_level: bool) -> TokenizerClass:
    """The row of a class. Llama's is replaced if the vocabulary is byte-level: then the
    tokenizer.json alone decides."""
    if name == "LlamaTokenizer" and byte_level:
        return TokenizerClass()
    return CLASSES.get(name, TokenizerClass())
