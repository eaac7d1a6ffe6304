"""Counting a JSON text agrees with decoding it, wherever it is cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.params.repeated import repeated
from rbee_worker.server.json_shape import MOST_CONTAINERS, Shape

VALUES = st.recursive(
    st.none() | st.integers() | st.text('ab"\\[]{}:,é\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text('"\\:,x', max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def counted(value: Any) -> tuple[int, int, int]:
    """(containers, members, values) by walking."""
    if isinstance(value, dict):
        inner = [counted(item) for item in value.values()]
    elif isinstance(value, list):
        inner = [counted(item) for item in value]
    else:
        return 0, 0, 1
    sums = [sum(column) for column in zip(*inner, strict=True)] or [0, 0, 0]
    members = len(value) if isinstance(value, dict) else 0
    return sums[0] + 1, sums[1] + members, sums[2] + 1


@settings(max_examples=300, deadline=None)
@given(VALUES, st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_counts_are_those_of_the_decoded_text(value: Any, places: list[int], escaped: bool) -> None:
    raw = json.dumps(value, ensure_ascii=escaped).encode()
    shape = Shape()
    edges = [0, *sorted(p % (len(raw) + 1) for p in places), len(raw)]
    for a, b in itertools.pairwise(edges):
        shape.feed(raw[a:b])
    containers, members, values = counted(value)
    assert (shape.containers, shape.members) == (containers, members)
    assert values <= shape.values <= values + containers  # empty ones count once more
    assert shape.excess(0) == ""


def test_what_there_is_too_much_of_is_named() -> None:
    shape = Shape()
    shape.feed(b"[" * (MOST_CONTAINERS + 1))
    assert shape.excess(1 << 30) == f"more than {MOST_CONTAINERS:,} arrays and objects"


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (b'{"a":1,"b":2}', []),
        (b'{"a":1,"a":1}', ["a"]),
        (b'{"a":{"b":1,"b":2},"c":[{"d":0,"d":0}],"c":1}', ["b", "d", "c"]),
        (b'{"a":1,"\\u0061":2}', ["a"]),
        (b'[{"a":1},{"a":1}]', []),
    ],
)
def test_names_given_twice_at_any_level(raw: bytes, names: list[str]) -> None:
    assert repeated(raw, 9) == names
    assert repeated(raw, 1) == names[:1]
