"""One model of benchmarks/families.py: CONFIG.json FORMAT THREADS STEPS wall|cpu.

Prints its decoding speed and what a token reads, as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.cpu_ours import BLOCK, CONTEXT, Sequences
from rbee_worker.models import build_model, outline_model
from rbee_worker.models.random import random_checkpoint
from rbee_worker.ops.cpu.backend.bytes_read import TrafficOps
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa

PROMPT, REPEATS = 16, 3


def main(config: str, form: str, threads: int, steps: int, clock: str) -> None:
    now = time.process_time if clock == "cpu" else time.perf_counter
    library = Library(isa.choose())
    ops = CpuOps(library, Team(library, threads))
    shape, ckpt = Shape(PROMPT, 1, CONTEXT, BLOCK, "f16"), random_checkpoint(config, form)
    decoder = build_model(ckpt, ops)
    model = CpuModel(decoder, ops, shape)
    traffic = TrafficOps()
    traffic.count(outline_model(ckpt, traffic), shape)

    def rate() -> float:
        sequence, token = Sequences(model, 1), 100
        sequence.feed([list(range(100, 100 + PROMPT))], 0)
        start = now()
        for i in range(steps):
            token = int(sequence.feed([[token]], PROMPT + i)[0].argmax())
        return steps / (now() - start)

    rate()
    found = statistics.median(rate() for _ in range(REPEATS))
    cached = Sequences(model, 1).bytes_a_token * (PROMPT + steps // 2)
    out = {
        "parameters": decoder.n_parameters,
        "token_bytes": traffic.nbytes,
        "decode_tok_s": round(found, 2),
        "gb_s": round(found * (traffic.nbytes + cached) / 1e9, 3),
    }
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
