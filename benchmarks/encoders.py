"""Vectors of 64 ragged texts on the CPU, beside transformers and llama.cpp: texts a second.

    python -m benchmarks.encoders [--only NAME] [--format f32] [--rounds 3] [--peer-python PYTHON]
                                  [--threads N]

The shapes of all-MiniLM-L6 and ModernBERT-base with random weights (their vocabulary is small,
which changes nothing but the size of a table), texts of 16 to 512 tokens. Formats: f32; bf16, with
--bf16-activations here and dtype bfloat16 in transformers; q8_0, beside float32 in transformers.
Ours reads transformers' files in f32, the GGUF file otherwise. transformers gets
the texts sorted by length in padded batches; of the sizes of batches, and of llama.cpp's
micro-batches, the best on every eighth text is taken. Sides run in turns; median of the pairs'
ratios. A side whose vectors differ from ours has no figures. `--peer-python`: an interpreter with
llama-cpp-python (`make bench-cpu` makes one).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import document
from benchmarks.side_by_side import PINNED, Pair, kept, median, once, ratio
from rbee_worker.machine import allowed_cores

TEXTS, SHORTEST, LONGEST, SEED = 64, 16, 512, 0
FIRST_ID, LAST_ID = 5, 210  # ordinary tokens of the small vocabulary
REPEATS = 2
BOUNDS = {"f32": 2e-2, "bf16": 0.1, "q8_0": 0.1}  # of vectors' distances, where a side rounds
PROBED = 8  # of so many texts one is used to choose a way
Vectors = Callable[[list[list[int]]], list[Any]]  # ids of texts -> their vectors
SHAPES = {
    "MiniLM-L6": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": LONGEST,
    },
    "ModernBERT-base": {
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
    },
}


def texts() -> list[list[int]]:
    """The same ids on every side."""
    rng = random.Random(SEED)
    lengths = [rng.randint(SHORTEST, LONGEST) for _ in range(TEXTS)]
    return [rng.choices(range(FIRST_ID, LAST_ID + 1), k=n) for n in lengths]


def write(name: str, folder: Path, form: str = "f32") -> None:
    """The model as transformers' files and as GGUF: `folder/hf`, `folder/FORM.gguf`."""
    import gguf
    from transformers import BertConfig, BertModel, ModernBertModel

    from tests.encoders import BERT, MODERN, Row, made, modern, sentence_files, write_gguf
    from tests.encoders import write as write_files

    shape = SHAPES[name]
    row = (
        Row(name, ModernBertModel, modern(**shape), context=8192, gguf=MODERN)
        if name.startswith("Modern")
        else Row(name, BertModel, made(BertConfig, **shape), context=LONGEST, gguf=BERT)
    )
    write_files(row, folder / "hf", **sentence_files(way="cls_token", normalize=False))
    write_gguf(row, folder / f"{form}.gguf", gguf.GGMLQuantizationType[form.upper()])


def ours(folder: str, threads: int, form: str) -> dict[str, Any]:
    """The engine in this process: every text is submitted, and steps are made until all is done."""
    from rbee_worker.config import Settings
    from rbee_worker.engine.messages import Pooled, Submit
    from rbee_worker.loading.load import load_engine
    from rbee_worker.types import Pool, SamplingParams

    model = f"{folder}/hf" if form == "f32" else f"{folder}/{form}.gguf"
    rounded = form == "bf16"
    settings = Settings(model=model, backend="cpu", threads=threads, bf16_activations=rounded)
    engine, _ = load_engine(settings, lambda _: None)
    nothing, pool = SamplingParams(max_tokens=0), Pool(how="cls")

    def vectors(given: list[list[int]]) -> list[Any]:
        for number, ids in enumerate(given):
            engine.submit(Submit(seq=str(number), prompt_ids=tuple(ids), params=nothing, pool=pool))
        found: dict[str, Any] = {}
        while not engine.idle:
            for m in engine.step():
                if isinstance(m, Pooled):
                    found[m.seq] = np.frombuffer(m.data, "<f4")
        return [found[str(n)] for n in range(len(given))]

    return _timed({"": vectors})


