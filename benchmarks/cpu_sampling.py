"""What choosing a token costs on the cpu backend: microseconds a row, beside torch's.

    python benchmarks/cpu_sampling.py [--threads 1] [--rows 1] [--rounds 7]

Steps of the engine's sampler over made-up logits: *peaked* as a language model's mostly are (a few
tokens have nearly all of the probability), *flat* where a nucleus has tens of thousands of tokens.
The clock is the processor time of the whole process, divided by rows; the lowest of some rounds is
printed, because what others do on the machine only adds to it. With several threads processor time
is all of theirs together: look at one thread to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from rbee_worker.engine.sampler import Sampler
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu.backend.sampling import CpuSampling
from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.types import SamplingParams

VOCABULARIES = (49_152, 128_256)
STEPS = 64  # of a round: the sampler computes its random numbers for so many at once
PROMPT = range(100, 612)  # what a repetition penalty looks back at
KINDS = {
    "greedy": SamplingParams(temperature=0),
    "greedy_penalty": SamplingParams(temperature=0, repetition_penalty=1.1, repeat_last_n=0),
    "greedy_logprobs_5": SamplingParams(temperature=0, logprobs=5),
    "plain": SamplingParams(seed=1),
    "min_p": SamplingParams(seed=1, min_p=0.05),
    "top_k_40": SamplingParams(seed=1, top_k=40),
    "top_k_40_top_p_0.95": SamplingParams(seed=1, top_k=40, top_p=0.95),
    "top_p_0.95": SamplingParams(seed=1, top_p=0.95),
}


def logits(rows: int, vocab: int, shape: str) -> NDArray[np.float32]:
    """Normal logits; where peaked, some tokens stand out by what falls off like a power law."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, vocab)) * 2.5
    if shape == "peaked":
        for row in z:
            row[rng.choice(vocab, 200, replace=False)] = 20 - 1.5 * np.log(np.arange(1, 201))
    return z.astype(np.float32)


def cost(sampler: Sampler, z: Array, params: SamplingParams, rounds: int) -> float:
    """Microseconds of processor time a row."""
    slots = list(range(len(z)))
    best = float("inf")
    for n in range(rounds + 1):
        for slot in slots:
            sampler.add(slot, params, PROMPT)
        start = time.process_time()
        for index in range(len(PROMPT), len(PROMPT) + STEPS):
            prepared = sampler.prepare(slots, [index] * len(slots))
            sampler.collect(sampler.sample(z, prepared))
        if n:  # the first round warms up
            best = min(best, time.process_time() - start)
    return round(best / STEPS / len(z) * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    library = Library(isa.choose(os.environ.get("RBEE_CPU_ISA", "")))
    team = Team(library, asked.threads)
    makers: dict[str, Callable[[int], Sampler]] = {
        "kernels": lambda vocab: Sampler(vocab, asked.rows, CpuSampling(library, team, vocab)),
        "torch": lambda vocab: Sampler(vocab, asked.rows, TorchSampling(torch.device("cpu"))),
    }
    for vocab in VOCABULARIES:
        for shape in ("peaked", "flat"):
            z = logits(asked.rows, vocab, shape)
            given = {"kernels": z, "torch": torch.from_numpy(z)}
            for kind, params in KINDS.items():
                found = {
                    n: cost(make(vocab), given[n], params, asked.rounds)
                    for n, make in makers.items()
                }
                row = {"vocabulary": vocab, "logits": shape, "sampling": kind, **found}
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()
    team.close()


if __name__ == "__main__":
    main()
