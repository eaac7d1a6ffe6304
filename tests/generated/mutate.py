"""Ways to damage bytes, and values that writers of files get wrong."""

from __future__ import annotations

import json
import random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63, 10**30),
    *(0.0, -0.0, 0.5, 1.5, -3.25, 1e-30, 1e30, float("nan"), float("inf"), -float("inf")),
)
TEXTS = (
    *(
        "",
        " ",
        "a",
        "llama",
        "none",
        "null",
        "true",
        "\0",
        "a\nb",
        "\x1b[2J",
        "é",
        "日本",
        "🤫",
        "\ud800",
    ),
    *("x" * 300, "../../etc/passwd", "{{ 1 }}", "<|im_end|>", "<s>"),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [1], ["a"], {"a": 1}, [[1]], [None])


def value(rng: random.Random) -> Any:
    """Anything that JSON has."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(TEXTS)
    return rng.choice(OTHERS) if kind == 2 else rng.randrange(-5, 600)


def near(rng: random.Random, old: Any) -> Any:
    """Another value of the same kind, or of any."""
    if rng.random() < 0.3:
        return value(rng)
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return rng.choice([old + 1, old - 1, old * 2, old // 2, -old, 0, 1, rng.choice(NUMBERS)])
    if isinstance(old, float):
        return rng.choice([old * 2, old / 2, -old, 0.0, 1.0, rng.choice(NUMBERS)])
    if isinstance(old, str):
        at = rng.randrange(len(old) + 1)
        return rng.choice([old[:at], old[at:], old[:at] + "x" + old[at:], rng.choice(TEXTS)])
    if isinstance(old, list) and old:
        at = rng.randrange(len(old))
        return rng.choice(
            [old[:at], old[at:], old + old, [*old[:at], near(rng, old[at]), *old[at + 1 :]]]
        )
    if isinstance(old, dict) and old:
        return edited(rng, old)
    return value(rng)


def edited(rng: random.Random, made: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A copy with one entry changed, removed, added or moved, at any depth."""
    out = dict(made)
    keys = sorted(out)
    how = rng.randrange(6) if keys else 3
    key = rng.choice(keys) if keys else "a"
    if how <= 2:
        if isinstance(out[key], dict) and out[key] and rng.random() < 0.7 and depth < 4:
            out[key] = edited(rng, out[key], depth + 1)
        else:
            out[key] = near(rng, out[key])
    elif how == 3:
        out[rng.choice(["a", "_x", "", "\ud800", *keys[:3]])] = value(rng)
    elif how == 4:
        del out[key]
    else:
        other = rng.choice(keys)
        out[key], out[other] = out[other], out[key]
    return out


def damaged(rng: random.Random, data: bytes, front: int = 0) -> bytes:
    """Bytes flipped, cut, doubled, put in or taken out; mostly among the first `front`."""
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        if not raw:
            break
        top = min(front, len(raw)) if front and rng.random() < 0.8 else len(raw)
        at = rng.randrange(max(top, 1))
        how = rng.randrange(7)
        if how == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            raw[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif how == 2:
            raw[at : at + 8] = rng.choice(
                [
                    b"\xff" * 8,
                    bytes(8),
                    (2**31).to_bytes(8, "little"),
                    (2**63).to_bytes(8, "little"),
                ]
            )
        elif how == 3:
            del raw[at : at + rng.choice([1, 2, 4, 8, 64])]
        elif how == 4:
            raw[at:at] = rng.randbytes(rng.choice([1, 4, 8, 64]))
        elif how == 5:
            del raw[at:]
        else:
            raw[at:at] = raw[at : at + rng.choice([8, 64, 512])]
    return bytes(raw)


def written(made: Any) -> bytes:
    """JSON as careless programs write it: NaN, half characters and all."""
    return json.dumps(made).encode()
