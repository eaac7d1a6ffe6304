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

from benchmarks.cpu_model import BLOCK, CONTEXT, Sequences, built, bytes_read
from rbee_worker.models.random import random_checkpoint
from rbee_worker.ops.cpu.runtime.header import Shape

PROMPT, REPEATS = 16, 3


def main(config: str, form: str, threads: int, steps: int, clock: str) -> None:
    now = time.process_time if clock == "cpu" else time.perf_counter
    shape, ckpt = Shape(PROMPT, 1, CONTEXT, BLOCK, "f16"), random_checkpoint(config, form)
    model, read = built(ckpt, shape, threads), bytes_read(ckpt, shape)

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
        "parameters": model.decoder.n_parameters,
        "token_bytes": read,
        "decode_tok_s": round(found, 2),
        "gb_s": round(found * (read + cached) / 1e9, 3),
    }
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
