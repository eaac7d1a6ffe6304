"""Requests and answers of the routes that give vectors and scores, as structs.

Fields that the form of others has no place for are in `rbee`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from rbee_worker.server.schemas import Model, Seconds, TokenId

MOST_TEXTS = 2048  # of one request, as with OpenAI
Texts = str | list[str]


class VectorEnvelope(Struct, kw_only=True):
    """What all of these requests may have. truncate: cut a text that is too long, in place of
    refusing it. user: without effect."""

    model: Model | None = None
    truncate: bool = False
    timeout_s: Seconds | None = None
    user: str | None = None


class EmbeddingEnvelope(VectorEnvelope, kw_only=True):
    """`input`: a string, a list of strings, of ids, or of id lists. prompt_name: which of the
    model's prompts is put before a text; "": none; null: the model's default."""

    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    prompt_name: str | None = None


class ClassifyEnvelope(VectorEnvelope, kw_only=True):
    input: str | list[str | TokenId | list[TokenId]]


class PairEnvelope(VectorEnvelope, kw_only=True):
    """instruction: what the second text is looked for, for a reranker that is told."""

    instruction: str | None = None


class ScoreEnvelope(PairEnvelope, kw_only=True):
    """One first text for all second ones, or as many as these."""

    text_1: Texts
    text_2: Texts


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class RerankEnvelope(PairEnvelope, kw_only=True):
    query: str
    documents: list[str | Document]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool = False


# ---- answers


class VectorUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class VectorRbee(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the vectors were made. origin: what says so; dense: their sizes after each dense map;
    prompt: the name of what was put before each text; method: how a score came about."""

    pooling: str = ""
    normalized: bool | None = None
    origin: str = ""
    dense: tuple[int, ...] = ()
    prompt: str = ""
    method: str = ""
    warnings: tuple[str, ...] = ()


class Embedding(Struct, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: VectorUsage
    rbee: VectorRbee


class Classes(Struct, frozen=True, kw_only=True):
    """probs: by the place of the label in the model's list, `labels` of the answer."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassList(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classes]
    labels: tuple[str, ...]
    usage: VectorUsage
    rbee: VectorRbee


class ScoreRow(Struct, frozen=True, kw_only=True):
    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreList(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ScoreRow]
    usage: VectorUsage
    rbee: VectorRbee


class Ranked(Struct, frozen=True, kw_only=True):
    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RankedList(Struct, frozen=True, kw_only=True):
    """The best first; of equal scores, the earlier document."""

    id: str
    model: str
    results: list[Ranked]
    usage: VectorUsage
    rbee: VectorRbee


NESTED: dict[str, tuple[type[Any], ...]] = {"documents": (Document,)}
