"""Stop strings on streamed text, against an oracle that reads the whole text at once."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.session.stop_strings import StopMatcher
from tests.yardstick import ratio

ALPHABET = "ab"
TEXTS = st.text(ALPHABET + "c", max_size=24)
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=4)


def whole(text: str, stops: list[str], boundary: int = 0) -> tuple[str, str | None]:
    """(text before the stop string, the stop string) by trying every end after `boundary`."""
    for end in range(boundary + 1, len(text) + 1):
        found = [s for s in stops if text[:end].endswith(s)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def held(text: str, stops: list[str]) -> int:
    """Length of the longest suffix that is a proper prefix of a stop string."""
    lengths = [n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])]
    return max(lengths, default=0)


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=200, deadline=None)
@given(TEXTS, STOPS, st.lists(st.integers(0, 30), max_size=8))
def test_any_chunking_gives_what_the_whole_text_gives(
    text: str, stops: list[str], places: list[int]
) -> None:
    matcher = StopMatcher(stops)
    shown, read = "", ""
    for piece in cut(text, places):
        shown += matcher.push(piece)
        read += piece
        before, stop = whole(read, stops)
        if stop is not None:
            assert (shown, matcher.found) == (before, stop)
            assert matcher.push("ababab") == ""
            assert matcher.flush() == ""
            return
        assert matcher.found is None
        # exactly the longest suffix that may still become a stop string is held back
        assert shown == read[: len(read) - held(read, stops)]
    assert shown + matcher.flush() == text


@settings(max_examples=150, deadline=None)
@given(TEXTS, STOPS, st.lists(st.integers(0, 30), max_size=4), st.integers(0, 30))
def test_unarmed_text_cannot_end_the_answer(
    text: str, stops: list[str], places: list[int], boundary: int
) -> None:
    boundary %= len(text) + 1
    matcher = StopMatcher(stops, armed=False)
    shown = "".join(matcher.push(piece) for piece in cut(text[:boundary], places))
    assert matcher.found is None
    assert shown == text[:boundary][: boundary - held(text[:boundary], stops)]
    matcher.armed = True
    shown += matcher.push(text[boundary:])
    before, stop = whole(text, stops, boundary)
    if stop is None:
        shown += matcher.flush()
    assert matcher.found == stop
    # what was shown while unarmed cannot be taken back
    assert shown == (before if len(before) >= len(shown) else shown)
    assert text.startswith(shown)


def test_every_chunking_of_one_text() -> None:
    text, stops = "xaabab", ["abab", "ba"]
    for cuts in itertools.product([False, True], repeat=len(text) - 1):
        places = [i + 1 for i, c in enumerate(cuts) if c]
        matcher = StopMatcher(stops)
        shown = "".join(matcher.push(piece) for piece in cut(text, places))
        assert (shown, matcher.found) == ("xaa", "ba")


@pytest.mark.parametrize(
    ("stops", "text", "shown", "found"),
    [
        (["END"], "fooEND", "foo", "END"),
        (["a", "ba"], "xba", "x", "ba"),  # both end there: the longest
        (["abc", "b"], "abc", "a", "b"),  # b is complete first
        (["\n\n"], "one\n\ntwo", "one", "\n\n"),
        (["é日本"], "x é日本", "x ", "é日本"),
        (["🐝"], "a🐝", "a", "🐝"),
    ],
)
def test_the_rule(stops: list[str], text: str, shown: str, found: str) -> None:
    matcher = StopMatcher(stops)
    assert matcher.push(text) == shown
    assert matcher.found == found


def test_cost_does_not_depend_on_what_is_held() -> None:
    """16 stop strings of 256 characters that share their prefix with a text of nothing else."""

    def cost(longest: int) -> float:
        matcher = StopMatcher(["a" * (longest - 1 - i) + "b" for i in range(longest // 16)])
        began = time.process_time()
        shown = sum(len(matcher.push("a")) for _ in range(50_000))
        assert shown == 50_000 - (longest - 1)
        return time.process_time() - began

    assert ratio(lambda: cost(256), lambda: cost(16), enough=2) < 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(ALPHABET + "c", max_size=6), st.booleans()), max_size=8), STOPS)
def test_hidden_text_completes_stop_strings_and_is_never_given_out(
    pieces: list[tuple[str, bool]], stops: list[str]
) -> None:
    """As the whole text gives, hidden pieces included; then the hidden characters are left out."""
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push(text, hidden=hidden) for text, hidden in pieces)
    before, stop = whole("".join(text for text, _ in pieces), stops)
    hidden_at = [hidden for text, hidden in pieces for _ in text]
    assert matcher.found == stop
    assert shown + matcher.flush() == "".join(
        c for c, hidden in zip(before, hidden_at, strict=False) if not hidden
    )
