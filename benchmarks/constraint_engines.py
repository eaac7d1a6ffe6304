"""Time of a mask per token: llguidance beside xgrammar, at vocabularies of 49k and 128k tokens.

    python -m benchmarks.constraint_engines [TIKTOKEN_FILE]

The 49k tokens are SmolLM2's; the 128k are the first 128,000 of a file of tokens and ranks in
tiktoken's form (o200k_base). Each engine follows the same JSON text, one token after another (the
longest match of the text), and makes a mask before each. Neither prefers a tokenization. xgrammar
is measured if it is installed; it imports torch, which the worker does not have.
"""

# ruff: noqa: T201

from __future__ import annotations

import base64
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.constraints.compiled import compiled, vocabulary
from rbee_worker.constraints.grammar import grammar_of
from rbee_worker.constraints.words import Words
from rbee_worker.session.text import open_text
from rbee_worker.types import Constraint

STRING = {"type": "string"}
PERSON = {
    "type": "object",
    "properties": {
        "name": STRING,
        "email": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "role": {"enum": ["admin", "editor", "reader"]},
        "tags": {"type": "array", "items": STRING},
        "address": {
            "type": "object",
            "properties": {"street": STRING, "city": STRING, "zip": {"pattern": "^[0-9]{5}$"}},
            "required": ["street", "city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "address"],
    "additionalProperties": False,
}
SAID = {
    "name": "Ada Lovelace, Countess of Somewhere in the North",
    "email": "ada@example.org",
    "age": 36,
    "role": "editor",
    "tags": ["mathematics", "engines", "letters to Mr. Babbage and to others"],
    "address": {"street": "12 St. James's Square", "city": "London", "zip": "10115"},
}
CASES: dict[str, Any] = {"person": PERSON, "any object": {"type": "object"}}
ROUNDS = 5

Fill = Callable[[], None]
Take = Callable[[int], None]
Engine = Callable[[Any], tuple[Fill, Take]]  # a schema -> a matcher at its start


def smollm2() -> list[bytes]:
    """SmolLM2's tokens, without the special ones' names."""
    tokenizer = open_text(open_checkpoint("smollm2")).tokenizer
    special = tokenizer.special_ids
    return [b"" if i in special else tokenizer.joined_bytes(i) for i in range(tokenizer.vocab_size)]


def ranked(path: Path, count: int) -> list[bytes]:
    """The first tokens of a file in tiktoken's form."""
    lines = path.read_bytes().splitlines()[:count]
    return [base64.b64decode(line.split()[0]) for line in lines]


def longest(tokens: Sequence[bytes], text: bytes) -> Iterator[int]:
    """The text as tokens, each as long as it can be."""
    known = {token: i for i, token in enumerate(tokens) if token}
    most, at = max(map(len, known)), 0
    while at < len(text):
        size = next(n for n in range(most, 0, -1) if text[at : at + n] in known)
        yield known[text[at : at + size]]
        at += size


def llguidance(tokens: Sequence[bytes]) -> Engine:
    """The worker's engine."""
    known = vocabulary(Words(tokens=tuple(tokens)))
    row = np.zeros(len(tokens) // 32 + 1, np.uint32)

    def begin(schema: Any) -> tuple[Fill, Take]:
        constraint = Constraint(kind="json_schema", text=json.dumps(schema))
        matcher = compiled(known, grammar_of(constraint))
        return (
            lambda: matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes),
            lambda token: _must(matcher.consume_token(token)),
        )

    return begin


def xgrammar(tokens: Sequence[bytes]) -> Engine:
    """The other one."""
    xgr = import_module("xgrammar")
    info = xgr.TokenizerInfo(
        [*tokens, b"</s>"], vocab_type=xgr.VocabType.RAW, stop_token_ids=[len(tokens)]
    )
    compiler = xgr.GrammarCompiler(info, max_threads=1)
    row = xgr.allocate_token_bitmask(1, len(tokens) + 1)

    def begin(schema: Any) -> tuple[Fill, Take]:
        text = json.dumps(schema)
        made = compiler.compile_json_schema(text, any_whitespace=True, strict_mode=False)
        matcher = xgr.GrammarMatcher(made)
        return (
            lambda: matcher.fill_next_token_bitmask(row),
            lambda token: _must(matcher.accept_token(token)),
        )

    return begin


def _must(taken: bool) -> None:
    assert taken, "the engine does not take a token of a valid text"


def measured(begin: Engine, schema: Any, ids: Sequence[int]) -> tuple[float, list[float]]:
    """Seconds of compiling, and of each mask."""
    start = time.perf_counter()
    begin(schema)
    compiling = time.perf_counter() - start
    times: list[float] = []
    for _ in range(ROUNDS):
        fill, take = begin(schema)
        for token in ids:
            start = time.perf_counter()
            fill()
            times.append(time.perf_counter() - start)
            take(token)
    return compiling, times


def main() -> None:
    """Print a table."""
    vocabularies = {"49k": smollm2()}
    if len(sys.argv) > 1:
        vocabularies["128k"] = ranked(Path(sys.argv[1]), 128_000)
    engines = {"llguidance": llguidance}
    if find_spec("xgrammar") is not None:
        engines["xgrammar"] = xgrammar
    times = "mask, us: mean | p50 | p99 | most"
    print(f"| vocabulary | engine | ready, ms | schema | compile, ms | {times} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size, tokens in vocabularies.items():
        ids = [*longest(tokens, json.dumps(SAID, indent=1).encode())]
        for name, engine in engines.items():
            start = time.perf_counter()
            begin = engine(tokens)
            ready = time.perf_counter() - start
            for case, schema in CASES.items():
                compiling, taken = measured(begin, schema, ids)
                us = sorted(1e6 * t for t in taken)
                cuts = [statistics.mean(us), us[len(us) // 2], us[len(us) * 99 // 100], us[-1]]
                cells = [f"{ready * 1e3:.0f}", case, f"{compiling * 1e3:.1f}"]
                cells += [f"{value:.0f}" for value in cuts]
                print(f"| {size} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
