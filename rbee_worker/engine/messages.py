"""What crosses between `EngineClient` and the engine: ids and numbers, never text.

Every message is a tagged `msgspec.Struct`; the link encodes lists of them with msgpack, so one
write carries everything a step produced.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs

from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.config import Settings
from rbee_worker.constraints.words import Words
from rbee_worker.model_info import AdapterInfo, ModelInfo
from rbee_worker.pictures import Picture
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.types import EosToken, Pool, SamplingParams, TokenLogprob

# ---- client -> engine


class Configure(Struct, frozen=True, kw_only=True, tag="configure"):
    """The first message: what to load and how."""

    settings: Settings


class Submit(Struct, frozen=True, kw_only=True, tag="submit"):
    """Start a sequence, or go on with one (`output_ids` not empty) after a restart."""

    seq: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    output_ids: tuple[int, ...] = ()
    choice: int = 0
    eos: tuple[EosToken, ...] = ()  # ids that end this model's answers; ignored with ignore_eos
    exempt_ids: tuple[int, ...] = ()  # never touched by the repetition penalty
    prompt_logprobs: bool = False
    pool: Pool | None = None  # a vector is wanted, not tokens: `params` say nothing
    second: int = 0  # the first position of the second of two texts; 0: there is one
    adapter: str = ""  # the key of the adapter that it uses (`AdapterInfo`)
    drafted: int = 0  # of `output_ids`: see `Usage`
    accepted: int = 0
    counted: bool = False  # an engine has begun with it before: `Stats` have its prompt already
    grammar: str = ""  # what the answer's text must be (constraints/grammar.py); `Words` come first
    pictures: tuple[Picture, ...] = ()  # in the order of their places in `prompt_ids`
    voice: bytes = b""  # a speaker's embedding: float32, little-endian; of a model that speaks
    guidance: float = 1.0  # how closely it is followed (lanes.py)


class Cancel(Struct, frozen=True, kw_only=True, tag="cancel"):
    """End a sequence now: by a person, a time limit, or a stop string found in its text."""

    seq: str
    rule: Literal["CANCELLED", "TIMEOUT", "STOP_SEQUENCE"] = "CANCELLED"


class LoadAdapter(Struct, frozen=True, kw_only=True, tag="load_adapter"):
    """Load an adapter from a local path; `AdapterLoaded` or `AdapterRefused` answers it."""

    spec: AdapterSpec


class UnloadAdapter(Struct, frozen=True, kw_only=True, tag="unload_adapter"):
    """Free what `AdapterLoaded` named; no sequence may use it any more. Nothing answers it."""

    key: str


class Shutdown(Struct, frozen=True, kw_only=True, tag="shutdown"):
    """Leave the loop and the process."""


class Ping(Struct, frozen=True, kw_only=True, tag="ping"):
    """Are you there? Answered with `Pong` at once, also in the middle of a step."""


Command = Configure | Words | Submit | Cancel | LoadAdapter | UnloadAdapter | Shutdown | Ping

# ---- engine -> client


class Loading(Struct, frozen=True, kw_only=True, tag="loading"):
    stage: str  # "opening", "loading", "compiling", "warming"
    item: str = ""  # what was last done: a kernel, compiling
    layers_loaded: int = 0
    layers_total: int = 0
    bytes_loaded: int = 0
    bytes_total: int = 0


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    info: ModelInfo


class LoadFailed(Struct, frozen=True, kw_only=True, tag="load_failed"):
    code: str
    message: str
    exit_code: int
    of_draft: bool = False  # see `WorkerError`


class Scheduled(Struct, frozen=True, kw_only=True, tag="scheduled"):
    """A sequence left the queue: `cached` of its `tokens` tokens need no computing."""

    seq: str
    tokens: int
    cached: int
    waited_ms: float


class Preempted(Struct, frozen=True, kw_only=True, tag="preempted"):
    seq: str
    tokens: int  # tokens to compute again


class Rescaled(Struct, frozen=True, kw_only=True, tag="rescaled"):
    """Past a length the model has other rotary frequencies: its keys are computed again."""

    seq: str
    tokens: int  # tokens to compute again
    past: int  # the length


class Tokens(Struct, frozen=True, kw_only=True, tag="tokens"):
    """New output ids of one sequence in the order they were drawn.

    drafted, accepted: how many of the sequence's tokens were up to here (`Usage`).
    """

    seq: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    drafted: int = 0
    accepted: int = 0


class PromptScores(Struct, frozen=True, kw_only=True, tag="prompt_scores"):
    """Scores of the prompt's tokens from place `start` on, of as many as a step computed."""

    seq: str
    start: int
    logprobs: tuple[TokenLogprob | None, ...]


