"""The files that define how text becomes ids: those that are read, and those known but not read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rbee_worker.checkpoint.reading import inside, read_json

SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
WORLD = "rwkv_vocab_v20230424.txt"  # RWKV's
META = "first_stage.meta.json"  # MetaVoice's
# A directory that has a tokenizer has one of these.
VOCABULARIES = ("tokenizer.json", WORLD, META, *SENTENCEPIECE, "vocab.json", "vocab.txt")

BYTES = "ByT5Tokenizer"  # the class of a tokenizer whose vocabulary is in no file


def has_vocabulary(directory: Path) -> bool:
    """Whether a directory has what a tokenizer needs: a vocabulary, or the name of ByT5's class.
    Raises CheckpointError for a damaged file."""
    if any((directory / name).is_file() for name in VOCABULARIES):
        return True
    config = directory / "tokenizer_config.json"
    return config.is_file() and read_json(config).get("tokenizer_class") == BYTES


# Files that a tokenizer may be read from; `Checkpoint.files` has those that exist.
READ = (
    "tokenizer.json",
    *SENTENCEPIECE,
    WORLD,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    META,
)
TEMPLATES = "additional_chat_templates"  # a folder of NAME.jinja

# Tokenizer files of other libraries. A directory that has only these cannot be used.
UNREAD: Mapping[str, str] = MappingProxyType(
    {
        "rwkv_vocab_v20230424.json": "RWKV's vocabulary without the tokens that are no whole text",
        "tekken.json": "mistral-common's own format",
        "tiktoken.model": "tiktoken's own format",
        "qwen.tiktoken": "tiktoken's own format",
        "tokenizer.model.v3": "mistral-common's own format",
        "vocab.bpe": "OpenAI's name for merges.txt",
        "encoder.json": "OpenAI's name for vocab.json",
    }
)


def tokenizer_files(directory: Path) -> dict[str, Path]:
    """The files of `READ` and `UNREAD` that a model directory has, and its named chat templates
    (under `additional_chat_templates/NAME.jinja`).

    Raises CheckpointError for a link that leads out of the directory.
    """
    names = [name for name in (*READ, *UNREAD) if (directory / name).is_file()]
    folder = directory / TEMPLATES
    if folder.is_dir():
        names += sorted(f"{TEMPLATES}/{file.name}" for file in folder.glob("*.jinja"))
    return {name: inside(directory, directory / name) for name in names}
