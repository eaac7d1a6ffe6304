"""A model in this Python process: `rbee_worker.load`. For notebooks, scripts and research.

    import rbee_worker

    with rbee_worker.load("smollm2") as model:
        print(model.chat("What is the capital of France?"))

The engine is the worker's own. It computes in this process, one step at a time while somebody reads
tokens: no server, no second process, no Python threads. The tokens are those that `generate` and
`serve` give for the same request.
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbee_worker.adapters import localized
from rbee_worker.checkpoint import open_found
from rbee_worker.checkpoint.refs import resolve
from rbee_worker.config import OPTIONS, SERVE, Settings, joined, parse
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Cancel, DraftsEnded, Finished, Output, Pooled, Tokens
from rbee_worker.engine.prompt_logits import prompt_logits
from rbee_worker.errors import NotReady, UsageError
from rbee_worker.loading.load import load_engine
from rbee_worker.model_info import ModelInfo
from rbee_worker.params import split_options
from rbee_worker.pictures.files import picture_file
from rbee_worker.session.answer import Answer, gathered, texts, vector
from rbee_worker.session.drafts import without_drafts
from rbee_worker.session.live_request import LiveRequest
from rbee_worker.session.pair_texts import described
from rbee_worker.session.pictures import settled
from rbee_worker.session.prepare import prepare, rules_of
from rbee_worker.session.text import TextSide, open_text
from rbee_worker.session.vectors import check_purpose, embedding
from rbee_worker.tokenizer.core import Tokenizer
from rbee_worker.types import End, Error, Event, Request

Message = Mapping[str, Any]  # {"role": "user", "content": "..."}
Image = str | os.PathLike[str] | bytes  # a path, or the bytes of a PNG, JPEG or WebP file


def load(model: str = "smollm2", **options: Any) -> Model:
    """Load a model: an alias, a directory, a `.gguf` file, `hf:owner/name` or `pypi:package`.

    options: those of the command line, e.g. `backend="reference"`, `ctx=4096`, `threads=4`, and
    `lora={"name": "path"}` for adapters;
    an option that is not given takes its environment variable (RBEE_...). Downloads the model if it
    is not on this machine. Raises UsageError and subclasses of ModelError, each with a fix.
    """
    settings = localized(_settings({"model": model, **options}))
    path = resolve(settings.model, cache_dir=settings.cache_dir)
    return Model(msgspec.structs.replace(settings, model=str(path)), settings.model)


class Model:
    """A loaded model. Use it from one thread at a time; close it, or use it in a `with` block."""

    def __init__(self, settings: Settings, name: str) -> None:
        """settings.model: a path; name: the model's name in answers."""
        self.settings = settings
        ckpt = open_found(name, Path(settings.model), settings.mmproj)
        self._text: TextSide = open_text(ckpt, settings)
        engine, info = load_engine(settings, lambda loading: None)
        self._engine: Engine | None = engine
        info = settled(msgspec.structs.replace(info, model=name), self._text)
        self.info: ModelInfo = described(info, self._text.pairs)
        self._rules = rules_of(self._text, self.info, settings)
        self._numbers = itertools.count(1)
        self._live: dict[str, LiveRequest] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back: `encode`, `decode`, `token_text`."""
        return self._text.tokenizer

    # ---- answers

    def generate(
        self, prompt: str | Sequence[int], *, images: Sequence[Image] = (), **params: Any
    ) -> Answer:
        """Continue a prompt: text, or token ids as they are. params: see docs/worker-api.md, e.g.
        `max_tokens=40, temperature=0, stop=["\\n"], seed=7, logprobs=3`; and `adapter="name"`, one
        of those that the model was loaded with. images: paths, or the bytes of files, in the order
        of the model's placeholders in the prompt (docs/pictures.md).

        Raises InvalidRequest listing every wrong parameter, UsageError for a file that cannot be
        read, InferenceFailed, OutOfMemory.
        """
        return gathered(self.events(self._shown(_request(prompt, params), images)))

    def stream(
        self, prompt: str | Sequence[int], *, images: Sequence[Image] = (), **params: Any
    ) -> Iterator[str]:
        """`generate`, piece by piece as text. Leaving the loop cancels the answer."""
        return texts(self.events(self._shown(_request(prompt, params), images)))

    def chat(
        self, messages: str | Sequence[Message], *, images: Sequence[Image] = (), **params: Any
    ) -> Answer:
        """The next message of a conversation, by the model's own chat template; a string is taken
        as one user message, which then shows the images. In other messages a part
        `{"type": "image"}` stands for each. params may also be tools, tool_choice,
        parallel_tool_calls, reasoning_effort and enable_thinking (docs/tools.md). Raises as
        `generate`."""
        return gathered(self.events(self._shown(_chat(messages, params, len(images)), images)))

    def chat_stream(
        self, messages: str | Sequence[Message], *, images: Sequence[Image] = (), **params: Any
    ) -> Iterator[str]:
        """`chat`, piece by piece."""
        return texts(self.events(self._shown(_chat(messages, params, len(images)), images)))

    def _shown(self, request: Request, images: Sequence[Image]) -> Request:
        """The request with its pictures."""
        most = self.settings.max_picture_kb << 10
        files = (picture_file(one, f"images[{n}]", most) for n, one in enumerate(images))
        return msgspec.structs.replace(request, pictures=tuple(files))

    def generate_all(self, prompts: Sequence[str | Sequence[int]], **params: Any) -> list[Answer]:
        """`generate` for several prompts computed together; the tokens are the same as one by
        one."""
        streams = [self._start(_request(prompt, params)) for prompt in prompts]
        return [gathered(self._events(one)) for one in streams]

    def embed(
        self,
        given: str | Sequence[str | Sequence[int]],
        *,
        prompt_name: str | None = None,
        dimensions: int = 0,
        truncate: bool = False,
        adapter: str = "",
    ) -> NDArray[np.float32]:
        """The vectors of texts (or of lists of ids), computed together: float32 [texts, numbers].
        One text alone gives one vector.

        prompt_name: which of the model's prompts is put before each text; "": none; None: the
        default. dimensions: keep the first numbers only; 0: all. truncate: cut texts that are too
        long. Raises InvalidRequest, WrongModel for a classifier.
        """
        several = [given] if isinstance(given, str) else given
        requests = [
            embedding(
                "",
                text if isinstance(text, str) else tuple(text),
                self.info,
                self._text.ckpt.sentence,
                prompt=prompt_name,
                dimensions=dimensions,
                truncate=truncate,
            )
            for text in several
        ]
        lives = [
            self._start(msgspec.structs.replace(request, adapter=adapter)) for request in requests
        ]
        rows = [vector(self._events(live)) for live in lives]
        return rows[0] if isinstance(given, str) else np.stack(rows)

    def events(self, request: Request) -> Iterator[Event]:
        """All events of a request, as in `generate --json` and the job API."""
        return self._events(self._start(request))

    # ---- numbers

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The model's logits after each of these tokens: float32 [len(ids), vocabulary].

        Raises UsageError for ids outside the vocabulary, or more than the context, and WrongModel
        for an encoder, which has none.
        """
        check_purpose(Request(id="", params={"echo": True, "logprobs": 0}), self.info)
        size, most = self.info.vocab_size, self.info.context
        wrong = [i for i in ids if not 0 <= i < size]
        if wrong or not 1 <= len(ids) <= most:
            what = f"id {wrong[0]}" if wrong else f"{len(ids)} ids"
            raise UsageError(f"logits: {what}.", fix=f"give 1..{most} ids, each below {size}.")
        return prompt_logits(self._running(), ids)

    # ---- life

    def close(self) -> None:
        """Free the memory. Safe to repeat."""
        self._engine = None
        self._live.clear()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        i = self.info
        return f"<{i.model}: {i.arch}, {i.n_parameters / 1e6:,.0f} M parameters, {i.backend}>"

    def _adapter(self, name: str) -> str:
        """The engine's key for an adapter, "" for none. Raises UsageError."""
        keys = {info.name: info.key for info in self.info.adapters}
        if name and name not in keys:
            known = ", ".join(keys) or "load(model, lora={name: path}) loads one"
            raise UsageError(f"there is no adapter {name[:64]!r}.", fix=f"known: {known}.")
        return keys.get(name, "")

    def _running(self) -> Engine:
        if self._engine is None:
            raise NotReady("closed", "This model was closed. Fix: load it again.")
        return self._engine

    def _start(self, request: Request) -> LiveRequest:
        engine, number = self._running(), str(next(self._numbers))
        check_purpose(request, self.info)
        key = self._adapter(request.adapter)
        prepared = replace(prepare(request, self._text, self._rules), adapter=key)
        live = LiveRequest(
            msgspec.structs.replace(request, id=request.id or number), number, prepared, self._text
        )
        self._live[number] = live
        if prepared.words is not None:
            engine.learn(prepared.words)
        engine.submit(live.submit())
        return live

    def _events(self, live: LiveRequest) -> Iterator[Event]:
        yield live.started(self.info)
        try:
            while True:
                event = live.events.take()
                if event is not None:
                    yield event
                    if isinstance(event, End | Error):
                        return
                elif live.seq in self._live:
                    self._step()
        finally:
            if self._live.pop(live.seq, None) is not None and self._engine is not None:
                self._engine.cancel(Cancel(seq=live.seq, rule="CANCELLED"))

    def _step(self) -> None:
        """One step of the engine; each live request gets its own messages."""
        engine = self._running()
        outputs: list[Output] = engine.step()
        for m in outputs:
            if isinstance(m, DraftsEnded):
                self.info = without_drafts(self.info, m.why)
                for each in self._live.values():
                    each.drafts_ended(m.why)
            live = self._live.get(getattr(m, "seq", ""))
            if live is None:
                continue
            if isinstance(m, Tokens):
                after = live.tokens(m)
                if after == "stop":
                    engine.cancel(Cancel(seq=live.seq, rule="STOP_SEQUENCE"))
                elif after == "start over":
                    engine.cancel(Cancel(seq=live.seq))
                    del self._live[live.seq]
                    submit = live.renamed(str(next(self._numbers)))
                    self._live[live.seq] = live
                    engine.submit(submit)
            elif isinstance(m, Finished):
                live.finished(m)
            elif isinstance(m, Pooled):
                live.pooled(m)
            else:
                live.news(m)  # type: ignore[arg-type]


