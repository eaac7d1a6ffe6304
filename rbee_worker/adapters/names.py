"""What a model's linear maps are called in adapters, and which rows they have there."""

from __future__ import annotations

from collections.abc import Iterator

from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.checkpoint.names import DIALECTS
from rbee_worker.checkpoint.renamed import RenamedSource

# Architectures whose linear maps have the same inputs, rows and factors in GGUF files as in Hugging
# Face's, once the row operations of the tables are undone. Others regroup rows or multiply
# constants into weights on conversion, so an adapter for one kind of file is wrong for the other.
SAME_MAPS = frozenset(
    (
        *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "smollm3"),
        *("granite", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2", "olmo3"),
        *("stablelm", "starcoder2", "cohere", "exaone4", "arcee", "seed_oss", "nemotron"),
        *("idefics3", "moondream1"),  # files of Llama and of Phi with a tower beside them
    )
)


# Parts of names that transformers gives modules of models whose files have others.
_OTHERWISE = (("model.layers.", "backbone.layers."), (".mlp.gate", ".block_sparse_moe.gate"))


def modules_of(name: str, arch: str, layers: object) -> tuple[str, ...]:
    """The names under which a module of a PEFT adapter may be known here, likeliest first.

    name: of the module in transformers; arch: the base's `model_type`; layers: its number of
    layers, for dialects that count on.
    """
    return tuple(dict.fromkeys(_candidates(name, arch, layers)))


def _candidates(name: str, arch: str, layers: object) -> Iterator[str]:
    yield name
    for dialect in DIALECTS.values():
        if dialect.model_type == arch and (dialect.tensors or dialect.prefixes):
            renamed = RenamedSource(_One(f"{name}.weight"), dialect, layers).names()[0]
            yield renamed.removesuffix(".weight")
    for theirs, files in _OTHERWISE:
        yield name.replace(theirs, files)
    yield f"model.{name}"  # trained on the model without its head


class _One:
    """A source that only has a name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def names(self) -> list[str]:
        return [self._name]

    def info(self, name: str) -> TensorInfo:
        raise KeyError(name)

    def read(self, name: str) -> Packed:
        raise KeyError(name)

    def release(self) -> None:
        """Nothing to release."""