class Pooled(Struct, frozen=True, kw_only=True, tag="pooled"):
    """The vector of a sequence with a `pool`: float32, little-endian. `Finished` follows."""

    seq: str
    data: bytes


class AdapterLoaded(Struct, frozen=True, kw_only=True, tag="adapter_loaded"):
    info: AdapterInfo


class AdapterRefused(Struct, frozen=True, kw_only=True, tag="adapter_refused"):
    """An adapter could not be loaded; `message` is complete."""

    name: str
    code: str
    message: str


class Finished(Struct, frozen=True, kw_only=True, tag="finished"):
    """The last message of a sequence; `stop` has no text, the client adds it."""

    seq: str
    stop: StopRecord
    usage: Usage
    error: str | None = None  # with rule ERROR
    code: str | None = None  # with rule ERROR: VRAM_OOM or INFERENCE_FAILED


class Stats(Struct, frozen=True, kw_only=True, tag="stats"):
    """Gauges and counters since start; sent at most every 0.25 s while there is work."""

    waiting: int
    running: int
    kv_used_blocks: int  # held by live sequences
    kv_cached_blocks: int  # free to reuse, still holding a known prefix
    kv_total_blocks: int
    tokens_in: int
    tokens_out: int
    cached_tokens: int
    preemptions: int
    steps: int
    step_ms: float  # the last step
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    busy_s: float = 0.0  # time in steps
    utilisation: float = 0.0  # share of the time since the last report that was in steps
    floor_share: float = 0.0  # of decoding steps since then: how much of their time reading takes
    device_used_bytes: int = 0  # of a GPU's memory, by anybody; 0: there is no GPU
    device_own_bytes: int = 0  # by this worker
    device_total_bytes: int = 0

    def after(self, earlier: Stats | None) -> Stats:
        """These figures, with the counters of the engines before this one added."""
        if earlier is None:
            return self
        added = {name: getattr(self, name) + getattr(earlier, name) for name in COUNTERS}
        return structs.replace(self, **added)


COUNTERS = (
    "tokens_in",
    "tokens_out",
    "cached_tokens",
    "preemptions",
    "steps",
    "busy_s",
    "drafted_tokens",
    "accepted_tokens",
)  # of `Stats`: they never fall


class StepTimes(Struct, frozen=True, kw_only=True, tag="step_times"):
    """One step by the clock (microseconds, monotonic); sent with --trace only."""

    start_us: float
    us: float
    sampling_start_us: float
    sampling_us: float  # inside `us`
    sequences: int
    prompt_tokens: int  # of prompts, or of what is computed again
    prompts: int  # sequences that these belong to
    drawn: int


class DraftsEnded(Struct, frozen=True, kw_only=True, tag="drafts_ended"):
    """What makes drafts has failed: this engine drafts nothing any more."""

    why: str


class Pong(Struct, frozen=True, kw_only=True, tag="pong"):
    """The engine's process runs."""

    step_s: float  # how long it has been in its step; 0.0 between steps


Output = (
    Loading
    | Ready
    | LoadFailed
    | Scheduled
    | Preempted
    | Rescaled
    | Tokens
    | PromptScores
    | Pooled
    | AdapterLoaded
    | AdapterRefused
    | Finished
    | Stats
    | StepTimes
    | DraftsEnded
    | Pong
)
