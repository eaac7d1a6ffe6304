"""SentencePiece models whose pieces have other ids than the file gives them, by the tokenizer's
class: those of fairseq's models (XLM-RoBERTa, CamemBERT), and T5's, which has more tokens.

Where the tokens lie: the classes' converters in transformers. A tokenizer.json has the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rbee_worker.tokenizer.spm import SentencePieceModel
from rbee_worker.tokenizer.vocabulary import PieceType

_SENTINELS = 100  # of T5, unless extra_ids says otherwise
_MOST_SENTINELS = 1 << 16
_NORMAL, _SPECIAL, _UNKNOWN = (
    int(kind) for kind in (PieceType.NORMAL, PieceType.CONTROL, PieceType.UNKNOWN)
)
_NEVER = -100.0  # score of a piece that is not to be used


def renumbered(
    model: SentencePieceModel, name: str, config: Mapping[str, Any]
) -> tuple[SentencePieceModel, bool]:
    """The model with the ids of the class `name`, and whether texts get RoBERTa's tokens around
    them. config: tokenizer_config.json."""
    if name == "XLMRobertaTokenizer":
        first = [("<s>", _SPECIAL), ("<pad>", _SPECIAL), ("</s>", _SPECIAL), ("<unk>", _UNKNOWN)]
        return _between(model, first, 3), True
    if name == "CamembertTokenizer":
        first = [
            *(("<s>NOTUSED", _SPECIAL), ("<pad>", _SPECIAL), ("</s>NOTUSED", _SPECIAL)),
            *(("<unk>", _UNKNOWN), ("<unk>NOTUSED", _SPECIAL)),
        ]
        return _between(model, first, 1), True
    if name in ("T5Tokenizer", "MT5Tokenizer"):
        return _with_sentinels(model, config.get("extra_ids")), False
    return model, False


def _between(
    model: SentencePieceModel, first: list[tuple[str, int]], left_out: int
) -> SentencePieceModel:
    """Tokens of the class, then the pieces without the first ones, then the one for masked
    words."""
    count = len(model.pieces) - left_out
    scores = [_NEVER if text == "<unk>NOTUSED" else 0.0 for text, _ in first]
    pieces = [*(text for text, _ in first), *model.pieces[left_out:], "<mask>"]
    return (
        replace(
            model,
            pieces=pieces,
            scores=[*scores, *model.scores[left_out:], 0.0],
            types=[*(kind for _, kind in first), *model.types[left_out:], _SPECIAL],
            bos_id=pieces.index("<s>") if "<s>" in pieces else None,
            eos_id=pieces.index("</s>") if "</s>" in pieces else None,
        )
        if count > 0
        else model
    )


def _with_sentinels(model: SentencePieceModel, given: Any) -> SentencePieceModel:
    """T5's tokens for what is left out of a text, the last one's first; some files have them."""
    count = given if type(given) is int and 0 <= given <= _MOST_SENTINELS else _SENTINELS
    there = {*model.pieces}
    texts = (f"<extra_id_{n}>" for n in reversed(range(count)))
    added = [text for text in texts if text not in there]
    return replace(
        model,
        pieces=[*model.pieces, *added],
        scores=[*model.scores, *[0.0] * len(added)],
        types=[*model.types, *[_SPECIAL] * len(added)],
    )