def _request(prompt: str | Sequence[int], given: Mapping[str, Any]) -> Request:
    params = dict(given)
    adapter = params.pop("adapter", None) or ""
    if isinstance(prompt, str):
        return Request(id="", prompt=prompt, params=params, adapter=adapter)
    return Request(id="", token_ids=tuple(prompt), params=params, adapter=adapter)


def _chat(messages: str | Sequence[Message], params: Mapping[str, Any], pictures: int) -> Request:
    """pictures: that a string alone shows."""
    said: Sequence[Message] = () if isinstance(messages, str) else messages
    if isinstance(messages, str):
        parts = [*[{"type": "image"}] * pictures, {"type": "text", "text": messages}]
        said = [{"role": "user", "content": parts if pictures else messages}]
    chat, rest = split_options({k: v for k, v in params.items() if k != "adapter"})
    adapter = params.get("adapter") or ""
    talk = tuple(dict(m) for m in said)
    return Request(id="", messages=talk, params=rest, chat=chat, adapter=adapter)


def _settings(options: Mapping[str, Any]) -> Settings:
    """Raises UsageError for an option that is unknown, or has no effect without a server."""
    known = [o.field for o in OPTIONS if o.group != SERVE]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
            raise UsageError(f"load: there is no option {name!r}.", fix=hint)
    words = {k: v if isinstance(v, bool) else _text(v) for k, v in options.items()}
    return parse(words, os.environ)


def _text(value: Any) -> str:
    """An option as the command line has it; adapters may be given by name."""
    if isinstance(value, Mapping):
        value = [f"{name}={ref}" for name, ref in value.items()]
    return joined(value) or "" if isinstance(value, list | tuple) else str(value)
