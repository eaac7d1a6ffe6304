"""An EngineClient without a model: same interface, same events, any speed. For tests and
benchmarks of the server.

The answer to a prompt is a fixed function of the prompt and the choice, so that two runs can be
compared; `Fake` says how fast it comes, how it is cut, and what goes wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from rbee_worker.checkpoint.sentence import Sentence
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading, Stats
from rbee_worker.errors import NotReady, QueueFull, WorkerError
from rbee_worker.model_info import AdapterInfo, Loss, ModelInfo, Purpose
from rbee_worker.observe import narration
from rbee_worker.params import Rules, check_request, fit
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.session.prepare import encoded, rendered
from rbee_worker.session.speech import read_aloud, settled
from rbee_worker.session.vectors import check_purpose
from rbee_worker.speech.side import SpeechSide
from rbee_worker.tokenizer.core import QUICK_CHARS
from rbee_worker.tokenizer.messages import Form, checked
from rbee_worker.tokenizer.pieces import Decoding
from rbee_worker.tokenizer.stream import Detokenizer
from rbee_worker.types import (
    End,
    EosToken,
    Event,
    Metrics,
    PromptLogprobs,
    Request,
    Resolved,
    SamplingParams,
    Started,
    Token,
    TokenLogprob,
    Vector,
)
from tests.server.fake_adapters import FakeAdapters

SPECIALS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
VOCAB = 256 + len(SPECIALS)
DIMENSIONS = 8
EOS = EosToken(id=259, text="<|im_end|>", origins=("config.json", "chat template"))
WORDS = ("alpha", "bêta", "gamma", "δ", "epsilon", "zeta", "日本", "theta", "iota", "🙂", "kappa")


class ByteTokenizer:
    """256 bytes and four special tokens."""

    vocab_size = VOCAB
    special_ids = frozenset(range(256, VOCAB))
    bos_id = None
    warnings: tuple[str, ...] = ()
    chat_template = "chatml"
    decoding = Decoding()

    def joined_bytes(self, token_id: int) -> bytes:
        return self.token_bytes(token_id) or SPECIALS[token_id - 256].encode()

    opening_bytes = joined_bytes

    def is_quick(self, text: str) -> bool:
        return len(text) <= QUICK_CHARS

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        kept = [i for i in ids if i < 256 or not skip_special]
        raw = b"".join(bytes([i]) if i < 256 else SPECIALS[i - 256].encode() for i in kept)
        return raw.decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def token_id(self, piece: str) -> int | None:
        return 256 + SPECIALS.index(piece) if piece in SPECIALS else None

    def token_text(self, token_id: int) -> str:
        return chr(token_id) if token_id < 256 else SPECIALS[token_id - 256]


class ChatMl:
    """The template of a well-known format."""

    def render(
        self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = True, **_: Any
    ) -> str:
        turns = [
            f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n"
            for m in (c.formed(Form()) for c in checked(messages))
        ]
        return "".join(turns) + ("<|im_start|>assistant\n" if add_generation_prompt else "")

    def unseen(self, messages: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        return ()

    def dropped(self, messages: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        pass


class Hold(Protocol):
    """What an answer waits for; a `threading.Event`, for example."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class HoldFile:
    """It is set once there is no such file: for a worker in another process."""

    path: str

    def is_set(self) -> bool:
        return not os.path.exists(self.path)


@dataclass
class Fake:
    """How the engine behaves. Times in seconds."""

    load_s: float = 0.0
    layers: int = 4
    load_error: WorkerError | None = None
    delay_s: float = 0.0  # before the first token
    token_s: float = 0.0  # between tokens
    chunk: int = 1  # tokens an event
    scored: int = 100  # prompt tokens whose log-probabilities come in one event
    slots: int = 64  # sequences at a time; more wait
    context: int = 4096
    narrate: bool = True
    notes: tuple[str, ...] = ()  # of the model
    fail_at: int | None = None  # token at which a request fails
    script: Callable[[Request], Sequence[int]] | None = None  # ids to answer with
    stamp: Callable[[str, int], None] | None = None  # called with (job, token) when a token exists
    hold: Hold | None = None  # an answer that has hold_at tokens waits until it is set
    hold_at: int = 1
    load_hold: Hold | None = None  # loading waits, after its first report, until it is set
    purpose: Purpose = field(default_factory=Purpose)
    sentence: Sentence = field(default_factory=Sentence)
    fingerprint: str = "of the fake"
    adapters: tuple[AdapterInfo, ...] = ()
    speech: SpeechSide | None = None


