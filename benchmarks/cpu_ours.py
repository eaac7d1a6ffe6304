"""Our side of benchmarks/cpu.py: MODEL THREADS wall|cpu [bf16|"" [ROW ...]].

Greedy decoding without an engine; bf16: with --bf16-activations; ROW: only these rows.

Besides the rows: what one token reads (bytes of weights, bytes of cache for each token before it)
and how fast this machine's memory is read in the same minute.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.cpu_model import BLOCK, CONTEXT, Sequences, built, bytes_read
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.ops.cpu.runtime.bandwidth import read_gb_s
from rbee_worker.ops.cpu.runtime.header import Shape


def main(path: str, threads: int, clock: str, rounding: str = "", *wanted: str) -> None:
    now = time.process_time if clock == "cpu" else time.perf_counter
    shape, ckpt = Shape(512, 8, CONTEXT, BLOCK, "f16"), open_checkpoint(path)
    model = built(ckpt, shape, threads, rounding == "bf16")
    sampling = model.ops.sampling(model.vocab_size)

    def words(count: int) -> list[int]:
        return [(100 + i) % model.vocab_size for i in range(count)]

    def rate(count: int, prompt: int, steps: int) -> float:
        seqs = Sequences(model, count)
        seqs.feed([words(prompt)] * count, 0)
        token, start = [[100]] * count, now()
        for i in range(steps):
            logits = seqs.feed(token, prompt + i)
            token = [[one] for one in sampling.greedy(logits).host()]
        return count * steps / (now() - start)

    def prefill() -> float:
        seqs, start = Sequences(model, 1), now()
        seqs.feed([words(512)], 0)
        return 512 / (now() - start)

    rate(1, 16, 8)
    prefill()
    rows = {
        "prefill_512": lambda: [prefill() for _ in range(3)],
        "decode": lambda: [rate(1, 16, 64) for _ in range(3)],
        "decode_at_512": lambda: [rate(1, 512, 32) for _ in range(2)],
        "decode_8": lambda: [rate(8, 16, 32) for _ in range(2)],
    }
    found = {k: round(statistics.median(rows[k]()), 1) for k in rows if k in (wanted or rows)}
    found |= {
        "token_bytes": bytes_read(ckpt, shape),
        "cache_bytes": Sequences(model, 1).bytes_a_token,
        "read_gb_s": round(read_gb_s(threads), 2),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
