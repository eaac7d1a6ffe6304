"""llama.cpp's side of benchmarks/kv_cache.py speed: MODEL THREADS LENGTH ... Flash attention.

Prints, as a line of JSON for each type of the cache and each length: tokens a second of decoding,
and of the last 512 rows of a prompt.

The tokens before are computed as many short texts at their places, whose cells one sequence then
shares: how long a step takes depends on how many keys there are, not on what they are.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time

import llama_cpp as llama

ROWS, DECODED, AGAIN = 512, 7, 3
TYPES = {"f16": 1, "q8_0": 8}


class Text:
    """One long sequence (number 0), filled as sequences of ROWS tokens."""

    def __init__(self, model: object, kind: str, context: int, threads: int) -> None:
        p = llama.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch = context, ROWS, ROWS
        p.n_seq_max, p.kv_unified = context // ROWS + 1, True
        p.type_k = p.type_v = TYPES[kind]
        p.flash_attn_type = 1
        p.n_threads = p.n_threads_batch = threads
        self._ctx = llama.llama_init_from_model(model, p)
        assert self._ctx is not None
        self._memory = llama.llama_get_memory(self._ctx)
        self._batch = llama.llama_batch_init(ROWS, 0, 1)
        self.length = 0

    def feed(self, count: int, seq: int = 0) -> float:
        """Seconds of a step of so many tokens after those there are."""
        batch = self._batch
        batch.n_tokens = count
        for n in range(count):
            batch.token[n], batch.pos[n] = 100 + n % 1000, self.length + n
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, seq
            batch.logits[n] = n == count - 1
        start = time.perf_counter()
        assert llama.llama_decode(self._ctx, batch) == 0
        llama.llama_get_logits_ith(self._ctx, count - 1)  # waits
        self.length += count
        return time.perf_counter() - start

    def fill(self, length: int) -> None:
        """Until there are `length` tokens."""
        while self.length < length:
            seq = 1 + self.length // ROWS
            self.feed(min(ROWS, length - self.length), seq)
            llama.llama_memory_seq_cp(self._memory, seq, 0, -1, -1)

    def timed(self, count: int, times: int) -> float:
        """The median of so many such steps, each taken back."""
        spent = []
        for _ in range(times + 1):
            spent.append(self.feed(count))
            self.length -= count
            llama.llama_memory_seq_rm(self._memory, 0, self.length, -1)
        return statistics.median(spent[1:])

    def free(self) -> None:
        llama.llama_free(self._ctx)


def main(path: str, threads: int, lengths: list[int]) -> None:
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    model = llama.llama_model_load_from_file(path.encode(), params)
    for kind in TYPES:
        text = Text(model, kind, max(lengths) + ROWS, threads)
        for length in sorted(lengths):
            text.fill(length - ROWS)
            last = text.timed(ROWS, AGAIN if length < 10_000 else 1)
            text.fill(length - 1)
            found = {"what": f"{kind} {length}", "decode": 1 / text.timed(1, DECODED)}
            sys.stdout.write(json.dumps(found | {"last": ROWS / last}) + "\n")
            sys.stdout.flush()
        text.free()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]])
