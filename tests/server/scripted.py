"""The real client side of the engine (tokenizer, detokenizer, stop strings, link) around an engine
that answers with given ids: each request gets what a script says. An end token or
max_tokens ends it; a request that comes again with some output goes on as `resumed` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbee_worker.config import Settings
from rbee_worker.engine.messages import Cancel, Finished, Loading, Output, Scheduled, Submit, Tokens
from rbee_worker.model_info import ModelInfo, Purpose
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.session.client import EngineClient
from rbee_worker.session.text import TextSide


class ScriptedEngine:
    """Speaks like `Engine`; each step gives every live sequence its next `burst` ids."""

    def __init__(
        self,
        script: Callable[[Submit], list[int]],
        burst: int,
        resumed: Callable[[Submit], list[int]] | None = None,
    ) -> None:
        self._script = script
        self._resumed = resumed
        self._burst = burst
        self._live: dict[str, tuple[Submit, list[int], int]] = {}
        self._out: list[Output] = []

    @property
    def idle(self) -> bool:
        return not self._live and not self._out

    def learn(self, vocabulary: Any) -> None:
        """A constraint's vocabulary: scripted answers are not held to anything."""

    def submit(self, m: Submit) -> None:
        ids = self._script(m)
        if m.output_ids and self._resumed is not None:
            ids = [*m.output_ids, *self._resumed(m)]
        self._live[m.seq] = (m, ids[: m.params.max_tokens], len(m.output_ids))
        n = len(m.prompt_ids)
        self._out.append(Scheduled(seq=m.seq, tokens=n, cached=0, waited_ms=0.0))

    def cancel(self, m: Cancel) -> None:
        if m.seq in self._live:
            submit, _, at = self._live.pop(m.seq)
            self._finish(submit, m.rule, at)

    def step(self) -> list[Output]:
        for seq, (m, ids, at) in list(self._live.items()):
            new = tuple(ids[at : at + self._burst])
            if new:
                self._out.append(Tokens(seq=seq, ids=new))
                self._live[seq] = (m, ids, at + len(new))
            if at + len(new) == len(ids):
                del self._live[seq]
                ended = ids and ids[-1] in {e.id for e in m.eos}
                self._finish(m, "EOS" if ended else "MAX_TOKENS", len(ids))
        out, self._out = self._out, []
        return out

    def _finish(self, m: Submit, rule: Any, n: int) -> None:
        usage = Usage(prompt_tokens=len(m.prompt_ids), cached_tokens=0, output_tokens=n)
        self._out.append(Finished(seq=m.seq, stop=StopRecord(rule=rule, at=n), usage=usage))


def scripted_start(
    script: Callable[[Submit], list[int]],
    text: Callable[[], TextSide],
    *,
    burst: int = 1,
    resumed: Callable[[Submit], list[int]] | None = None,
    pictures: bool = False,
) -> Any:
    """A `StartEngine` whose engine answers a request with `script(its message)`. pictures: whether
    it takes any."""

    async def start(settings: Settings, *, on_loading: Callable[[Loading], None]) -> EngineClient:
        def load(_: Settings, report: Any) -> Any:
            engine = ScriptedEngine(script, burst, resumed)
            info = ModelInfo(
                model="scripted",
                arch="scripted",
                device="cpu",
                backend="reference",
                dtype="f32",
                kv_dtype="f32",
                context=1 << 20,
                vocab_size=1 << 20,
                kv_tokens=1 << 20,
                block_size=16,
                weight_bytes=0,
                kv_bytes=0,
                n_layers=0,
                n_parameters=0,
                purpose=Purpose(pictures=pictures),
            )
            return engine, info

        return await EngineClient.start(
            settings, in_process=True, on_loading=on_loading, load=load, text=text
        )

    return start


def text_of_checkpoint(path: Path) -> TextSide:
    """The text side of a checkpoint on disk."""
    from rbee_worker.checkpoint import open_checkpoint
    from rbee_worker.session.text import open_text

    return open_text(open_checkpoint(str(path)))
