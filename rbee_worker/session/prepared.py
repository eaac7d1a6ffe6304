"""`Prepared`: a request as ids and resolved parameters."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.constraints.words import Words
from rbee_worker.pictures import Picture
from rbee_worker.session.reading import Reading
from rbee_worker.types import Pool, Resolved


@dataclass(frozen=True)
class Prepared:
    """A request that can be run. warnings: what its caller should know about it. reading: how its
    answer is taken apart, None if it is text alone. grammar: what the answer must be
    (constraints/grammar.py), "" if it may be anything; words: what an engine must know before it
    gets a grammar. second: the position from which on tokens belong to the second of two texts;
    0: there is one. adapter: the engine's key for the adapter that it uses, "" for none. pictures:
    with their places in the prompt. voice, guidance: see `Submit`. pool: in the place of the
    request's, None: that one."""

    prompt_ids: tuple[int, ...]
    resolved: Resolved
    warnings: tuple[str, ...] = ()
    reading: Reading | None = None
    grammar: str = ""
    words: Words | None = None
    second: int = 0
    adapter: str = ""
    pictures: tuple[Picture, ...] = ()
    voice: bytes = b""
    guidance: float = 1.0
    pool: Pool | None = None
