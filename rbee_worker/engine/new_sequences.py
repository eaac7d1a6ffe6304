"""`NewSequences`: makes the `Sequence` of a `Submit`, and says which ones cannot be computed."""

from __future__ import annotations

from msgspec import structs

from rbee_worker.engine.adapters import Adapters
from rbee_worker.engine.drafting import Maker
from rbee_worker.engine.guesses import Guesses
from rbee_worker.engine.lookup import Drafter
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.engine.rounds import Rounds
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.stop import StopRules
from rbee_worker.engine.tiles import tile_runs
from rbee_worker.state.features import TileRun
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import in_one_step


class NewSequences:
    """What all sequences of an engine have in common when they begin: see `Engine`."""

    def __init__(
        self,
        pool: StatePool,
        *,
        context: int,
        kv_cache: bool,
        ropes: RopeLengths,
        adapters: Adapters | None,
        start: int | None,
    ) -> None:
        self._pool = pool
        self._context = context
        self._kv_cache = kv_cache
        self.ropes = ropes
        self._adapters = adapters
        self._start = start

    def sequence(self, m: Submit, arrival: int, arrived_s: float, maker: Maker) -> Sequence:
        """A new sequence, for which nothing is planned yet. An encoder reads the prompt of a model
        that has one; its tokens are then the model's first one and the answer. maker: of its
        drafts."""
        source, context = None, self._context
        if self._start is not None:
            source, m = m.prompt_ids, structs.replace(m, prompt_ids=(self._start,))
            context += 1 - len(source)  # of the decoder, whose first token is no answer
        prompt = len(m.prompt_ids)
        tokens = [*m.prompt_ids, *m.output_ids]
        rope_len = self.ropes.of(prompt, len(tokens))
        limit = min(prompt + m.params.max_tokens, context)
        runs, fault = self._runs(m)
        if m.pool is not None:
            limit = prompt + 1  # its last token is computed too
        elif runs and runs[-1].end == prompt:
            limit = max(limit, prompt + 1)
        return Sequence(
            submit=m,
            tokens=tokens,
            source=source,
            limit=limit,
            drafter=self._drafter(m, tokens, limit, maker),
            rules=StopRules(m.params, m.eos, prompt=prompt, context=context),
            state=self._pool.new(tokens, self.salt(m, rope_len), len(source or ()), runs),
            fault=fault,
            adapter=0 if self._adapters is None else self._adapters.slot(m.adapter),
            rope_len=rope_len,
            rope_end=self.ropes.end(len(tokens)),
            waits=not self._kv_cache or bool(m.grammar),
            whole=in_one_step(self._pool.groups),
            arrival=arrival,
            arrived_s=arrived_s,
            scores=[None] if m.prompt_logprobs else None,
        )

    def salt(self, m: Submit, rope_len: int) -> bytes:
        """What a sequence's state depends on besides its tokens."""
        return self.ropes.salt(rope_len) + m.adapter.encode() + m.voice

    def refusal(self, seq: Sequence) -> str:
        """Why a sequence cannot be computed; "" if it can."""
        if seq.adapter is None:
            return "its adapter is not loaded any more."
        if seq.fault:
            return seq.fault
        length = seq.read + seq.n_output
        if not seq.read or length > self._context:
            return f"{length} tokens, but 1 to {self._context} are possible"
        return ""

    def _runs(self, m: Submit) -> tuple[tuple[TileRun, ...], str]:
        """Where a request's pictures stand, or what is wrong with them."""
        if not m.pictures:
            return (), ""
        if self._pool.features is None:
            return (), "this model does not read pictures."
        try:
            return tile_runs(m.pictures, len(m.prompt_ids), self._pool.features.spec), ""
        except ValueError as error:
            return (), f"{error}."

    def _drafter(self, m: Submit, tokens: list[int], limit: int, maker: Maker) -> Rounds | None:
        """What follows a new sequence's drafts; None if it has none."""
        if maker == "nobody" or not m.params.speculation or m.pool is not None:
            return None
        if maker == "proposer":
            return Guesses(tokens, len(tokens), m.drafted, m.accepted)
        lookup = Drafter(tokens, len(m.prompt_ids), limit)
        lookup.follow(len(tokens))
        return lookup