def transformers_(folder: str, threads: int, form: str) -> dict[str, Any]:
    """transformers with its fastest attention, in padded batches of texts alike."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if form == "bf16" else torch.float32
    model = AutoModel.from_pretrained(f"{folder}/hf", dtype=dtype).eval()

    def batches(size: int) -> Vectors:
        def run(given: list[list[int]]) -> list[Any]:
            found: dict[int, Any] = {}
            order = sorted(range(len(given)), key=lambda n: len(given[n]))
            for at in range(0, len(given), size):
                rows = order[at : at + size]
                longest = max(len(given[n]) for n in rows)
                ids = torch.zeros(len(rows), longest, dtype=torch.long)
                mask = torch.zeros_like(ids)
                for r, n in enumerate(rows):
                    ids[r, : len(given[n])] = torch.tensor(given[n])
                    mask[r, : len(given[n])] = 1
                with torch.inference_mode():
                    states = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
                found |= {n: states[r].float().numpy() for r, n in enumerate(rows)}
            return [found[n] for n in range(len(given))]

        return run

    return _timed({f"batches of {size}": batches(size) for size in (1, 8, 32)})


def _timed(ways: Mapping[str, Vectors]) -> dict[str, Any]:
    """Texts a second of the best way, its name, and the vectors."""

    def seconds(run: Vectors, given: list[list[int]]) -> float:
        start = time.perf_counter()
        run(given)
        return time.perf_counter() - start

    given, probe = texts(), texts()[::PROBED]
    for run in ways.values():
        run(probe)
    name, best = min(ways.items(), key=lambda way: seconds(way[1], probe))
    taken = min(seconds(best, given) for _ in range(REPEATS))
    vectors = [v.tolist() for v in best(probe)]
    return {"texts_s": round(TEXTS / taken, 2), "way": name, "vectors": vectors}


def _compared(ours: Mapping[str, Any], peer: Mapping[str, Any], bound: float) -> float:
    """The largest distance of two vectors over their size. Raises SystemExit beyond the bound."""
    a, b = np.array(ours["vectors"]), np.array(peer["vectors"])
    worst = float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())
    if not worst <= bound:
        raise SystemExit(f"the vectors differ by {worst:.2g} of their size: that is no comparison")
    return worst


def measure(name: str, form: str, threads: int, rounds: int, peer_python: str) -> dict[str, Any]:
    """One shape, every side in turns."""
    tokens = sum(map(len, texts()))
    with tempfile.TemporaryDirectory() as folder:
        write(name, Path(folder), form)
        tail = [folder, str(threads), form]
        sides = {"transformers": [sys.executable, __file__, "transformers", *tail]}
        if peer_python:
            script = str(Path(__file__).with_name("encoders_llamacpp.py"))
            ids = Path(folder, "ids.json")
            ids.write_text(json.dumps(texts()))
            sides["llama.cpp"] = [peer_python, script, f"{folder}/{form}.gguf", str(ids), tail[1]]
        pairs: dict[str, list[Pair]] = {side: [] for side in sides}
        ways: dict[str, str] = {}
        errors: dict[str, float] = {}
        for _ in range(rounds):
            mine = once([sys.executable, __file__, "ours", *tail])
            for side, command in sides.items():
                found = once(command, PINNED if side == "llama.cpp" else {})
                # The peer's own kernels round: a pretence of equality would be of no use.
                bound = 1e-4 if side == "transformers" and form == "f32" else BOUNDS[form]
                errors[side] = _compared(mine, found, bound)
                ways[side] = found["way"]
                texts_s = {"texts": mine["texts_s"]}, {"texts": found["texts_s"]}
                pairs[side].append(Pair(*texts_s))
    rows = {}
    for side, found_pairs in pairs.items():
        good = kept(found_pairs, "texts")
        rows[side] = {
            "ours": median([p.ours["texts"] for p in good]),
            "peer": median([p.peer["texts"] for p in good]),
            "ratio": ratio(found_pairs, "texts"),
            "way": ways[side],
            "difference": errors[side],
        }
    return {"shape": name, "format": form, "texts": TEXTS, "tokens": tokens, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--format", choices=BOUNDS, default="f32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=allowed_cores())
    parser.add_argument("--peer-python", default="")
    asked = parser.parse_args()
    chosen = [name for name in SHAPES if asked.only in name]
    if not chosen:
        parser.error(f"--only {asked.only}: none of {', '.join(SHAPES)}")
    sys.stdout.write(document.conditions(threads=asked.threads) + "\n")
    for name in chosen:
        found = measure(name, asked.format, asked.threads, asked.rounds, asked.peer_python)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["transformers"]):
        side = ours if sys.argv[1] == "ours" else transformers_
        os.environ["OMP_NUM_THREADS"] = sys.argv[3]
        sys.stdout.write(json.dumps(side(sys.argv[2], int(sys.argv[3]), sys.argv[4])) + "\n")
    else:
        main()
