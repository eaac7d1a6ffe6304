"""`rbee-worker bench`: how fast a model runs here, compared with this machine's memory
bandwidth."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rbee_worker.cli.adapter import only_adapter
from rbee_worker.cli.inspect import reading_lines
from rbee_worker.cli.terminal import Status
from rbee_worker.config import SAMPLING, Settings
from rbee_worker.errors import InferenceFailed, UsageError
from rbee_worker.machine import allowed_cores
from rbee_worker.types import End, Error, Request, Usage

if TYPE_CHECKING:
    from rbee_worker.session.client import EngineClient
    from rbee_worker.session.text import TextSide

PROMPT, SHORT = 512, 16  # tokens
STEPS = {1: 64, 8: 32, 64: 16}  # sequences -> tokens decoded by each
REPEATS = 3


@click.argument("ref", required=False, help="the model (default: smollm2)")
@click.option(
    "--random",
    metavar="SHAPE",
    default="",
    help="random weights, not a checkpoint: a known shape (llama-1b, llama-8b, ...) "
    "or the path of a config.json",
)
@click.option(
    "--random-format", metavar="FORMAT", default="", help="of random weights (default bf16)"
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def bench(settings: Settings, ref: str, random: str, random_format: str, as_json: bool) -> None:
    """Measure speed, start-up times and the share of the bandwidth.

    Prefill and decoding of 1, 8 and 64 sequences, and how near that is to what the memory can read.
    """
    settings = msgspec.structs.replace(
        settings,
        prefix_cache=False,
        speculate="off",
        draft_model="",
        generation_config=False,
        max_seqs=max(STEPS),
        **dict.fromkeys(SAMPLING),
    )
    only_adapter(settings)
    text = None
    if random:
        if click.get_current_context().params["ref"] is not None:
            raise UsageError("both a model and --random were given.", fix="give one of them.")
        settings, text = _invented(settings, random, random_format or "bf16")
    elif random_format:
        raise UsageError("--random-format applies to random weights.", fix="add --random SHAPE.")
    import asyncio  # imported late, like the next: --help is quicker

    from rbee_worker.ops.backends import choose_backend

    threads = settings.threads or allowed_cores()
    progress = Status()
    try:
        found = asyncio.run(_measure(settings, text, progress.show))
        progress.show("Measuring the memory's bandwidth.")
        read_gb_s = choose_backend(settings).read_gb_s(settings)
    finally:
        progress.clear()
    found["read_gb_s"] = round(read_gb_s, 2)
    found |= _reading(settings)
    reads = found["read_bytes"] * found["decode_tok_s"]["1"]
    found["bandwidth_share"] = round(reads / 1e9 / found["read_gb_s"], 3)
    found["threads"] = threads
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(_table(found))


def _invented(
    settings: Settings, shape: str, format: str
) -> tuple[Settings, Callable[[], TextSide]]:
    """Settings for a model of random weights, and its text side, which has no vocabulary.

    Raises UsageError for an unknown shape or format, ModelError if the model does not fit in
    memory.
    """
    from rbee_worker.loading.preflight import preflight
    from rbee_worker.models.random import random_checkpoint
    from rbee_worker.session.text import wordless

    ckpt = random_checkpoint(shape, format)
    plan = preflight(ckpt, settings)
    plan.room(settings, plan.backend.free_bytes(settings))
    return msgspec.structs.replace(settings, model=ckpt.ref), lambda: wordless(ckpt)


def _reading(settings: Settings) -> dict[str, Any]:
    """read_bytes: of weights, for one token of one sequence; the cache is not counted. reads: how
    the kernels of the model's formats read them here."""
    from rbee_worker.cli.report import reads
    from rbee_worker.loading.preflight import outline_of, preflight
    from rbee_worker.models.random import open_model

    ckpt = open_model(settings.model, cache_dir=settings.cache_dir, mmproj=settings.mmproj)
    plan = preflight(ckpt, settings)
    outline = outline_of(ckpt, plan.model.context)
    count = plan.backend.bytes_per_token(outline, settings, plan.dtype)
    return {"read_bytes": count, "reads": reads(plan, settings)}


