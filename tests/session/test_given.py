"""An answer that one process began and another one goes on with: together they give out what one
process alone would have, wherever the first one ended."""

from __future__ import annotations

import asyncio
import codecs
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from rbee_worker.answer import Format, find_format, tool_table
from rbee_worker.answer_parts import joined_calls
from rbee_worker.engine.messages import Finished, Tokens
from rbee_worker.journal.records import events_of, packed
from rbee_worker.model_info import ModelInfo
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.server.prompts import of_ids
from rbee_worker.session.given import Given
from rbee_worker.session.live_request import LiveRequest
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.reading import Reading
from rbee_worker.session.text import TextSide
from rbee_worker.types import (
    End,
    EosToken,
    Event,
    PromptLogprobs,
    Request,
    Resolved,
    SamplingParams,
    Token,
    TokenLogprob,
)
from tests.answer.samples import SAMPLES, TOOLS, Sample
from tests.engine.tiny import write_tiny
from tests.patience import LIMIT_S
from tests.process.test_replacement import asked, settings_of

EOS = 256
INFO = ModelInfo(
    model="m", arch="a", device="cpu", backend="b", dtype="f32", kv_dtype="f32", context=9999,
    vocab_size=257, kv_tokens=9999, block_size=16, weight_bytes=1, kv_bytes=1, n_layers=1,
    n_parameters=1,
)  # fmt: skip


