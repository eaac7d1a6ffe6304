"""A prompt to fill a gap: the text before it and the text behind it, in the form in which models
for code are trained, with the tokens that their vocabularies have for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rbee_worker.tokenizer.core import Tokenizer


class _Names(NamedTuple):
    """Spellings of the tokens, by their role."""

    prefix: str
    suffix: str
    middle: str


# one row for each spelling: Qwen and Gemma; StarCoder and Granite; SantaCoder; DeepSeek; CodeLlama;
# GLM and CodeGeeX
_SPELLINGS = (
    _Names("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    _Names("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    _Names("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    _Names("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    _Names("▁<PRE>", "▁<SUF>", "▁<MID>"),
    _Names("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)
_REPOSITORY = ("<|repo_name|>", "<repo_name>", "<reponame>")
_FILE = ("<|file_sep|>", "<file_sep>", "<filename>")
_PROJECT = "project\n"  # the name of a repository whose name nobody gave
_BETWEEN = "\n\n"  # extra texts, where a vocabulary has no token between files


class GapTokens(NamedTuple):
    """The ids of one vocabulary. repository, file: None where there is no such token."""

    prefix: int
    suffix: int
    middle: int
    repository: int | None
    file: int | None


class Extra(NamedTuple):
    """A file that is shown before the one with the gap."""

    filename: str
    text: str


def gap_tokens(tokenizer: Tokenizer) -> GapTokens | None:
    """The tokens of this vocabulary, None if it has none of the kind."""
    for names in _SPELLINGS:
        ids = [tokenizer.token_id(name) for name in names]
        if None not in ids:
            prefix, suffix, middle = (i for i in ids if i is not None)
            repository = _first(tokenizer, _REPOSITORY)
            return GapTokens(prefix, suffix, middle, repository, _first(tokenizer, _FILE))
    return None


def gap_prompt(
    tokenizer: Tokenizer,
    tokens: GapTokens,
    prefix: str,
    suffix: str,
    *,
    begun: str = "",
    extra: Sequence[Extra] = (),
    filename: str = "",
) -> tuple[int, ...]:
    """The ids of the prompt. begun: text of the gap that is there already."""

    def plain(text: str) -> list[int]:
        return tokenizer.encode(text, add_special=False, parse_special=False) if text else []

    ids = [] if tokenizer.bos_id is None or not _opens(tokenizer) else [tokenizer.bos_id]
    if extra and tokens.repository is not None and tokens.file is not None:
        ids += [tokens.repository, *plain(_PROJECT)]
    for one in extra:
        if tokens.file is None:
            ids += plain(one.text + _BETWEEN)
        else:
            ids += [tokens.file, *plain(f"{one.filename}\n{one.text}")]
    if extra and tokens.file is not None:
        ids += [tokens.file, *plain(f"{filename or 'filename'}\n")]
    return (
        *ids,
        *(tokens.prefix, *plain(prefix)),
        *(tokens.suffix, *plain(suffix)),
        *(tokens.middle, *plain(begun)),
    )


def _opens(tokenizer: Tokenizer) -> bool:
    """Whether the model's texts begin with its opening token."""
    return tokenizer.encode("x", add_special=True)[:1] == [tokenizer.bos_id]


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    return next((i for n in names if (i := tokenizer.token_id(n)) is not None), None)
