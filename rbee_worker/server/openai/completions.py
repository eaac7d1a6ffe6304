"""POST /v1/completions: several prompts, `n`, `echo`, `logprobs`; streamed or not."""

from __future__ import annotations

import asyncio

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.errors import FieldError
from rbee_worker.params import prompt_faults
from rbee_worker.server.body import envelope, read_object
from rbee_worker.server.given_texts import prompts_of, several
from rbee_worker.server.health import worker_of
from rbee_worker.server.jobs import Job
from rbee_worker.server.openai.schemas import (
    Completion,
    CompletionChoice,
    CompletionEnvelope,
    CompletionLogprobs,
    Rbee,
    TokenUsage,
)
from rbee_worker.server.openai.shared import FINISH, Exchange, Pieces, respond
from rbee_worker.server.requests import (
    fan_out_faults,
    new_id,
    refuse_envelope,
    stream_faults,
    time_limit,
)
from rbee_worker.server.served_models import served_model
from rbee_worker.session.text import TextStream
from rbee_worker.types import End, Event, PromptLogprobs, Request, Token, TokenLogprob

MAX_PROMPTS = 256


async def completions(http: HttpRequest) -> ASGIApp:
    """The endpoint of the route."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.generating()
    given, params, faults = envelope(body, CompletionEnvelope)
    model = served_model(worker, given.model).name
    if given.best_of is not None and given.best_of != given.n:
        message = f"must equal n ({given.n}): ranking more answers than are returned is not done"
        faults.append(FieldError("best_of", "= n", message, given.best_of))
    faults += stream_faults(given.stream, given.stream_options)
    prompts = prompts_of("prompt", given.prompt, MAX_PROMPTS, faults)
    faults += fan_out_faults(worker, len(prompts), given.n)
    answer_id = new_id("cmpl")
    each = [
        Request(
            id=f"{answer_id}-{index * given.n}",
            prompt=prompt if isinstance(prompt, str) else None,
            token_ids=None if isinstance(prompt, str) else prompt,
            params=params,
            surface="completions",
            timeout_s=time_limit(worker, given.timeout_s),
            add_special_tokens=given.add_special_tokens,
        )
        for index, prompt in enumerate(prompts)
    ]
    if several(given.prompt):  # a single prompt is checked together with its parameters
        for index, request in enumerate(each):
            rules = worker.serving().rules
            faults += prompt_faults(request, rules, name=f"prompt[{index}]")
            await asyncio.sleep(0)
    sound = Request(id=answer_id, prompt="?", params=params, surface="completions")
    refuse_envelope(worker, faults, each[0] if len(each) == 1 else sound)
    requests = [
        replace(request, id=f"{answer_id}-{index * given.n + choice}", choice=choice)
        for index, request in enumerate(each)
        for choice in range(given.n)
    ]
    jobs = await worker.submit(requests, keep=False)
    exchange = Exchange(worker, answer_id, model, jobs)
    return await respond(
        http,
        worker,
        exchange,
        prompts=len(prompts),
        stream=given.stream,
        options=given.stream_options,
        chunks=lambda usage: CompletionChunks(exchange, usage),
        whole=lambda: _whole(exchange, len(prompts)),
    )


class Places:
    """Where the tokens of a text begin in it, one after another from character `start` on. That is
    a function of the tokens alone, however events cut them."""

    def __init__(self, stream: TextStream, start: int = 0) -> None:
        self._stream = stream
        self._characters = start

    def next(self, token_id: int) -> int:
        """The place of the next token."""
        place = self._characters
        self._characters += len(self._stream.push(token_id))
        return place


class Scores:
    """The `logprobs` of one choice, and the position in its text where each token begins."""

    def __init__(self, pieces: Pieces, job: Job) -> None:
        assert job.started is not None
        self._pieces = pieces
        self._skips = job.started.sampling.params.skip_special_tokens
        self._shown = 0  # characters of the text so far
        self._places: Places | None = None
        self._prompt = 0  # its tokens that are scored
        self._hidden = 0  # tokens that open the prompt and are not in its text
        self._prompt_places: Places | None = None

    def of(
        self,
        text: str,
        ids: tuple[int, ...],
        entries: tuple[TokenLogprob, ...] | None,
        *,
        last: bool = False,
    ) -> CompletionLogprobs | None:
        """Scores of the tokens `ids` that make `text`; None if they were not requested. last:
        nothing follows, so tokens of a stop string begin where the text ends."""
        if entries is None:
            return None
        if self._places is None:
            self._places = Places(self._pieces.stream(skip_special=self._skips), self._shown)
        self._shown += len(text)
        offsets = [self._places.next(token_id) for token_id in ids]
        return self._rows(ids, entries, [min(o, self._shown) for o in offsets] if last else offsets)

    def of_prompt(
        self, prompt: Token, entries: tuple[TokenLogprob | None, ...]
    ) -> tuple[str, CompletionLogprobs]:
        """The text to show with scores of the prompt's next tokens: all of it with the first of
        them; and the scores."""
        start, self._prompt = self._prompt, self._prompt + len(entries)
        if self._prompt_places is None:
            self._prompt_places = Places(self._pieces.stream(skip_special=False))
            self._hidden = self._pieces.opened_by(prompt.ids, prompt.t)
        offsets = [
            min(self._prompt_places.next(token_id), len(prompt.t)) if at >= self._hidden else 0
            for at, token_id in enumerate(prompt.ids[start : self._prompt], start)
        ]
        rows = self._rows(prompt.ids[start : self._prompt], entries, offsets)
        if start:
            return "", rows
        self._shown = len(prompt.t)
        return prompt.t, rows

    def _rows(
        self,
        ids: tuple[int, ...],
        entries: tuple[TokenLogprob | None, ...],
        offsets: list[int],
    ) -> CompletionLogprobs:
        rows = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for token_id, entry, offset in zip(ids, entries, offsets, strict=True):
            name = self._pieces.name
            rows.tokens.append(name(token_id))
            rows.token_logprobs.append(None if entry is None else entry.logprob)
            rows.top_logprobs.append(
                None if entry is None else {name(i): p for i, p in reversed(entry.top)}
            )
            rows.text_offset.append(offset)
        return rows


class CompletionChunks:
    """The streamed form."""

    def __init__(self, exchange: Exchange, usage: bool) -> None:
        self._exchange = exchange
        self._usage: UnsetType | None = None if usage else UNSET
        self._scores = [Scores(exchange.pieces, job) for job in exchange.jobs]

    def chunks(self, choice: int, event: Event) -> list[Completion]:
        scores = self._scores[choice]
        if type(event) is Token:
            if event.i < 0 and self._exchange.wants_logprobs(choice):
                return []  # the prompt comes later, with its scores
            found = scores.of(event.t, event.ids, event.logprobs)
            return [self._chunk(choice, event.t, found)]
        if type(event) is End:
            found = scores.of(event.text, event.ids, event.logprobs, last=True)
            finish = FINISH.get(event.stop.rule, "stop")
            return [self._chunk(choice, event.text, found, finish, self._exchange.rbee(choice))]
        if type(event) is PromptLogprobs:
            echo = self._exchange.jobs[choice].log.events[1]
            assert isinstance(echo, Token)
            text, rows = scores.of_prompt(echo, event.logprobs)
            return [self._chunk(choice, text, rows)]
        return []

    def usage_chunk(self, usage: TokenUsage) -> Completion:
        exchange = self._exchange
        return Completion(
            id=exchange.id,
            created=exchange.created,
            model=exchange.model,
            system_fingerprint=exchange.fingerprint,
            choices=[],
            usage=usage,
        )

    def _chunk(
        self,
        choice: int,
        text: str,
        scores: CompletionLogprobs | None,
        finish: str | None = None,
        rbee: Rbee | UnsetType = UNSET,
    ) -> Completion:
        exchange = self._exchange
        row = CompletionChoice(
            index=choice, text=text, logprobs=scores, finish_reason=finish, rbee=rbee
        )
        return Completion(
            id=exchange.id,
            created=exchange.created,
            model=exchange.model,
            system_fingerprint=exchange.fingerprint,
            choices=[row],
            usage=self._usage,
        )


def _whole(exchange: Exchange, prompts: int) -> Completion:
    """The form that is not streamed: the chunks of each choice, joined."""
    chunks = CompletionChunks(exchange, usage=False)
    choices = []
    for index, job in enumerate(exchange.jobs):
        rows = [c.choices[0] for event in job.log.events for c in chunks.chunks(index, event)]
        scored = [row.logprobs for row in rows if row.logprobs is not None]
        logprobs = None
        if scored:
            logprobs = CompletionLogprobs(
                tokens=[x for s in scored for x in s.tokens],
                token_logprobs=[x for s in scored for x in s.token_logprobs],
                top_logprobs=[x for s in scored for x in s.top_logprobs],
                text_offset=[x for s in scored for x in s.text_offset],
            )
        choices.append(
            CompletionChoice(
                index=index,
                text="".join(row.text for row in rows),
                logprobs=logprobs,
                finish_reason=rows[-1].finish_reason,
                rbee=exchange.rbee(index),
            )
        )
    return Completion(
        id=exchange.id,
        created=exchange.created,
        model=exchange.model,
        system_fingerprint=exchange.fingerprint,
        choices=choices,
        usage=exchange.usage(prompts),
    )
