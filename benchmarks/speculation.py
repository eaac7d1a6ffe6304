"""Decode speed with drafts beside without, and how many drafts came true: MODEL.

Forty prompts one after another (`speculation_prompts.py`), each answered without and with
speculation in turns by one loaded model: greedy, so that only the time differs, or at
--temperature. Prefill is not counted: the same prompt is in the cache from its second time on.

    python -m benchmarks.speculation smollm2 --rounds 3 --tokens 128

Drafts are by prompt lookup, or by --draft-model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import rbee_worker
from benchmarks.speculation_prompts import OPEN, OVERLAP
from rbee_worker.library import Answer, Model


@dataclass(frozen=True)
class Found:
    """One prompt. speedup: median over rounds of the times without and with drafts."""

    tokens: int
    drafted: int
    accepted: int
    ms_without: float
    ms_with: float
    speedup: float


def answered(model: Model, prompt: str, **params: Any) -> Answer:
    """The answer in a conversation. A model without a chat template goes on with the prompt, past
    its end, which would often come at once."""
    if model.tokenizer.chat_template is None:
        return model.generate(prompt, ignore_eos=True, **params)
    return model.chat(prompt, **params)


def measure(model: Model, prompt: str, tokens: int, temperature: float, rounds: int) -> Found:
    """Answer one prompt without and with drafts, in turns; the answers must be the same."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        answers = []
        for speculation in times:
            answer = answered(
                model,
                prompt,
                max_tokens=tokens,
                temperature=temperature,
                seed=1,
                speculation=speculation,
            )
            times[speculation].append(answer.usage.decode_ms)
            answers.append(answer)
        assert answers[0].token_ids == answers[1].token_ids
    usage = answers[1].usage
    pairs = zip(times[False], times[True], strict=True)
    return Found(
        tokens=usage.output_tokens,
        drafted=usage.drafted_tokens,
        accepted=usage.accepted_tokens,
        ms_without=statistics.median(times[False]),
        ms_with=statistics.median(times[True]),
        speedup=statistics.median(without / max(drafting, 1e-3) for without, drafting in pairs),
    )


def summary(found: Sequence[Found]) -> dict[str, float]:
    """Of answers of 8 tokens or more: all of their times together, and the single ones."""
    long = [one for one in found if one.tokens >= 8]
    return {
        "prompts": len(long),
        "tokens": sum(one.tokens for one in long),
        "drafted": sum(one.drafted for one in long),
        "accepted": sum(one.accepted for one in long),
        "speedup": round(sum(o.ms_without for o in long) / sum(o.ms_with for o in long), 3),
        "median": round(statistics.median(one.speedup for one in long), 3),
        "lowest": round(min(one.speedup for one in long), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=20, help="of each half, the first ones")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time, of one thread: for a busy machine"
    )
    parser.add_argument("--draft-model", default="", help="a model that drafts; else lookup")
    parser.add_argument("--json", action="store_true", help="every prompt's figures too")
    args = parser.parse_args()
    everything: dict[str, object] = {}
    threads = 1 if args.cpu_time else args.threads
    drafts = {"draft_model": args.draft_model} if args.draft_model else {"speculate": "ngram"}
    with rbee_worker.load(args.model, threads=threads, **drafts) as model:
        if args.cpu_time:
            engine = model._running()
            engine._clock = time.process_time
            if engine._drafting.proposer is not None:
                engine._drafting.proposer._clock = time.process_time
        answered(model, "Hello.", max_tokens=16, temperature=0)  # everything is loaded
        for name, prompts in (("overlap", OVERLAP), ("open", OPEN)):
            found = [
                measure(model, prompt, args.tokens, args.temperature, args.rounds)
                for prompt in prompts[: args.prompts]
            ]
            if args.json:
                everything[name] = {**summary(found), "each": [asdict(one) for one in found]}
            else:
                figures = "  ".join(f"{k} {v:g}" for k, v in summary(found).items())
                sys.stdout.write(f"{name:8s} {figures}\n")
    if args.json:
        sys.stdout.write(json.dumps(everything) + "\n")


if __name__ == "__main__":
    main()
