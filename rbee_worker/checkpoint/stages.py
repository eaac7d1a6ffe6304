"""MetaVoice's files: the first stage, which is the model, and what lies beside it.

The authors publish pickles; candle's conversion (lmz/candle-metavoice) is what is read here: one
directory with `first_stage.safetensors` (or a `.gguf` file of the same tensors, without metadata),
`first_stage.meta.json` with the tokenizer, and, as far as they exist, the second stage, the speaker
encoder and one speaker's embedding. Those are read by the text side (`rbee_worker/speech`). No file
of it says how wide a head is: 128 columns, as in the authors' code, unless there is a config.json.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.formats import TensorSource
from rbee_worker.checkpoint.reading import inside
from rbee_worker.checkpoint.safetensors import SafetensorsFile, SafetensorsSource
from rbee_worker.errors import CheckpointError

ARCH = "metavoice"
FIRST = "first_stage.safetensors"
CODES = 1024  # of one EnCodec codebook
END_OF_AUDIO = 2 * CODES  # the first stage's tokens of two codebooks come before it
# What the authors' programs draw with, where no generation_config.json says otherwise.
GENERATION: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95}

_HEAD = 128  # columns
_MARKS = ("speaker_cond_pos.weight", "tok_embeddings.weight", "pos_embeddings.weight")
_UP, _QKV = "layers.0.feed_forward.swiglu.w1.weight", "layers.0.attention.wqkv.weight"


def is_first(names: Iterable[str]) -> bool:
    """Whether tensors of these names are those of a first stage."""
    return set(_MARKS) <= set(names)


def is_directory(path: Path) -> bool:
    """Whether a model directory has a first stage."""
    return (path / FIRST).is_file()


def open_first(path: Path) -> SafetensorsSource:
    """The first stage's tensors of a directory. Raises CheckpointError."""
    return SafetensorsSource([SafetensorsFile.open(inside(path, path / FIRST))])


def read_shapes(source: TensorSource, where: str) -> dict[str, Any]:
    """The config that the shapes of a first stage's tensors imply, of heads of 128 columns. Raises
    CheckpointError."""
    names = set(source.names())
    missing = [name for name in (*_MARKS, _UP, _QKV) if name not in names]
    if missing:
        raise CheckpointError(
            f"{where}: the first stage lacks the tensor {missing[0]!r}.", fix="download it again"
        )
    shapes = {name: source.info(name).shape for name in (*_MARKS, _UP, _QKV)}
    if any(len(shape) != 2 for shape in shapes.values()) or shapes[_UP][1] % _HEAD:
        raise CheckpointError(
            f"{where}: the first stage's tensors have other shapes than MetaVoice's.",
            fix="put a config.json beside it that says num_attention_heads",
        )
    rows, width = shapes["tok_embeddings.weight"]
    heads = width // _HEAD
    layers = {name.split(".")[1] for name in names if name.startswith("layers.")}
    return {
        "model_type": ARCH,
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": shapes[_UP][0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads,
        "num_key_value_heads": max((shapes[_QKV][0] // _HEAD - heads) // 2, 1),
        "max_position_embeddings": shapes["pos_embeddings.weight"][0],
        "speaker_embedding_size": shapes["speaker_cond_pos.weight"][1],
    }
