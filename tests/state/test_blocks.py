"""The block allocator under random use: nothing leaks, nothing is used twice."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.state.blocks import BlockAllocator, chain_key, root_key
from tests.yardstick import ratio

N = 9


OPS = ("take", "drop", "share", "publish", "hit")
STEPS = st.lists(
    st.tuples(st.sampled_from(OPS), st.integers(0, 40), st.integers(0, 5)), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_random_use_leaks_nothing_and_uses_nothing_twice(
    steps: list[tuple[str, int, int]],
) -> None:
    blocks = BlockAllocator(N)
    held: list[int] = []
    content: dict[int, bytes] = {}  # of each block since it was taken
    for op, at, number in steps:
        key = bytes([number])
        block = held[at % len(held)] if held else None
        if op == "take" and blocks.available:
            taken = blocks.take()
            assert taken not in held
            assert 0 < taken < N
            content.pop(taken, None)
            held.append(taken)
        elif op == "drop" and block is not None:
            blocks.drop(block)
            held.remove(block)
        elif op == "share" and block is not None:
            blocks.share(block)
            held.append(block)
        elif op == "publish" and block is not None:
            known = blocks.find(key)
            blocks.publish(block, key)
            if known is None:
                content.setdefault(block, key)
        elif op == "hit" and (found := blocks.find(key)) is not None:
            assert content[found] == key
            blocks.share(found)
            held.append(found)
        blocks.check(held)
        assert blocks.used == len(set(held))
        assert blocks.used + blocks.available == N - 1
    for block in held:
        blocks.drop(block)
    assert blocks.available == N - 1


def test_the_least_recently_used_prefix_is_forgotten_first() -> None:
    blocks = BlockAllocator(4)
    held = [blocks.take() for _ in range(3)]
    for i, block in enumerate(held):
        blocks.publish(block, bytes([i]))
    for block in (held[1], held[0], held[2]):
        blocks.drop(block)
    assert blocks.find(bytes([1])) == held[1]
    blocks.share(held[1])  # used again: now the youngest
    blocks.drop(held[1])
    assert [blocks.take() for _ in range(3)] == [held[0], held[2], held[1]]
    assert [blocks.find(bytes([i])) for i in range(3)] == [None, None, None]


def test_blocks_without_content_are_given_out_before_a_prefix_is_forgotten() -> None:
    blocks = BlockAllocator(4)
    kept = blocks.take()
    blocks.publish(kept, b"k")
    blocks.drop(kept)
    assert kept not in (blocks.take(), blocks.take())
    assert blocks.find(b"k") == kept


def test_check_finds_a_leak_and_a_double_use() -> None:
    blocks = BlockAllocator(4)
    block = blocks.take()
    with pytest.raises(AssertionError, match="1 references, 0 holders"):
        blocks.check([])
    with pytest.raises(AssertionError, match="1 references, 2 holders"):
        blocks.check([block, block])
    blocks.check([block])
    with pytest.raises(AssertionError, match="no sequence holds it"):
        blocks.drop(block % 3 + 1)


def test_keys_depend_on_everything_before_and_on_the_salt() -> None:
    root = root_key(b"model-a")
    first = chain_key(root, [1, 2])
    assert chain_key(first, [3, 4]) == chain_key(chain_key(root, [1, 2]), [3, 4])
    others = [
        chain_key(root, [3, 4]),
        chain_key(chain_key(root, [2, 1]), [3, 4]),
        chain_key(chain_key(root_key(b"model-b"), [1, 2]), [3, 4]),
        chain_key(first, [3, 5]),
        chain_key(chain_key(root, [1]), [2, 3, 4]),
    ]
    assert max(Counter([chain_key(first, [3, 4]), *others]).values()) == 1


def test_operations_do_not_slow_down_with_size() -> None:
    """O(1): a million blocks cost per operation what a thousand do (with room for noise)."""

    def cost(n: int) -> float:
        blocks = BlockAllocator(n)
        for i in range(n // 2):
            block = blocks.take()
            blocks.publish(block, i.to_bytes(8, "big"))
            blocks.drop(block)
        began = time.process_time()
        for i in range(2000):
            block = blocks.take()
            blocks.publish(block, b"x" + i.to_bytes(8, "big"))
            blocks.drop(block)
            assert blocks.find(b"y") is None
        return time.process_time() - began

    assert ratio(lambda: cost(200_000), lambda: cost(1000), enough=10) < 10
