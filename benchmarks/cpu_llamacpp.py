"""llama.cpp's side of benchmarks/cpu.py: MODEL THREADS wall|cpu [plain|"" [ROW ...]].

plain: no repacked buffers (use where AMX is announced but crashes). ROW: only
these rows. Same steps as cpu_ours.py.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time

import llama_cpp as llama
import numpy as np


def main(path: str, threads: int, clock: str, way: str = "", *wanted: str) -> None:
    now = time.process_time if clock == "cpu" else time.perf_counter
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.use_extra_bufts = way != "plain"
    model = llama.llama_model_load_from_file(path.encode(), params)
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    batch = llama.llama_batch_init(2048, 0, 1)

    def context(count: int) -> object:
        p = llama.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = 640 * count, 2048, 512, count
        p.n_threads = p.n_threads_batch = threads
        return llama.llama_init_from_model(model, p)

    def feed(ctx: object, tokens: list[list[int]], done: int) -> list[int]:
        batch.n_tokens = 0
        for seq, one in enumerate(tokens):
            for i, token in enumerate(one):
                n = batch.n_tokens
                batch.token[n], batch.pos[n] = token, done + i
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, seq
                batch.logits[n] = i == len(one) - 1
                batch.n_tokens += 1
        assert llama.llama_decode(ctx, batch) == 0
        n = len(tokens[0])
        rows = [(seq + 1) * n - 1 for seq in range(len(tokens))]
        logits = [llama.llama_get_logits_ith(ctx, row) for row in rows]
        return [int(np.ctypeslib.as_array(x, (vocab,)).argmax()) for x in logits]

    def rate(count: int, prompt: int, steps: int) -> float:
        ctx = context(count)
        feed(ctx, [list(range(100, 100 + prompt))] * count, 0)
        token, start = [[100]] * count, now()
        for i in range(steps):
            token = [[t] for t in feed(ctx, token, prompt + i)]
        taken = now() - start
        llama.llama_free(ctx)
        return count * steps / taken

    def prefill() -> float:
        ctx, start = context(1), now()
        feed(ctx, [list(range(100, 612))], 0)
        taken = now() - start
        llama.llama_free(ctx)
        return 512 / taken

    rate(1, 16, 8)
    prefill()
    rows = {
        "prefill_512": lambda: [prefill() for _ in range(3)],
        "decode": lambda: [rate(1, 16, 64) for _ in range(3)],
        "decode_at_512": lambda: [rate(1, 512, 32) for _ in range(2)],
        "decode_8": lambda: [rate(8, 16, 32) for _ in range(2)],
    }
    found = {k: round(statistics.median(rows[k]()), 1) for k in rows if k in (wanted or rows)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