class ByteStream:
    """A token is a byte, or a special one without visible text."""

    def __init__(self, skip_special: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def within(self) -> bool:
        return bool(self._decoder.getstate()[0])

    def push(self, token_id: int) -> str:
        return "" if token_id >= EOS else self._decoder.decode(bytes([token_id]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def text_side(special: Sequence[str] = ()) -> TextSide:
    """special: texts of the ids from 257 on."""
    texts = ("</s>", *special)
    return TextSide(
        ckpt=SimpleNamespace(ref="m"),  # type: ignore[arg-type]
        tokenizer=SimpleNamespace(  # type: ignore[arg-type]
            special_ids=frozenset(range(EOS, EOS + len(texts))),
            token_text=lambda token_id: texts[token_id - EOS],
        ),
        eos=(EosToken(id=EOS, text="</s>", origins=("x",)),),
        chat=None,
        exempt_ids=frozenset(),
        stream=ByteStream,
    )


TEXT = text_side()


def ids_of(sample: Sample) -> list[int]:
    """The answer as tokens, its end included."""
    parts = re.split("|".join(map(re.escape, sample.special)) or "(?!)", sample.answer)
    marks = iter(re.findall("|".join(map(re.escape, sample.special)) or "(?!)", sample.answer))
    ids: list[int] = []
    for part in parts:
        ids += part.encode()
        mark = next(marks, None)
        ids += [] if mark is None else [EOS + 1 + sample.special.index(mark)]
    return [*ids, EOS]


def score(token_id: int) -> TokenLogprob:
    return TokenLogprob(id=token_id, logprob=-1.0 - token_id)


def given_out(
    prepared: Prepared,
    ids: Sequence[int],
    dice: random.Random,
    after: Sequence[Event] = (),
    text: TextSide = TEXT,
) -> list[Event]:
    """Events of an answer whose tokens are `ids`, cut at random; after: they are gone on with."""
    live = LiveRequest(Request(id="a"), "1/a", prepared, text, Given(after) if after else None)
    events: list[Event] = list(after) or [live.started(INFO)]
    scored = prepared.resolved.params.logprobs is not None
    if after:
        live.submit()
    while not live.ended:
        n = len(live.output_ids)
        new = list(ids[n : n + dice.choice((1, 1, 1, 2, 5))])
        told = live.tokens(
            Tokens(seq="1/a", ids=tuple(new), logprobs=tuple(map(score, new)) if scored else None)
        )
        if told == "stop" or live.output_ids[-1:] == [EOS]:
            stop = StopRecord(rule="EOS", at=len(live.output_ids), token_id=EOS)
            usage = Usage(prompt_tokens=1, cached_tokens=0, output_tokens=len(live.output_ids))
            live.finished(Finished(seq="1/a", stop=stop, usage=usage))
        while dice.random() < 0.7 or live.ended:
            event = live.events.take()
            if event is None:
                break
            if isinstance(event, Token | End):
                events.append(event)
    return events


def whole(events: Sequence[Event]) -> tuple[Any, ...]:
    """All that was given out, whatever the cut."""
    told = [e for e in events if isinstance(e, Token | End)]
    ids: list[int] = []
    for event in told:
        assert isinstance(event, End) or event.i == len(ids), "a token lost or doubled"
        ids += event.ids
    text = "".join(e.t if isinstance(e, Token) else e.text for e in told)
    reasoning = "".join(e.reasoning for e in told)
    calls = joined_calls(piece for e in told for piece in e.calls)
    end = told[-1]
    assert isinstance(end, End)
    scores = [s for e in told for s in e.logprobs or ()]
    return ids, text, reasoning, calls, scores, end.stop, end.usage.reasoning_tokens


def check_every_cut(
    prepared: Prepared, ids: Sequence[int], seed: int, text: TextSide = TEXT
) -> None:
    dice = random.Random(seed)
    alone = given_out(prepared, ids, dice, (), text)
    right = whole(alone)
    assert isinstance(alone[-1], End)
    for cut in range(1, len(alone)):
        begun = events_of(*packed(alone[:cut]))  # as the journal has them
        assert whole(given_out(prepared, ids, dice, begun, text)) == right, cut


def plain(**params: Any) -> Prepared:
    resolved = Resolved(params=SamplingParams(max_tokens=999, **params), origins={})
    return Prepared((1,), resolved)


@pytest.mark.parametrize("stop", [(), ("bab", "ababc"), ("é!", "nowhere"), ("q",)])
@pytest.mark.parametrize("logprobs", [None, 0])
def test_text_with_stop_strings(stop: tuple[str, ...], logprobs: int | None) -> None:
    dice = random.Random(repr(stop))
    for seed in range(4):
        text = "".join(dice.choice(("a", "b", "ab", "é", "🙂", "c", " ")) for _ in range(40))
        ids = [*text.encode(), EOS]
        check_every_cut(plain(stop=stop, logprobs=logprobs), ids, seed)
        check_every_cut(plain(stop=stop, logprobs=logprobs, min_tokens=20), ids, seed)


def reading(form: Format, **more: Any) -> Reading:
    return Reading(form=form, tools=tool_table(TOOLS), place="start", **more)


@pytest.mark.parametrize("n", range(len(SAMPLES)))
def test_reasoning_and_calls_of_every_format(n: int) -> None:
    sample: Sample = SAMPLES[n]
    form = find_format([sample.template], lambda text: False)
    prepared = replace(plain(), reading=reading(form))
    ids, text = ids_of(sample), text_side(sample.special)
    _, *told, calls, _, _, _ = whole(given_out(prepared, ids, random.Random(0), (), text))
    assert told == [sample.text, sample.reasoning]
    assert [call.name for call in calls] == [name for name, _ in sample.calls]
    check_every_cut(prepared, ids, n, text)


def test_a_budget_for_reasoning_that_is_spent() -> None:
    """The mark that ends it was written, in part perhaps, before the first process ended."""
    form = find_format(["{{ tools }}<think></think>"], lambda text: False)
    end = tuple(b"\n</think>\n\n")
    for budget in (0, 1, 7):
        prepared = replace(plain(), reading=reading(form, budget=budget, reasoning_end=end))
        live = LiveRequest(Request(id="a"), "1/a", prepared, TEXT)
        tokens: list[int] = []
        for token in [*b"<think>\nhmmmmmmmmmmmmmm"]:
            live.tokens(Tokens(seq="1/a", ids=(token,)))
            tokens = list(live.output_ids)
            if bytes(tokens).endswith(bytes(end)):
                break
        assert bytes(tokens).endswith(bytes(end))
        check_every_cut(prepared, [*tokens, *b"So: yes.", EOS], budget)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("given") / "tiny")


@pytest.mark.parametrize("speculate", ["off", "ngram"])
def test_another_engine_goes_on_to_the_same_answer(tiny: Path, speculate: str) -> None:
    """Greedy, drawn, with penalties, scores, stop strings, constraints; from any event on."""
    from rbee_worker.session.client import EngineClient

    async def hear(client: EngineClient, request: Request, after: Sequence[Event]) -> list[Event]:
        return [*after, *[event async for event in client.generate(request, after)]]

    def answer(events: Sequence[Event]) -> tuple[Any, ...]:
        scores = [s for e in events if isinstance(e, PromptLogprobs) for s in e.logprobs]
        assert isinstance(events[-1], End), events[-1]
        used = events[-1].usage
        return (
            *whole(events)[:-2],
            events[-1].stop,
            scores,
            used.drafted_tokens,
            used.accepted_tokens,
        )

    async def main() -> None:
        dice = random.Random(5)
        settings = settings_of(tiny, speculate=speculate)
        client = await EngineClient.start(settings, in_process=True)
        try:
            await client.ready()
            for request in asked():
                alone = await hear(client, request, ())
                started: Any = alone[0]
                again = msgspec.structs.replace(of_ids(request, started), token_ids=None, params={})
                for cut in {1, 2, len(alone) - 1, dice.randrange(1, len(alone))}:
                    begun = events_of(*packed(alone[:cut]))
                    found = await hear(client, again, begun)
                    assert answer(found) == answer(alone), (request.id, cut)
        finally:
            await client.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))


