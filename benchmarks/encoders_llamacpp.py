"""llama.cpp's side of benchmarks/encoders.py: MODEL.gguf IDS.json THREADS. The vectors of the first
tokens, the best of several micro-batches."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np

REPEATS, PROBED = 2, 8  # as encoders.py has them


def vectors(ctx: Any, size: int, texts: list[list[int]], width: int) -> list[list[float]]:
    """Of every text, as many in a batch as its tokens have room for."""
    batch = llama.llama_batch_init(size, 0, 1)
    found: list[list[float]] = []
    while len(found) < len(texts):
        batch.n_tokens, count = 0, 0
        for text in texts[len(found) :]:
            if batch.n_tokens + len(text) > size:
                break
            for i, token in enumerate(text):
                n = batch.n_tokens
                batch.token[n], batch.pos[n] = token, i
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, count
                batch.logits[n] = True
                batch.n_tokens += 1
            count += 1
        assert count
        assert llama.llama_encode(ctx, batch) == 0
        for seq in range(count):
            one = llama.llama_get_embeddings_seq(ctx, seq)
            found.append(np.ctypeslib.as_array(one, (width,)).tolist())
    llama.llama_batch_free(batch)
    return found


def main(path: str, ids: str, threads: int) -> None:
    texts: list[list[int]] = json.loads(Path(ids).read_text())
    probe = texts[::PROBED]
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    width = llama.llama_model_n_embd(model)

    def seconds(size: int, given: list[list[int]], repeats: int) -> tuple[float, Any]:
        p = llama.llama_context_default_params()
        p.n_ctx = p.n_batch = p.n_ubatch = size
        p.n_seq_max = len(texts)
        p.n_threads = p.n_threads_batch = threads
        p.embeddings, p.pooling_type = True, llama.LLAMA_POOLING_TYPE_CLS
        p.kv_unified = True
        ctx = llama.llama_init_from_model(model, p)
        shown, best = vectors(ctx, size, probe, width), float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            vectors(ctx, size, given, width)
            best = min(best, time.perf_counter() - start)
        llama.llama_free(ctx)
        return best, shown

    size = min((512, 2048, 8192), key=lambda size: seconds(size, probe, 1)[0])
    taken, shown = seconds(size, texts, REPEATS)
    out = {"texts_s": round(len(texts) / taken, 2), "way": f"micro-batch {size}", "vectors": shown}
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
