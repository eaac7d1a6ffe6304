"""What `rbee-worker bench` times of a running engine: answers, or vectors of texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from rbee_worker.cli.adapter import only_adapter
from rbee_worker.errors import InferenceFailed, UsageError
from rbee_worker.model_info import ModelInfo
from rbee_worker.sequence_end import Usage
from rbee_worker.types import End, Error, Pool, Request

if TYPE_CHECKING:
    from rbee_worker.session.client import EngineClient

PROMPT, SHORT = 512, 16  # tokens
SEQUENCES = 64  # the most at once
STEPS = {1: 64, 8: 32, SEQUENCES: 16}  # sequences -> tokens decoded by each
REPEATS = 3
Show = Callable[[str], None]  # is told what is being measured


class _Runs:
    """Requests with random ids."""

    FIRST: ClassVar[str]  # the name of the figure that `first` ends

    def __init__(self, client: EngineClient, info: ModelInfo, show: Show) -> None:
        self._client, self._info, self._show = client, info, show
        self._adapter = only_adapter(client.settings)
        self._count = 0

    async def _one(self, length: int, **rest: Any) -> Usage:
        self._count += 1
        ids = tuple((7919 * self._count + 31 * i) % self._info.vocab_size for i in range(length))
        name = f"bench-{self._count}"
        request = Request(id=name, token_ids=ids, adapter=self._adapter, **rest)
        async for event in self._client.generate(request):
            if isinstance(event, Error):
                raise InferenceFailed(event.message)
            if isinstance(event, End):
                return event.usage
        raise InferenceFailed("the engine did not end a request.")


class Answers(_Runs):
    """Greedy answers. Only their token limit ends them."""

    FIRST = "first_token_s"

    async def first(self) -> None:
        """A first token. Raises UsageError where there is too little room to measure with."""
        info = self._info
        least = max(self._long, SHORT + max(STEPS.values()), self._long + STEPS[8]) + 1
        if info.kv_tokens < least or info.context < least:
            raise UsageError(
                f"a cache of {info.kv_tokens} tokens and a context of {info.context} are too small "
                f"to measure with: {least} are needed.",
                fix="give more --kv-tokens or --ctx.",
            )
        await self._together(1, SHORT, 1)

    async def speeds(self) -> dict[str, Any]:
        """Tokens a second: of a prompt, of decoding after a short prompt by the number of
        sequences, and after a long one."""
        long, prefill = self._long, []
        for n in range(REPEATS):
            self._show(f"Prefill of {long} tokens, {n + 1} of {REPEATS}.")
            prefill.append((await self._together(1, long, 1))[0].prefill_ms)
        room = self._info.kv_tokens
        fitting = {c: s for c, s in STEPS.items() if c * (SHORT + s + 1) <= room}
        return {
            "prefill_tok_s": {str(long): round(1e3 * long / median(prefill), 1)},
            "decode_tok_s": {str(c): await self._rate(c, SHORT, s) for c, s in fitting.items()},
            f"decode_at_{long}_tok_s": await self._rate(1, long, STEPS[8]),
        }

    @property
    def _long(self) -> int:
        return min(PROMPT, self._info.context // 2)

    async def _rate(self, sequences: int, prompt: int, steps: int) -> float:
        """Of all sequences together, counted after each one's first token."""
        rates: list[float] = []
        for n in range(REPEATS):
            many = f"{sequences} sequences" if sequences > 1 else "one sequence"
            said = f"Decoding {many} after {prompt} tokens, {n + 1} of {REPEATS}"
            self._show(f"{said}{f': {rates[-1]:,.1f} tok/s so far' if rates else ''}.")
            usages = await self._together(sequences, prompt, steps + 1)
            rates.append(1e3 * sequences * steps / max(u.decode_ms for u in usages))
        return round(median(rates), 1)

    async def _together(self, sequences: int, prompt: int, tokens: int) -> list[Usage]:
        params = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        return await asyncio.gather(*(self._one(prompt, params=params) for _ in range(sequences)))


class Vectors(_Runs):
    """Vectors, or a classifier's scores, of whole texts."""

    FIRST = "first_vector_s"

    async def first(self) -> None:
        """A first vector."""
        await self._together([min(SHORT, self._info.context)])

    async def speeds(self) -> dict[str, Any]:
        """Tokens and texts a second, by the number of texts at once and their length."""
        long = min(PROMPT, self._info.context, self._info.kv_tokens)
        short = min(SHORT, long)
        ragged = [short + (long - short) * n // (SEQUENCES - 1) for n in range(SEQUENCES)]
        rates, texts = {}, {}
        for name, lengths in {
            f"1x{min(128, long)}": [min(128, long)],
            f"1x{long}": [long],
            f"{SEQUENCES}x{short}-{long}": ragged,
        }.items():
            seconds = []
            for n in range(REPEATS):
                self._show(f"Vectors of {name} tokens, {n + 1} of {REPEATS}.")
                began = time.perf_counter()
                await self._together(lengths)
                seconds.append(time.perf_counter() - began)
            rates[name] = round(sum(lengths) / median(seconds), 1)
            texts[name] = round(len(lengths) / median(seconds), 1)
        return {"vectors_tok_s": rates, "texts_s": texts}

    async def _together(self, lengths: Sequence[int]) -> None:
        purpose = self._info.purpose
        pool = Pool(how=purpose.pooling.how, head=purpose.task == "classify")
        await asyncio.gather(*(self._one(length, pool=pool) for length in lengths))
