"""Sequences with grammars in the engine: compiled beside the steps, the same on every backend."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from msgspec.structs import replace

from rbee_worker.constraints.compiled import OPTIONS
from rbee_worker.constraints.words import Words
from rbee_worker.engine import grammars
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Cancel, Finished, Preempted, Submit, Tokens
from tests.engine.fakes import BACKENDS, EOS, FULL, MIXED, FakeModel, ask, make_engine
from tests.patience import LIMIT_S

CHARS = [chr(48 + i) for i in range(64)]  # token i is one character: "0" to "o"
WORDS = Words(tokens=tuple(c.encode() for c in CHARS), special=(2,))
PATTERNS = ["[3-9]{4,9}", "(?:AB|[C-F]G)+H", "[a-o]*Z", "[3-9A-Z]{12}", "KLMNO[P-Z]+"]


def grammar(pattern: str) -> str:
    return f"start: /{pattern}/\n{OPTIONS}\n"


def asked(number: int, **more: Any) -> Submit:
    pattern = PATTERNS[number % len(PATTERNS)]
    sampling = [{}, {"frequency_penalty": 0.6}, {"logprobs": 1}, {"min_tokens": 6}][number % 4]
    params = {"n": 14, "eos": EOS, "seed": number, **sampling, **more}
    return ask(f"{number}", [5, 9, 20 + number % 7] * 3, grammar=grammar(pattern), **params)


def finish(engine: Engine, steps: int = 5000) -> dict[str, Any]:
    """Run until nothing is left: ids, log-probabilities and stop of each sequence."""
    found: dict[str, Any] = {}
    for _ in range(steps):
        if engine.idle:
            return found
        for m in engine.step():
            if isinstance(m, Tokens):
                ids, scores = found.setdefault(m.seq, ([], []))[:2]
                ids += m.ids
                scores += m.logprobs or ()
            elif isinstance(m, Finished):
                found[m.seq] = (*found.get(m.seq, ([], [])), m.stop, m.error)
            elif isinstance(m, Preempted):
                found["preempted"] = found.get("preempted", 0) + 1
    raise AssertionError("it does not end")


def test_every_backend_draws_the_same_held_tokens() -> None:
    told = []
    for backend in BACKENDS:
        for groups in (FULL, MIXED):
            for options in ({"tokens": 256}, {"tokens": 48}, {"speculate": "ngram"}):
                engine = make_engine(FakeModel(groups=groups), backend=backend, **options)  # type: ignore[arg-type]
                engine.learn(WORDS)
                for number in range(15):
                    engine.submit(asked(number))
                    engine.submit(ask(f"free {number}", [number, 7, 7], n=5))
                found = finish(engine)
                preempted = found.pop("preempted", 0)
                assert preempted or options != {"tokens": 48}
                told.append((groups, found))
    for groups, found in told:
        first = next(other for same, other in told if same is groups)
        assert found == first
    for number in range(15):
        ids, _, stop, error = told[0][1][str(number)]
        assert error is None
        text = "".join(CHARS[i] for i in ids if i != 2)
        if stop.rule in ("COMPLETE", "EOS"):
            assert re.fullmatch(PATTERNS[number % len(PATTERNS)], text)
        else:
            assert stop.rule == "MAX_TOKENS"


@pytest.mark.parametrize("speculate", ["off", "ngram"])
def test_a_sequence_goes_on_after_the_tokens_that_it_has(speculate: str) -> None:
    """Wherever it was broken off, tokens that were taken without a step included; with penalties,
    log-probabilities and a least length."""
    for number in range(15):
        engine = make_engine(speculate=speculate)
        engine.learn(WORDS)
        m = asked(number)
        engine.submit(m)
        whole, scores, stop, _ = finish(engine)[f"{number}"]
        for have in range(1, len(whole)):
            other = make_engine(speculate="off" if have % 2 else "ngram")
            other.learn(WORDS)
            other.submit(replace(m, output_ids=tuple(whole[:have])))
            rest, more, again, _ = finish(other)[f"{number}"]
            assert [*whole[:have], *rest] == whole
            assert [*scores[:have], *more] == scores
            assert again == stop


def test_others_run_while_a_grammar_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, go = grammars.compiled, threading.Event()
    times: list[None] = []

    def slow(*args: Any) -> Any:
        times.append(None)
        assert go.wait(LIMIT_S)
        return compiled(*args)

    monkeypatch.setattr(grammars, "compiled", slow)
    engine = make_engine()
    engine.learn(WORDS)
    engine.submit(asked(0))
    engine.submit(ask("free", [4, 5], n=4))
    drawn = []
    while "free" not in drawn:
        drawn += [m.seq for m in engine.step() if isinstance(m, Finished)]
    assert drawn == ["free"]
    assert not engine.idle
    go.set()
    assert list(finish(engine)) == ["0"]
    engine.submit(asked(5))  # the same grammar: it is kept
    finish(engine)
    assert len(times) == 1


def test_one_that_waits_for_its_grammar_can_be_cancelled() -> None:
    engine = make_engine()
    engine.learn(WORDS)
    engine.submit(asked(0))
    engine.cancel(Cancel(seq="0"))
    found = finish(engine)
    assert found["0"][2].rule == "CANCELLED"
    assert engine.idle
    engine.pool.check()


def test_a_grammar_that_fails_here_fails_its_sequence_only() -> None:
    engine = make_engine()
    engine.learn(WORDS)
    engine.submit(ask("bad", [4, 5], grammar="start: missing"))
    engine.submit(ask("stuck", [4, 5], grammar=f'start: "A" "é"\n{OPTIONS}'))
    engine.submit(ask("good", [4, 5], n=4))
    found = finish(engine)
    assert "the constraint cannot be held" in found["bad"][3]
    assert found["stuck"][2].rule == "ERROR"
    assert "no text satisfies it" in found["stuck"][3]
    assert found["good"][2].rule == "MAX_TOKENS"
