"""What a worker says of itself: its state, its model, what that is for, and the adapters."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from rbee_worker.types import PoolingRule

# restarting: the engine's process was lost, another one loads. stalled: it does not answer.
WorkerState = Literal["loading", "ready", "restarting", "stalled", "draining", "failed"]

# What ended an engine. killed: SIGKILL from outside. memory: the same, where the system has killed
# for memory. crashed: another signal. stopped: its process was stopped (SIGSTOP) until its time was
# over. step: a step that took too long. silent: it did not answer, and was not stopped. failed: all
# else, as an engine that cannot load the model again.
Loss = Literal["killed", "memory", "crashed", "stopped", "step", "silent", "failed"]

Speculation = Literal["off", "ngram", "draft", "mtp"]  # how tokens are drafted

Task = Literal["generate", "embed", "classify"]


class Pooling(Struct, frozen=True, kw_only=True):
    """How a model's rows become one vector, and the file that says so. prompt: whether those of
    what is put before a text count too. dense: maps that the vector then goes through, before it is
    normalised: how many numbers it has after each."""

    how: PoolingRule
    normalize: bool = False
    origin: str = "default"
    prompt: bool = True
    dense: tuple[int, ...] = ()


ScoreActivation = Literal["none", "sigmoid", "softmax"]
# How alike two vectors are: the cosine of their angle, their product, or minus their distance.
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


class PairScore(Struct, frozen=True, kw_only=True):
    """How well two texts go together, as a number, and what says that it is made so.

    by: "vectors": how alike their vectors are; "classes": both are read together, and it is that of
    the class at the place `label`; "yes-no": the model reads both in a question, and it is how much
    likelier its answer is the token ids[0] than ids[1], or the first one's own score if there is no
    second. template: what makes one text of the two: the chat template ("chat"), that of a GGUF
    file for rerankers ("gguf"), that of Qwen3-Reranker's model card ("model card"); "": nothing.
    instructed: whether requests may say with an instruction what is looked for.
    """

    by: Literal["vectors", "classes", "yes-no"]
    origin: str
    template: Literal["", "chat", "gguf", "model card"] = ""
    label: int = 0
    ids: tuple[int, ...] = ()
    activation: ScoreActivation = "none"
    instructed: bool = False


class Purpose(Struct, frozen=True, kw_only=True):
    """What a model is for. A model that generates gives vectors too: by default the last row's,
    which has seen all of the text.

    labels: of a classifier, by the place of their score; activation: what makes probabilities of
    its scores. encodes: an encoder reads the prompt, so it has no scores, and there are no vectors.
    pictures: prompts may have pictures. speaks: its tokens are sound, for /v1/audio/speech, and
    there are no vectors. pairs: how two texts are scored, None: they are not.
    """

    task: Task = "generate"
    pooling: Pooling = Pooling(how="last", normalize=True)
    labels: tuple[str, ...] = ()
    activation: ScoreActivation = "none"
    encodes: bool = False
    pictures: bool = False
    speaks: bool = False
    pairs: PairScore | None = None


class AdapterInfo(Struct, frozen=True, kw_only=True):
    """A loaded adapter. name: in requests; ref: as the user wrote it; key: a digest of what it
    computes, under which the engine knows it; base: the model that it says it was trained on."""

    name: str
    ref: str
    key: str
    scale: float
    rank: int
    nbytes: int  # in memory
    base: str = ""


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The engine's description of itself, once it can serve."""

    model: str  # the reference that the user gave
    arch: str
    device: str  # "cpu", "cuda:0"
    backend: str  # "reference", "cpu", "cuda"
    dtype: str
    kv_dtype: str
    context: int  # longest sequence, tokens
    vocab_size: int  # rows of the output head: ids are 0 .. vocab_size-1
    kv_tokens: int  # tokens that the pool holds
    block_size: int
    weight_bytes: int  # in memory
    kv_bytes: int
    n_layers: int
    n_parameters: int
    speculate: Speculation = "off"
    draft_model: str = ""  # the reference of the model that drafts
    draft_bytes: int = 0  # of its weights in memory
    purpose: Purpose = Purpose()
    dimensions: int = 0  # numbers of a vector of its rows
    load_s: dict[str, float] = {}  # phase -> seconds
    notes: tuple[str, ...] = ()  # warnings for the user
    adapters: tuple[AdapterInfo, ...] = ()  # those of --lora
    adapter_bytes: int = 0  # planned for all adapters that may be loaded together
