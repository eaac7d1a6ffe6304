"""What a draft model is worth: how often it agrees, and the speed-up at any share of agreement.

    python -m benchmarks.speculation_draft agree TARGET DRAFT
    python -m benchmarks.speculation_draft curve DRAFT.gguf --layers 246

agree: over the prompts of `speculation_prompts.py` as texts, the chance that a drafted token is the
one drawn: if the draft is the most likely token, if it is drawn with the same random number (as the
worker does), and the most that any way of drafting could reach.

curve: the target is the draft model with further layers that add nothing (their last matrices are
zero), so both agree always, whatever the number of layers. Drafted tokens are then made wrong at
random, which gives any share of agreement; the measured speed-up is printed beside the one that the
measured costs promise (`engine/draft_costs.py`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import rbee_worker
from benchmarks.gguf_copy import write_copy
from benchmarks.speculation import answered
from benchmarks.speculation_prompts import OPEN, OVERLAP
from rbee_worker.engine.draft_costs import best_length, speed_up
from rbee_worker.engine.draft_model import DraftModel
from rbee_worker.library import Model

SETTINGS = {  # temperature, top_k, top_p
    "temperature 1": (1.0, 0, 1.0),
    "temperature 0.8, top_k 40, top_p 0.95": (0.8, 40, 0.95),
    "temperature 0.3": (0.3, 0, 1.0),
}
SHARES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.0)


def chances(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The chance of each token, [N, vocab], as the sampler draws."""
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    kept = np.cumsum(ranked, axis=1) - ranked < top_p
    if top_k:
        kept[:, top_k:] = False
    mask = np.zeros_like(kept)
    np.put_along_axis(mask, order, kept, axis=1)
    p = p * mask
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def agreement(p: np.ndarray, q: np.ndarray) -> tuple[float, float, float]:
    """The mean chance that a draft is right, of target p and draft q, both [N, vocab]: most likely
    token; same random number; the most there is.

    With the same number u, both draw the token whose interval of the running sum, in order of ids,
    has u: they agree where the two intervals of a token overlap.
    """
    rows = np.arange(len(p))
    likely = p[rows, q.argmax(axis=1)].mean()
    a, b = np.cumsum(p, axis=1), np.cumsum(q, axis=1)
    overlap = np.minimum(a, b) - np.maximum(a - p, b - q)
    same = np.maximum(overlap, 0).sum(axis=1).mean()
    return float(likely), float(same), float(np.minimum(p, q).sum(axis=1).mean())


def agree(target: str, draft: str, texts: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """`agreement` of two models over texts, by settings."""
    rows: list[list[np.ndarray]] = []
    for name in (target, draft):
        with rbee_worker.load(name) as model:
            rows.append([np.concatenate([model.logits(model.tokenizer.encode(t))]) for t in texts])
    p, q = (np.concatenate(one) for one in rows)
    found = {"greedy": (float((p.argmax(1) == q.argmax(1)).mean()),) * 3}
    for name, (temperature, top_k, top_p) in SETTINGS.items():
        parts = range(0, len(p), 256)
        each = [
            agreement(*(chances(x[i : i + 256], temperature, top_k, top_p) for x in (p, q)))
            for i in parts
        ]
        weights = [len(p[i : i + 256]) for i in parts]
        found[name] = tuple(np.average(np.array(each), axis=0, weights=weights).tolist())
    return found


class Spoilt:
    """Makes drafted tokens wrong, each with the chance 1 - share."""

    def __init__(self, model: Model) -> None:
        drafts = model._running()._drafts
        assert isinstance(drafts, DraftModel)
        self.drafts, self.share, self._dice = drafts, 1.0, random.Random(1)
        draw, vocab = drafts._draw, model.info.vocab_size

        def spoilt(*given: Any) -> list[int]:
            return [
                token if self._dice.random() < self.share else (token + 1) % vocab
                for token in draw(*given)
            ]

        drafts._draw = spoilt  # type: ignore[method-assign]


def curve(target: str, draft: str, tokens: int, prompts: int, shares: Sequence[float]) -> None:
    """Print the measured and the promised speed-up by share of agreement."""
    with rbee_worker.load(target, draft_model=draft) as model:
        spoilt = Spoilt(model)
        answered(model, "Hello.", max_tokens=48, temperature=0)  # costs are measured
        sys.stdout.write("share  accepted  drafted  accepted/token  speed-up  promised  length\n")
        for share in shares:
            spoilt.share = share
            ms: dict[bool, list[float]] = {False: [], True: []}
            drafted = accepted = known = 0
            for prompt in OPEN[:prompts]:
                answers = []
                for speculation, times in ms.items():
                    answer = answered(
                        model, prompt, max_tokens=tokens, temperature=0, speculation=speculation
                    )
                    times.append(answer.usage.decode_ms)
                    answers.append(answer)
                assert answers[0].token_ids == answers[1].token_ids
                usage = answers[1].usage
                drafted += usage.drafted_tokens
                accepted += usage.accepted_tokens
                known += usage.output_tokens
            ratios = spoilt.drafts.costs.ratios(1)
            assert ratios is not None
            best = best_length(share, ratios)
            measured = sum(ms[False]) / sum(ms[True])
            median = statistics.median(a / b for a, b in zip(*ms.values(), strict=True))
            sys.stdout.write(
                f"{share:5.2f}  {accepted / max(drafted, 1):8.2f}  {drafted:7d}  "
                f"{accepted / known:14.2f}  {measured:8.2f}  {speed_up(share, best, ratios):8.2f}  "
                f"{best:6d}   (median {median:.2f}; a row costs {ratios.row:.3f} steps, a draft "
                f"{ratios.draft:.3f})\n"
            )
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    sub = parser.add_subparsers(dest="what", required=True)
    one = sub.add_parser("agree")
    one.add_argument("target")
    one.add_argument("draft")
    one.add_argument("--prompts", type=int, default=20, help="of each half, the first ones")
    two = sub.add_parser("curve")
    two.add_argument("draft", type=Path)
    two.add_argument("--layers", type=int, default=246, help="that the target has more")
    two.add_argument("--tokens", type=int, default=64)
    two.add_argument("--prompts", type=int, default=4)
    args = parser.parse_args()
    if args.what == "agree":
        texts = (*OVERLAP[: args.prompts], *OPEN[: args.prompts])
        for name, shares in agree(args.target, args.draft, texts).items():
            likely, same, most = shares
            sys.stdout.write(
                f"{name}: most likely {likely:.3f}, same number {same:.3f}, at most {most:.3f}\n"
            )
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "target.gguf")
        write_copy(args.draft, target, layers=args.layers)
        curve(str(target), str(args.draft), args.tokens, args.prompts, SHARES)


if __name__ == "__main__":
    main()
