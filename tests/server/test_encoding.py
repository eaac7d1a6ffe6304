"""Long answers are encoded in pieces, to the byte as msgspec encodes them in one call."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType

from rbee_worker import wire
from rbee_worker.server import encoding
from rbee_worker.server.encoding import SLICE, encoded, pieces
from rbee_worker.server.schemas import ChatDelta, Completion, InferResult


class Plain(Struct, kw_only=True, frozen=True):
    number: int = 3
    words: list[Any] | UnsetType = UNSET
    inner: Plain | None = None


class Sparse(Struct, kw_only=True, omit_defaults=True, tag="sparse", tag_field="type"):
    number: int = 3
    ratio: float = 1.0
    words: list[Any] = []
    table: dict[str, Any] = {}
    inner: Any = None
    pair: tuple[int, ...] = ()


SIMPLE = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=4)
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.builds(Plain, words=st.lists(inner, max_size=3) | st.just(UNSET)),
        st.builds(
            Sparse,
            number=st.integers(2, 4),
            ratio=st.sampled_from([0.5, 1.0]),
            words=st.lists(inner, max_size=2),
            table=st.dictionaries(st.text(max_size=2), inner, max_size=2),
            inner=inner,
            pair=st.lists(st.integers(), max_size=2).map(tuple),
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_pieces_are_what_msgspec_makes_of_the_whole(value: Any) -> None:
    assert encoded(value) == msgspec.json.encode(value)


@pytest.mark.parametrize("n", [SLICE - 1, SLICE, SLICE + 1, 3 * SLICE, 3 * SLICE + 7])
def test_long_lists_of_structs(n: int) -> None:
    row = wire.ScoredToken(1, "é", -0.5, (wire.LikelyToken(2, '"', -1.0),))
    event = wire.PromptLogprobs(logprobs=(None, *[row] * n))
    assert encoded(event) == msgspec.json.encode(event)
    assert max(map(len, pieces(event))) <= len(msgspec.json.encode([row] * SLICE))


def test_the_structs_of_answers_may_be_taken_apart() -> None:
    """None of them is written by other rules than those that `pieces` knows."""
    for kind in (InferResult, Completion, ChatDelta, wire.End, wire.Token):
        config = kind.__struct_config__
        assert not config.array_like
        assert all(f.name == f.encode_name for f in msgspec.structs.fields(kind))
    assert encoding.LONG > SLICE