async def _measure(
    settings: Settings, text: Callable[[], TextSide] | None, show: Callable[[str], None]
) -> dict[str, Any]:
    """All figures that a running engine can give; speeds are in tokens per second. show: is told
    what is being measured."""
    from statistics import median

    from rbee_worker.cli.session import open_engine

    start = time.perf_counter()
    async with open_engine(settings, text=text) as client:
        ready = time.perf_counter()
        info = client.info
        assert info is not None
        long = min(PROMPT, info.context // 2)
        least = max(long, SHORT + max(STEPS.values()), long + STEPS[8]) + 1
        if info.kv_tokens < least or info.context < least:
            raise UsageError(
                f"a cache of {info.kv_tokens} tokens and a context of {info.context} are too small "
                f"to measure with: {least} are needed.",
                fix="give more --kv-tokens or --ctx.",
            )
        run = _Runs(client, info.vocab_size, show, only_adapter(settings))
        await run.together(1, SHORT, 1)
        first = time.perf_counter()
        prefill = []
        for n in range(REPEATS):
            show(f"Prefill of {long} tokens, {n + 1} of {REPEATS}.")
            prefill.append((await run.together(1, long, 1))[0].prefill_ms)
        fitting = {c: s for c, s in STEPS.items() if c * (SHORT + s + 1) <= info.kv_tokens}
        decode = {str(c): await run.rate(c, SHORT, steps) for c, steps in fitting.items()}
        after = await run.rate(1, long, STEPS[8])
        return {
            "model": info.model,
            "backend": info.backend,
            "prefill_tok_s": {str(long): round(1e3 * long / median(prefill), 1)},
            "decode_tok_s": decode,
            f"decode_at_{long}_tok_s": after,
            "load_s": round(ready - start, 3),
            "first_token_s": round(first - start, 3),
            "weight_bytes": info.weight_bytes,
            "parameters": info.n_parameters,
            "notes": list(info.notes),
        }


class _Runs:
    """Requests with random prompts and greedy sampling. Only their token limit ends them."""

    def __init__(
        self, client: EngineClient, vocab_size: int, show: Callable[[str], None], adapter: str
    ) -> None:
        self._client, self._vocab_size, self._show = client, vocab_size, show
        self._adapter = adapter
        self._count = 0

    async def rate(self, sequences: int, prompt: int, steps: int) -> float:
        """Tokens per second of all sequences together, counted after each one's first token."""
        from statistics import median

        rates: list[float] = []
        for n in range(REPEATS):
            many = f"{sequences} sequences" if sequences > 1 else "one sequence"
            said = f"Decoding {many} after {prompt} tokens, {n + 1} of {REPEATS}"
            self._show(f"{said}{f': {rates[-1]:,.1f} tok/s so far' if rates else ''}.")
            usages = await self.together(sequences, prompt, steps + 1)
            rates.append(1e3 * sequences * steps / max(u.decode_ms for u in usages))
        return round(median(rates), 1)

    async def together(self, sequences: int, prompt: int, tokens: int) -> list[Usage]:
        """Run `sequences` requests at once; returns the usage of each."""
        import asyncio

        return await asyncio.gather(*(self._one(prompt, tokens) for _ in range(sequences)))

    async def _one(self, prompt: int, tokens: int) -> Usage:
        self._count += 1
        ids = tuple((7919 * self._count + 31 * i) % self._vocab_size for i in range(prompt))
        params = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = Request(
            id=f"bench-{self._count}", token_ids=ids, params=params, adapter=self._adapter
        )
        async for event in self._client.generate(request):
            if isinstance(event, Error):
                raise InferenceFailed(event.message)
            if isinstance(event, End):
                return event.usage
        raise InferenceFailed("the engine did not end a request.")


def _table(found: dict[str, Any]) -> str:
    """The figures as lines of text."""
    rows = [
        ("model", f"{found['model']}, backend {found['backend']}, {found['threads']} threads"),
        *((f"prefill {n}", f"{v} tok/s") for n, v in found["prefill_tok_s"].items()),
        *((f"decode, {n} at once", f"{v} tok/s") for n, v in found["decode_tok_s"].items()),
        *(
            (f"decode after {name.split('_')[2]}", f"{v} tok/s")
            for name, v in found.items()
            if name.startswith("decode_at_")
        ),
        ("ready after", f"{found['load_s']} s"),
        ("first token after", f"{found['first_token_s']} s"),
    ]
    share = 100 * found["bandwidth_share"]
    rows.append(("memory", f"{found['read_gb_s']} GB/s; decoding uses {share:.0f} %"))
    rows.append(("a token reads", f"{found['read_bytes'] / 1e6:,.1f} MB of weights"))
    rows += [("weights", line.strip()) for line in reading_lines(found["reads"])]
    rows += [("note", note) for note in found["notes"]]
    return "".join(f"{name:<22} {value}\n" for name, value in rows)
