"""Speed with a LoRA adapter beside the model alone: MODEL.

One process loads the model twice, without and with an adapter of random factors in float16, and
answers prompts in turns: by the model without adapters, by the model with one that is not used, and
with it. The adapter is for every linear map, or for those that --maps names. Of one thread the CPU
time is measured, which holds on a machine that others use too; of more the time that passes.

    python -m benchmarks.adapters smollm2 --rank 16 --rounds 5 --maps q_proj v_proj --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from safetensors.numpy import save_file

import rbee_worker
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.library import Model
from rbee_worker.models import plan_model
from rbee_worker.ops.adapted import Sites
from rbee_worker.ops.plan import PlanOps

WAYS = ("without", "unused", "used")
DECODED, PROMPT, TOGETHER = 24, 256, 8


def write_adapter(model: str, rank: int, folder: Path, maps: Sequence[str] = ()) -> int:
    """A PEFT adapter for the model's linear maps of these names, or for all of them; returns its
    size in bytes."""
    plan = PlanOps("f32")
    plan.sites = Sites(1, rank)
    plan_model(open_checkpoint(model), plan)
    dice = np.random.default_rng(0)
    tensors = {}
    for site in plan.sites:
        for part in site.parts:
            if maps and part.name.rpartition(".")[2] not in maps:
                continue
            for end, shape in (("A", (rank, site.cols)), ("B", (part.rows, rank))):
                numbers = (dice.standard_normal(shape) * 0.01).astype(np.float16)
                tensors[f"base_model.model.{part.name}.lora_{end}.weight"] = numbers
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": [*maps] or "all-linear",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return sum(array.nbytes for array in tensors.values())


class Prompts:
    """Ids that no earlier prompt began with."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary, self._count = vocabulary, 0

    def next(self, length: int) -> list[int]:
        self._count += 1
        return [(7919 * self._count + 31 * i) % self._vocabulary for i in range(length)]


def measure(
    models: dict[str, Model], rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Milliseconds a token, by what is measured and by way: medians over rounds."""
    prompts = Prompts(models["used"].info.vocab_size)
    greedy = {"temperature": 0, "ignore_eos": True}

    def decode(model: Model, adapter: str) -> float:
        given = {"adapter": adapter, "max_tokens": DECODED, **greedy}
        began = clock()
        model.generate(prompts.next(1), **given)
        return 1e3 * (clock() - began) / DECODED

    def together(model: Model, adapter: str) -> float:
        given = {"adapter": adapter, "max_tokens": DECODED, **greedy}
        began = clock()
        model.generate_all([prompts.next(1) for _ in range(TOGETHER)], **given)
        return 1e3 * (clock() - began) / DECODED / TOGETHER

    def prefill(model: Model, adapter: str) -> float:
        given = {"adapter": adapter, "max_tokens": 1, **greedy}
        began = clock()
        model.generate(prompts.next(PROMPT), **given)
        return 1e3 * (clock() - began) / PROMPT

    works: dict[str, Callable[[Model, str], float]] = {
        "decode": decode,
        f"decode of {TOGETHER}": together,
        "prefill": prefill,
    }
    found: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in works}
    for turn in range(rounds + 1):  # the first one warms up
        for name, work in works.items():
            for way in WAYS:
                ms = work(models[way], "a" if way == "used" else "")
                if turn:
                    found[name][way].append(ms)
    return {n: {w: statistics.median(ms) for w, ms in ways.items()} for n, ways in found.items()}


def main() -> None:
    """Print one line for each kind of work, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--maps", nargs="*", default=(), help="last parts of the maps' names")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    common = {"backend": asked.backend, "threads": asked.threads, "prefix_cache": False}
    with tempfile.TemporaryDirectory() as folder:
        size = write_adapter(asked.model, asked.rank, Path(folder), asked.maps)
        adapted = {**common, "lora": {"a": folder}, "lora_rank": asked.rank}
        with (
            rbee_worker.load(asked.model, **common) as plain,
            rbee_worker.load(asked.model, **adapted) as model,
        ):
            info = model.info
            models = {"without": plain, "unused": model, "used": model}
            clock = time.process_time if asked.threads == 1 else time.perf_counter
            found = measure(models, asked.rounds, clock)
    if asked.json:
        sys.stdout.write(json.dumps({"model": info.model, "bytes": size, **found}) + "\n")
        return
    share = size / info.weight_bytes
    sys.stdout.write(
        f"{info.model}: an adapter of rank {asked.rank}, {size:,} bytes ({share:.1%})\n"
    )
    for name, ms in found.items():
        unused, used = ms["without"] / ms["unused"], ms["without"] / ms["used"]
        sys.stdout.write(
            f"{name:12} {ms['without']:.3f} ms a token; unused {unused:.2f}, used {used:.2f} of "
            "the speed without\n"
        )


if __name__ == "__main__":
    main()
