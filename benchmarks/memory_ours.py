"""The measured side of benchmarks/memory.py: MODEL repack|engine THREADS.

Prints a line of JSON at each stage and waits for one on stdin, so that whoever watches this
process's memory knows what it was doing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Submit
from rbee_worker.loading.load import load_engine
from rbee_worker.loading.preflight import outline_of, preflight
from rbee_worker.models import build_model
from rbee_worker.types import SamplingParams

KV_TOKENS = 4096


def tell(stage: str, **values: Any) -> None:
    """Announce what begins now."""
    sys.stdout.write(json.dumps({"stage": stage, **values}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


def repack(settings: Settings) -> None:
    """Only the weights: kernels are compiled before, and nothing else is held."""
    ckpt = open_checkpoint(settings.model)
    plan = preflight(ckpt, settings)
    outline = outline_of(ckpt, plan.model.context)
    plan.backend.prepare(outline, settings, plan.kv_dtype, lambda *_: None)
    files = sum(ckpt.source.info(n).nbytes for n in ckpt.source.names())
    tell("repacking", weights=plan.weight_bytes, file_bytes=files)
    start = time.perf_counter()
    ops = plan.backend.ops(
        settings, plan.dtype, weight_bytes=plan.weight_bytes, progress=lambda *_: None
    )
    model = build_model(ckpt, ops)
    taken = time.perf_counter() - start
    tell("held", seconds=round(taken, 4), layers=len(model.blocks))


def engine(settings: Settings) -> None:
    """A whole engine: loads, reads a prompt of 512 tokens, draws 8."""
    running, info = load_engine(settings, lambda loading: None)
    tell("loaded", weights=info.weight_bytes, kv_bytes=info.kv_bytes, phases=info.load_s)
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    ids = tuple(100 + i for i in range(512))
    running.submit(Submit(seq="1", prompt_ids=ids, params=params))
    while not running.idle:
        running.step()
    tell("answered")


def main(model: str, what: str, threads: int) -> None:
    settings = Settings(model=model, backend="cpu", threads=threads, kv_tokens=KV_TOKENS)
    tell("imported")
    {"repack": repack, "engine": engine}[what](settings)
    tell("end")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