def test_a_fingerprint_is_of_the_files_and_of_what_changes_numbers(
    tiny: Path, tmp_path: Path
) -> None:
    from rbee_worker.session.startup import fingerprint

    settings, files = settings_of(tiny), (tiny, ())
    tower, copy = tmp_path / "mmproj.gguf", tmp_path / "copy.gguf"
    for file in (tower, copy):
        file.write_bytes(b"eyes")

    def of(info: ModelInfo = INFO, eyes: Path = tower, **change: Any) -> str:
        return fingerprint(msgspec.structs.replace(settings, **change), info, files, eyes)

    mine = of()
    change: dict[str, Any]
    for change in ({"threads": 2}, {"max_seqs": 3}, {"ctx": 64}, {"eyes": copy}, {"lora": "a=b"}):
        assert of(**change) == mine, change
    for change in (
        {"quantize": "fp8"}, {"exact_activations": True}, {"bf16_activations": True},
        {"deterministic": True}, {"kv_cache": False}, {"attention": "flash"},
        {"tool_format": "hermes"}, {"thinking": "on"},
    ):  # fmt: skip
        assert of(**change) != mine, change
    for name in ("backend", "dtype", "kv_dtype"):
        assert of(msgspec.structs.replace(INFO, **{name: "x"})) != mine
    copy.write_bytes(b"other eyes")
    assert of(eyes=copy) != mine
    assert fingerprint(settings, INFO, files, None) != mine


def test_an_answer_that_no_longer_fits_is_refused_with_both_sizes() -> None:
    from rbee_worker.errors import InvalidRequest
    from rbee_worker.params import Rules
    from rbee_worker.session.prepare import prepare_again

    live = LiveRequest(Request(id="a"), "1/a", plain(), TEXT)
    started = live.started(INFO)
    rules = Rules(context=1000, vocab_size=257)
    assert prepare_again(Request(id="a"), started, TEXT, rules).resolved == started.sampling
    smaller = Rules(context=999, vocab_size=257)
    with pytest.raises(InvalidRequest, match="the context is now 999 tokens"):
        prepare_again(Request(id="a"), started, TEXT, smaller)
