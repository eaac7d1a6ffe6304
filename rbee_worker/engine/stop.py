"""Stop rules on ids: EOS union, stop ids, max_tokens, end of the context. One record each.

Text stop strings are the client's task (session/stop_strings.py). An EOS or stop id cannot be drawn
before `min_tokens`: the sampler bans it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbee_worker.sequence_end import StopRecord
from rbee_worker.types import EosToken, SamplingParams


class StopRules:
    """What ends one sequence, prepared once. context: the longest sequence, including the
    prompt."""

    def __init__(
        self, params: SamplingParams, eos: Sequence[EosToken], *, prompt: int, context: int
    ) -> None:
        self.max_tokens = params.max_tokens
        self.min_tokens = params.min_tokens
        self.room = context - prompt  # output tokens that fit in the context
        self.stop_ids = frozenset(params.stop_token_ids)
        self.eos: dict[int, str] = {}
        if not params.ignore_eos:
            self.eos = {e.id: ", ".join(e.origins) for e in eos}

    def check(self, token_id: int, n_output: int) -> StopRecord | None:
        """The record if the sequence ends with this id as its n_output-th token (1 = the first).

        An id that is both EOS and a stop id counts as EOS.
        """
        if n_output > self.min_tokens:
            if token_id in self.eos:
                return StopRecord(
                    rule="EOS", at=n_output, token_id=token_id, origin=self.eos[token_id]
                )
            if token_id in self.stop_ids:
                return StopRecord(
                    rule="STOP_SEQUENCE", at=n_output, token_id=token_id, origin="request"
                )
        return self.length(n_output)

    def ends(self, token_id: int) -> bool:
        """Whether this id ends the sequence, at least after min_tokens."""
        return token_id in self.eos or token_id in self.stop_ids

    def length(self, n_output: int) -> StopRecord | None:
        """The record if the sequence may have no more than its n_output tokens."""
        if n_output >= self.max_tokens:
            return StopRecord(rule="MAX_TOKENS", at=n_output)
        if n_output >= self.room:
            return StopRecord(rule="CONTEXT_FULL", at=n_output, origin="context")
        return None
