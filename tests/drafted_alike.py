"""The comparison of answers with drafts and without, for whatever computes the drafts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rbee_worker.library import Model
from tests.test_speculation import PENALTIES, ROOMY, TIGHT, alone, asked, run


def compare(
    path: Path,
    backend: str,
    seeds: range,
    *,
    load: Callable[..., Model],
    speculate: str,
    nothing_is_left: Callable[[Model], None],
) -> Counter[str]:
    """Each of these requests without drafts alone, and with drafts alone and in batches.

    load: the model of `path` with drafts, given options; speculate: what it says of itself;
    nothing_is_left: after all requests. Returns what has happened how often.
    """
    seen: Counter[str] = Counter()
    requests = [asked(seed) for seed in seeds]
    off = alone(path, backend, "off", requests)
    with load(**ROOMY) as model:
        assert model.info.speculate == speculate
        for seed, request, one in zip(seeds, requests, off, strict=True):
            [told] = run(model, [request])
            assert told.same() == one.same(), seed
            seen["tokens"] += len(told.ids)
            seen["drafted"] += told.drafts[0]
            seen["accepted"] += told.drafts[1]
            seen["accepted, sampled"] += told.drafts[1] * (request.params["temperature"] > 0)
            if PENALTIES & request.params.keys():
                seen["accepted beside penalties"] += told.drafts[1]
        nothing_is_left(model)
        seen["steps saved"] = off[-1].steps - model._running().stats().steps
    for options in (ROOMY, TIGHT):
        with load(**options) as model:
            dice, left = random.Random(seeds.start), list(range(len(requests)))
            dice.shuffle(left)
            while left:
                size = dice.randint(2, 8)
                part, left = left[:size], left[size:]
                for n, got in zip(part, run(model, [requests[n] for n in part]), strict=True):
                    assert got.same(cached=False) == off[n].same(cached=False), (seeds[n], options)
                    seen["preempted"] += got.preempted
                    seen["drafted in a batch"] += got.drafts[0]
            nothing_is_left(model)
    least = {  # for each request; otherwise too little of what this is about has happened
        "drafted": 3,
        "accepted": 2,
        "accepted, sampled": 0.5,
        "accepted beside penalties": 0.3,
        "steps saved": 1,
        "preempted": 0.03,
        "drafted in a batch": 1,
    }
    for name, n in least.items():
        assert seen[name] >= n * len(seeds), seen
    return seen