@dataclass
class _Live:
    rule: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeEngineClient:
    """`EngineClient` for tests. Make it with `starter(fake)`."""

    def __init__(
        self, settings: Settings, fake: Fake, on_loading: Callable[[Loading], None]
    ) -> None:
        self.settings = settings
        self.fake = fake
        self.state = "loading"
        self.info: ModelInfo | None = None
        self.stats: Stats | None = None
        self.restarts = 0
        self.losses: dict[Loss, int] = {}
        self.failure: WorkerError | None = None
        self.tokenizer = ByteTokenizer()
        self.chat = ChatMl()
        self.takes_tools = False
        self.ckpt = None
        self.sentence = fake.sentence
        self.pictures = None  # it takes none
        self.speech = fake.speech
        self.eos = (EOS,)
        self.loading = Loading(stage="starting")
        self._on_loading = on_loading
        self._slots = asyncio.Semaphore(fake.slots)
        self._live: dict[str, _Live] = {}
        self._waiting = 0
        self._loader = asyncio.create_task(self._load())
        self.seen: list[Any] = []  # what it was asked for: (request, resolved, prompt's ids)
        self.resumed: list[Request] = []  # what an earlier process began
        self.held = 0  # what a leak would leave above zero
        self.submitted = 0
        self.most_buffered = 0
        self.adapters = FakeAdapters(fake.adapters, self._uses)

    def stream(self, *, skip_special: bool) -> Detokenizer:
        return Detokenizer(self.tokenizer, skip_special=skip_special)  # type: ignore[arg-type]

    # ---- life

    async def _load(self) -> None:
        n = self.fake.layers
        for layer in range(n + 1):
            self.loading = Loading(
                stage="loading",
                layers_loaded=layer,
                layers_total=n,
                bytes_loaded=layer << 20,
                bytes_total=n << 20,
            )
            self._on_loading(self.loading)
            while self.fake.load_hold is not None and not self.fake.load_hold.is_set():
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.fake.load_s / (n + 1))
        if self.fake.load_error is not None:
            self.state, self.failure = "failed", self.fake.load_error
            return
        self.info = ModelInfo(
            model=self.settings.model,
            arch="fake",
            device="cpu",
            backend="reference",
            dtype="f32",
            kv_dtype="f32",
            context=self.fake.context,
            vocab_size=VOCAB,
            kv_tokens=1 << 16,
            block_size=16,
            weight_bytes=4 << 20,
            kv_bytes=1 << 20,
            n_layers=n,
            n_parameters=1_000_000,
            load_s={"total": self.fake.load_s},
            notes=self.fake.notes,
            purpose=self.fake.purpose,
            dimensions=DIMENSIONS,
        )
        self.state = "ready"
        self._count()

    async def ready(self) -> ModelInfo:
        await asyncio.shield(self._loader)
        if self.failure is not None:
            raise self.failure
        assert self.info is not None
        return self.info

    async def close(self) -> None:
        self._loader.cancel()
        for request_id in list(self._live):
            await self.cancel(request_id)

    def break_down(self, error: WorkerError) -> None:
        """The engine is lost for good."""
        self.failure, self.state = error, "failed"

    def _uses(self, adapter: str) -> bool:
        return any(r.adapter == adapter and r.id in self._live for r, _, _ in self.seen)

    # ---- work

    async def fingerprint(self) -> str:
        return self.fake.fingerprint

    async def generate(self, request: Request, after: Sequence[Event] = ()) -> AsyncIterator[Event]:
        if self.state != "ready":
            raise NotReady(self.state, "not ready")
        if not after and len(self._live) >= self.fake.slots + self.settings.max_queue:
            raise QueueFull(f"{len(self._live)} requests are running or waiting already.")
        assert self.info is not None
        check_purpose(request, self.info)
        if after:
            assert isinstance(after[0], Started)
            prompt_ids, resolved = list(after[0].prompt_ids), after[0].sampling
            self.resumed.append(request)
        else:
            prompt_ids, resolved = self._prepare(request)
        self.seen.append((request, resolved, prompt_ids))
        params = resolved.params
        live = self._live[request.id] = _Live()
        self.submitted += 1
        self.held += 1
        try:
            if not after:
                yield Started(
                    job_id=request.id,
                    model=self.settings.model,
                    started_at=datetime.now(UTC).isoformat(),
                    prompt_tokens=len(prompt_ids),
                    seed=params.seed,
                    sampling=resolved,
                    warnings=self.fake.notes,
                    prompt_ids=tuple(prompt_ids),
                )
            began = time.monotonic()
            if self._slots.locked():
                yield narration.queued(request.id, self._waiting)
            admitted = await self._enter(live, request.timeout_s)
            queued = time.monotonic() - began
            try:
                if not admitted:
                    rule = live.rule or "TIMEOUT"
                    yield self._end(rule, 0, len(prompt_ids), queued, 0.0)
                    return
                if self.fake.narrate:
                    yield narration.prompt_scheduled(request.id, len(prompt_ids), 0, queued * 1e3)
                answer = self._answer(request, live, prompt_ids, params, queued, after)
                async for event in answer:
                    yield event
            finally:
                if admitted:
                    self._slots.release()
        finally:
            del self._live[request.id]
            self.held -= 1
            self._count()

    def renderer(self, *, tools: bool) -> ChatMl:
        return self.chat

    @property
    def rules(self) -> Rules:
        return Rules(
            takes_tools=self.takes_tools,
            context=self.fake.context,
            vocab_size=VOCAB,
            characters_per_token=self.settings.max_prompt_ratio,
            template=self.tokenizer.chat_template,
            worker=self.settings.sampling,
            eos=self.eos,
            lenient=self.settings.lenient,
            pictures=self.fake.purpose.pictures,
        )

    def _prepare(self, request: Request) -> tuple[list[int], Any]:
        if request.pool is not None:
            if request.truncate and request.prompt is not None:  # as `prepare_vector` does
                beginning = request.prompt[: self.rules.most_characters]
                request = msgspec.structs.replace(request, prompt=beginning)
            ids = [*self._encode(request), *(request.pair or "").encode()]
            return ids, Resolved(params=SamplingParams(max_tokens=0), origins={})
        resolved = check_request(request, self.rules)
        ids = list(self._encode(request))
        resolved = settled(request, resolved, len(ids), self.speech)
        params = fit(resolved, len(ids), self.fake.context)
        return ids, msgspec.structs.replace(resolved, params=params)

    def _encode(self, request: Request) -> Sequence[int]:
        if request.token_ids is not None:
            return request.token_ids
        if request.messages is not None:
            special = request.add_special_tokens or False
            return encoded(self.tokenizer, rendered(request, self.chat, self.rules), special)[0]
        prompt = read_aloud(request.prompt or "", self.speech)
        return encoded(self.tokenizer, prompt, request.add_special_tokens)[0]

    async def _enter(self, live: _Live, timeout_s: float | None) -> bool:
        """Wait for a slot; False when the request ended first."""
        self._waiting += 1
        slot = asyncio.create_task(self._slots.acquire())
        cancelled = asyncio.create_task(live.changed.wait())
        try:
            done, _ = await asyncio.wait(
                {slot, cancelled}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            return (slot in done and live.rule is None) or self._give_back(slot)
        finally:
            self._waiting -= 1
            slot.cancel()
            cancelled.cancel()

    def _give_back(self, slot: asyncio.Task[Any]) -> bool:
        if slot.done() and not slot.cancelled():
            self._slots.release()
        return False

    async def _answer(
        self,
        request: Request,
        live: _Live,
        prompt_ids: list[int],
        params: Any,
        queued: float,
        after: Sequence[Event],
    ) -> AsyncIterator[Event]:
        fake = self.fake
        began = time.monotonic()
        if request.pool is not None:
            await self._pause(live, fake.delay_s)
            if live.rule is None:
                yield Vector(data=self._vector(request, prompt_ids))
            yield self._end(live.rule or "VECTOR", 0, len(prompt_ids), queued, 0.0)
            return
        deadline = None if request.timeout_s is None else began + request.timeout_s - queued
        given = [e for e in after if isinstance(e, Token) and e.i >= 0]
        done = sum(len(e.ids) for e in given)
        if params.echo and params.logprobs is not None and not after:
            for start in range(0, len(prompt_ids), fake.scored):
                rows = [
                    self._logprob(i, params.logprobs) if start + k else None
                    for k, i in enumerate(prompt_ids[start : start + fake.scored])
                ]
                yield PromptLogprobs(logprobs=tuple(rows))
                await asyncio.sleep(0)
        if fake.delay_s:
            await self._pause(live, fake.delay_s)
        script = fake.script or answer_ids
        ids = list(script(request))[: params.max_tokens]
        first = time.monotonic()
        metered = first
        held: list[int] = []
        sent = done
        rule, matched, text_so_far = "MAX_TOKENS", None, "".join(e.t for e in given)
        if len(ids) < params.max_tokens:
            rule = "EOS"
        for at in range(done, len(ids), fake.chunk):
            if fake.fail_at is not None and at >= fake.fail_at:
                raise WorkerError("the fake failed as it was told")
            if live.rule is not None:
                rule = live.rule
                break
            if deadline is not None and time.monotonic() >= deadline:
                rule = "TIMEOUT"
                break
            new = ids[at : at + fake.chunk]
            held += new
            sent += len(new)
            if fake.stamp is not None:
                fake.stamp(request.id, at)
            text = self.tokenizer.decode(held, skip_special=params.skip_special_tokens)
            if not text.endswith("\ufffd"):
                stop = next((s for s in params.stop if s in text_so_far + text), None)
                if stop is not None:
                    cut = (text_so_far + text).index(stop)
                    text, rule, matched = (
                        (text_so_far + text)[len(text_so_far) : cut],
                        "STOP_SEQUENCE",
                        stop,
                    )
                scored = None
                if params.logprobs is not None:
                    scored = tuple(self._logprob(i, params.logprobs) for i in held)
                yield Token(t=text, i=sent - len(held), ids=tuple(held), logprobs=scored)
                held = []
                text_so_far += text
                if matched is not None:
                    break
            now = time.monotonic()
            if now - metered >= 1.0:
                metered = now
                yield Metrics(
                    tokens_per_sec=sent / (now - first), vram_bytes=5 << 20, kv_usage=0.25
                )
            await self._pause(live, fake.token_s)
            while fake.hold is not None and not fake.hold.is_set():
                if sent < fake.hold_at or live.rule is not None:
                    break
                await asyncio.sleep(0.005)
        text = self.tokenizer.decode(held) if held else ""
        yield self._end(
            rule, sent, len(prompt_ids), queued, time.monotonic() - began, matched, held, text
        )

    def _vector(self, request: Request, ids: Sequence[int]) -> bytes:
        """A function of the ids, of length 1 if asked for; of a head, one number a class."""
        assert request.pool is not None
        digest = hashlib.sha512(repr((list(ids), request.pair)).encode()).digest()
        size = len(self.fake.purpose.labels) if request.pool.head else DIMENSIONS
        values = [b / 64 - 2 for b in digest[: request.pool.dimensions or size]]
        length = math.hypot(*values) if request.pool.normalize else 1.0
        return struct.pack(f"<{len(values)}f", *(v / length for v in values))

    async def _pause(self, live: _Live, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
        elif live.rule is None:
            timer = asyncio.get_running_loop().call_later(seconds, live.changed.set)
            await live.changed.wait()
            timer.cancel()
            live.changed.clear()

    def _end(
        self,
        rule: str,
        out: int,
        prompt: int,
        queued: float,
        spent: float,
        matched: str | None = None,
        held: Sequence[int] = (),
        text: str = "",
    ) -> End:
        stop = StopRecord(rule=rule, at=out, sequence=matched)  # type: ignore[arg-type]
        if rule == "EOS":
            stop = StopRecord(
                rule="EOS", at=out, token_id=EOS.id, token_text=EOS.text, origin="config.json"
            )
        return End(
            stop=stop,
            usage=Usage(
                prompt_tokens=prompt,
                cached_tokens=0,
                output_tokens=out,
                queue_ms=queued * 1e3,
                prefill_ms=1.0,
                decode_ms=spent * 1e3,
            ),
            ids=tuple(held),
            text=text,
        )

    def _logprob(self, token_id: int, k: int) -> TokenLogprob:
        top = tuple(((token_id + j) % VOCAB, -0.5 - j) for j in range(k))
        return TokenLogprob(id=token_id, logprob=-0.5, top=top)

    async def cancel(self, request_id: str, rule: str = "CANCELLED") -> None:
        live = self._live.get(request_id)
        if live is not None and live.rule is None:
            live.rule = rule
            live.changed.set()

    def _count(self) -> None:
        self.stats = Stats(
            waiting=self._waiting,
            running=len(self._live) - self._waiting,
            kv_used_blocks=self.held,
            kv_cached_blocks=0,
            kv_total_blocks=4096,
            tokens_in=0,
            tokens_out=0,
            cached_tokens=0,
            preemptions=0,
            steps=0,
            step_ms=0.1,
        )


def prompt_ids(request: Request) -> list[int]:
    """The prompt's ids, whatever its form."""
    if request.token_ids is not None:
        return list(request.token_ids)
    if request.messages is not None:
        return ByteTokenizer().encode(rendered(request, ChatMl(), Rules(context=1, vocab_size=1)))
    return ByteTokenizer().encode(request.prompt or "")


def answer_ids(request: Request) -> list[int]:
    """64 words chosen by a hash of the prompt's ids and the choice, as bytes."""
    key = repr((prompt_ids(request), request.choice)).encode()
    digest = hashlib.sha512(key).digest()
    return list(" ".join(WORDS[b % len(WORDS)] for b in digest).encode())


def starter(fake: Fake, made: list[FakeEngineClient] | None = None) -> Callable[..., Any]:
    """A `StartEngine` for `Worker.run`; the client it makes is appended to `made`."""

    async def start(
        settings: Settings, *, on_loading: Callable[[Loading], None]
    ) -> FakeEngineClient:
        client = FakeEngineClient(settings, fake, on_loading)
        if made is not None:
            made.append(client)
        return client

    return start
