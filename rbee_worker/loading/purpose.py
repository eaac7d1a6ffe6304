"""What a loaded model is for: by its architecture, the files beside it, and the settings."""

from __future__ import annotations

from msgspec.structs import replace

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.pair_rule import pair_rule
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.model_info import PairScore, Purpose
from rbee_worker.models.base import Decoder

_YES_NO = ("yes", "no")  # the classes of llama.cpp's rerankers: the first one is the score


def dimensions_of(purpose: Purpose, model: Decoder) -> int:
    """How many numbers a vector has."""
    return purpose.pooling.dense[-1] if purpose.pooling.dense else model.width


def purpose_of(ckpt: Checkpoint, model: Decoder, settings: Settings) -> Purpose:
    """The purpose of a model, with the way of pooling that --pooling or the model's files say, or
    with what these say of a cross-encoder's score. Raises UsageError for a --rerank that does not
    go with the model."""
    purpose = model.purpose
    if purpose.task == "classify":
        said = ckpt.sentence.activation
        purpose = purpose if said is None else replace(purpose, activation=said)
        return replace(purpose, pairs=_pairs(ckpt, purpose, settings))
    if ckpt.headless:
        purpose = replace(purpose, task="embed")
    pooling = ckpt.sentence.pooling or purpose.pooling
    if settings.pooling != "auto":
        pooling = replace(pooling, how=settings.pooling, origin="--pooling")
    purpose = replace(purpose, pooling=pooling)
    return replace(purpose, pairs=_pairs(ckpt, purpose, settings))


def _pairs(ckpt: Checkpoint, purpose: Purpose, settings: Settings) -> PairScore | None:
    """How the model scores two texts."""
    asked = settings.rerank
    rule = pair_rule(ckpt, asked)
    if purpose.task == "classify":
        if asked == "vectors":
            raise _unfit(asked, "classifies texts and makes no vectors")
        if asked == "yes-no" and purpose.pooling.how != "last":
            raise _unfit(asked, "is an encoder, which is given both texts without a question")
        yes_no = ckpt.gguf is not None and purpose.labels == _YES_NO
        if len(purpose.labels) != 1 and not yes_no:
            if asked != "auto":
                raise _unfit(asked, f"has {len(purpose.labels)} classes, a score is that of one")
            return None
        return PairScore(
            by="classes",
            origin=rule.origin or purpose.pooling.origin,
            template=rule.template,
            activation=purpose.activation,
        )
    if purpose.encodes or purpose.speaks or (rule.answers and purpose.task != "generate"):
        if asked != "auto":
            raise _unfit(asked, "does not answer yes or no" if rule.answers else "makes no vectors")
        if purpose.task == "generate":
            return None
    elif rule.answers:
        return PairScore(
            by="yes-no",
            origin=rule.origin,
            template=rule.template,
            ids=rule.ids,
            activation=rule.activation,
        )
    return PairScore(by="vectors", origin="--rerank" if asked != "auto" else purpose.pooling.origin)


def _unfit(asked: str, why: str) -> UsageError:
    return UsageError(f"--rerank {asked}: this model {why}.", fix="leave --rerank out.")
