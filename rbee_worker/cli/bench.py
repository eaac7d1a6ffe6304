"""`rbee-worker bench`: how fast a model runs here, compared with this machine's memory
bandwidth."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rbee_worker.cli.adapter import only_adapter
from rbee_worker.cli.inspect import computed, reading_lines
from rbee_worker.cli.terminal import Status
from rbee_worker.config import SAMPLING, Settings
from rbee_worker.errors import UsageError
from rbee_worker.machine import allowed_cores

if TYPE_CHECKING:
    from rbee_worker.cli.bench_runs import Answers, Vectors
    from rbee_worker.session.text import TextSide


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
    Of a model that makes vectors: one text, and 64 texts of many lengths at once.
    """
    from rbee_worker.cli.bench_runs import SEQUENCES  # imported late: --help is quicker

    settings = msgspec.structs.replace(
        settings,
        prefix_cache=False,
        speculate="off",
        draft_model="",
        generation_config=False,
        max_seqs=SEQUENCES,
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
    import asyncio

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
    if "decode_tok_s" in found:
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
    the kernels of the model's formats read them here. The others: see `inspect`."""
    from rbee_worker.cli.report import reads
    from rbee_worker.loading.preflight import outline_of, preflight
    from rbee_worker.models.random import open_model

    ckpt = open_model(settings.model, cache_dir=settings.cache_dir, mmproj=settings.mmproj)
    plan = preflight(ckpt, settings)
    outline = outline_of(ckpt, plan.model.context)
    count = plan.backend.bytes_per_token(outline, settings, plan.dtype)
    return {
        "dtype": plan.dtype,
        "kv_dtype": plan.kv_dtype,
        "activations": plan.activations,
        "instructions": plan.backend.instructions(settings),
        "read_bytes": count,
        "reads": reads(plan, settings),
    }


async def _measure(
    settings: Settings, text: Callable[[], TextSide] | None, show: Callable[[str], None]
) -> dict[str, Any]:
    """All figures that a running engine can give; speeds are in tokens per second. show: is told
    what is being measured."""
    from rbee_worker.cli.bench_runs import Answers, Vectors
    from rbee_worker.cli.session import open_engine

    start = time.perf_counter()
    async with open_engine(settings, text=text) as client:
        ready = time.perf_counter()
        info = client.info
        assert info is not None
        run: Answers | Vectors
        if info.purpose.task == "generate":
            run = Answers(client, info, show)
        else:
            run = Vectors(client, info, show)
        await run.first()
        first = time.perf_counter()
        return {
            "model": info.model,
            "backend": info.backend,
            **await run.speeds(),
            "load_s": round(ready - start, 3),
            run.FIRST: round(first - start, 3),
            "weight_bytes": info.weight_bytes,
            "parameters": info.n_parameters,
            "notes": list(info.notes),
        }


def _table(found: dict[str, Any]) -> str:
    """The figures as lines of text."""
    target = f" ({found['instructions']})" if found["instructions"] else ""
    backend = f"{found['backend']}{target}"
    rows = [
        ("model", f"{found['model']}, backend {backend}, {found['threads']} threads"),
        ("computed in", computed(found)),
        *_speeds(found),
        ("ready after", f"{found['load_s']} s"),
    ]
    read = f"{found['read_bytes'] / 1e6:,.1f} MB of weights"
    if "vectors_tok_s" in found:
        rows.append(("first vector after", f"{found['first_vector_s']} s"))
        rows.append(("memory", f"{found['read_gb_s']} GB/s"))
        rows.append(("a step reads", read))
    else:
        share = 100 * found["bandwidth_share"]
        rows.append(("first token after", f"{found['first_token_s']} s"))
        rows.append(("memory", f"{found['read_gb_s']} GB/s; decoding uses {share:.0f} %"))
        rows.append(("a token reads", read))
    rows += [("weights", line.strip()) for line in reading_lines(found["reads"])]
    rows += [("note", note) for note in found["notes"]]
    return "".join(f"{name:<22} {value}\n" for name, value in rows)


def _speeds(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for n, rate in found.get("prefill_tok_s", {}).items():
        yield f"prefill {n}", f"{rate} tok/s"
    for n, rate in found.get("decode_tok_s", {}).items():
        yield f"decode, {n} at once", f"{rate} tok/s"
    for name, rate in found.items():
        if name.startswith("decode_at_"):
            yield f"decode after {name.split('_')[2]}", f"{rate} tok/s"
    for what, rate in found.get("vectors_tok_s", {}).items():
        count, _, length = what.partition("x")
        texts = "one text" if count == "1" else f"{count} texts"
        yield f"{texts} of {length}", f"{rate} tok/s, {found['texts_s'][what]} texts/s"
