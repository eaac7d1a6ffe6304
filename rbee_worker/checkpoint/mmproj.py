"""The tower of a GGUF model, which llama.cpp keeps in a file of its own (`mmproj`, its `clip`).

Such a file is found beside the model, or named by --mmproj. It is known by its content: the kind of
projector and the width of its rows say which models it belongs to. Its keys become the config's
`vision_config`, its tensors get the names that Hugging Face's files of the whole model have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rbee_worker.checkpoint.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import Packed, TensorInfo, TensorSource
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.gguf_split import open_gguf
from rbee_worker.checkpoint.mapped import GgufSource, read_keys
from rbee_worker.checkpoint.names.architecture import Key, Row
from rbee_worker.checkpoint.names.rows import rows
from rbee_worker.checkpoint.processor import of_tower
from rbee_worker.errors import CheckpointError, UsageError, WorkerError

NONE = "none"  # --mmproj: no tower, whatever is there
_ARCHITECTURE, _PREFIX = "clip", "clip.vision."
_KEYS = (
    Key("embedding_length", "hidden_size", "count", required=True),
    Key("feed_forward_length", "intermediate_size", "count", required=True),
    Key("block_count", "num_hidden_layers", "count", required=True),
    Key("attention.head_count", "num_attention_heads", "count", required=True),
    Key("attention.layer_norm_epsilon", "layer_norm_eps", "number", required=True),
    Key("image_size", "image_size", "count", required=True),
    Key("patch_size", "patch_size", "count", required=True),
)
_WIDTH = Key("projection_dim", "width", "count", required=True)


@dataclass(frozen=True)
class _Projector:
    """texts: model_type of the text model -> that of the whole. vision: where its tensors are;
    others: rows of the connector; merge: the edge of a square of patches, if the file says none;
    key: the config key that says how many tokens a picture becomes; idle: how many of the last
    blocks llama.cpp leaves out; lacks: a tensor that only other towers with such a projector have.
    """

    texts: Mapping[str, str]
    vision: str
    others: tuple[Row, ...]
    merge: int
    key: str = ""
    idle: int = 0
    lacks: str = ""


_PROJECTORS: Mapping[str, _Projector] = {
    "idefics3": _Projector(
        {"llama": "idefics3"},
        "vision_model",
        rows("mm.model.fc", "connector.modality_projection.proj", "weight"),
        2,
        "scale_factor",
    ),
    "gemma3": _Projector(
        {"gemma3_text": "gemma3_text"},
        "vision_tower",
        (
            Row("mm.input_projection.weight", "multi_modal_projector.mm_input_projection_weight"),
            Row(
                "mm.soft_emb_norm.weight",
                "multi_modal_projector.mm_soft_emb_norm.weight",
                "sub_one",
            ),
        ),
        4,
        "mm_tokens_per_image",
    ),
    "mlp": _Projector(  # LLaVA's: its layers give the rows before the last block
        {"phi": "moondream1"},
        "vision_tower",
        (*rows("mm.0", "projection.mlp.fc1"), *rows("mm.2", "projection.mlp.fc2")),
        1,
        idle=1,
        lacks="v.class_embd",
    ),
}


def with_tower(model: Checkpoint, given: str) -> Checkpoint:
    """`model`, a GGUF file's, with the tower of the file `given`, or else of the one that is beside
    it. given: a path, "" or "none". Raises CheckpointError, UsageError."""
    if given == NONE:
        return model
    if model.gguf is None:
        if not given:
            return model
        raise UsageError(
            f"--mmproj is for GGUF files; {model.path} has its tower among its own tensors.",
            fix="drop --mmproj.",
        )
    if given:
        file = _opened(Path(given))
        why = _misfit(file, model)
        if why:
            raise CheckpointError(
                f"{file.path}: {why}.", fix="give the mmproj file that was made with the model."
            )
        return _joined(model, file)
    fitting = _beside(model)
    if len(fitting) == 1:
        return _joined(model, fitting[0])
    if fitting:
        names = ", ".join(file.path.name for file in fitting)
        note = f"pictures are not read: {names} beside the model all fit; choose one with --mmproj"
        return replace(model, notes=(*model.notes, note))
    return model


def _beside(model: Checkpoint) -> list[GgufFile]:
    """The files beside a model that belong to it."""
    found = []
    for path in sorted(model.path.parent.glob("*mmproj*.gguf")):
        try:
            file = _opened(path)
        except WorkerError:
            continue  # a damaged file, or of another kind, is no reason not to serve the model
        if not _misfit(file, model):
            found.append(file)
    return found


def _opened(path: Path) -> GgufFile:
    if not path.is_file():
        raise UsageError(f"--mmproj {path} is not a file.", fix="give the path of a .gguf file.")
    return open_gguf(path)


def _misfit(file: GgufFile, model: Checkpoint) -> str:
    """Why a file is not the tower of a model; "" if it is."""
    found = file.metadata.get("general.architecture")
    if found != _ARCHITECTURE:
        return f"is no mmproj file; its architecture is {str(found)[:40]!r}"
    kind = _kind(file)
    projector = _PROJECTORS.get(kind)
    if projector is None:
        known = ", ".join(_PROJECTORS)
        return f"has a projector of the kind {kind[:40]!r}; those of {known} are supported"
    if projector.lacks in file.tensors:
        return f"is a tower of another family: it has a tensor {projector.lacks}"
    if model.arch not in projector.texts:
        return f"its projector {kind!r} does not belong to a model of the kind {model.arch!r}"
    width = read_keys(file, (_WIDTH,), _PREFIX)["width"]
    if width != model.config.get("hidden_size"):
        return f"makes rows of {width} columns, the model has {model.config.get('hidden_size')}"
    return ""


def _kind(file: GgufFile) -> str:
    """The projector's kind, under its newer or its older key."""
    for name in ("clip.vision.projector_type", "clip.projector_type"):
        if name in file.metadata:
            return str(file.metadata[name])
    return ""


def _joined(model: Checkpoint, file: GgufFile) -> Checkpoint:
    projector = _PROJECTORS[_kind(file)]
    vision = read_keys(file, _KEYS, _PREFIX)
    vision["hidden_act"] = _activation(file)
    for _ in range(projector.idle):
        vision["num_hidden_layers"] -= 1
        file = _without(file, f"v.blk.{vision['num_hidden_layers']}.")
    key = f"{_PREFIX}projector.scale_factor"
    merge = file.metadata.get(key, projector.merge)
    if type(merge) is not int or not 0 < merge < 1 << 15 or not vision["patch_size"]:
        raise CheckpointError(f"{file.path}: {key} is {str(merge)[:40]!r}.", fix="fetch it again.")
    config: dict[str, Any] = model.config | {
        "vision_config": vision,
        "image_mean": file.metadata.get("clip.vision.image_mean"),
        "image_std": file.metadata.get("clip.vision.image_std"),
    }
    arch = projector.texts[model.arch]
    across = vision["image_size"] // vision["patch_size"] // merge
    counts = {"scale_factor": merge, "mm_tokens_per_image": across * across}
    config |= {"model_type": arch} | {k: n for k, n in counts.items() if k == projector.key}
    source = _Both(model.source, GgufSource(file, _rows(projector, file), vision))
    note = f"pictures are read with {file.path.name}"
    longest = file.metadata.get("clip.vision.preproc_image_size")
    return replace(
        model,
        arch=arch,
        config=config,
        source=source,
        notes=(*model.notes, note),
        tower=file.path,
        processor=of_tower(_kind(file), vision["image_size"], across * across, longest),
    )


def _without(file: GgufFile, start: str) -> GgufFile:
    """The file without the tensors whose names begin so."""
    kept = {name: at for name, at in file.tensors.items() if not name.startswith(start)}
    return replace(file, tensors=kept)


def _activation(file: GgufFile) -> str:
    """llama.cpp's flags; without one, a sigmoid stands for the normal distribution."""
    if file.metadata.get("clip.use_gelu"):
        return "gelu_pytorch_tanh"
    return "silu" if file.metadata.get("clip.use_silu") else "quick_gelu"


def _rows(projector: _Projector, file: GgufFile) -> tuple[Row, ...]:
    at = projector.vision
    layer = f"{at}.encoder.layers.{{}}"
    up, down = "ffn_up", "ffn_down"
    first = file.tensors.get("v.blk.0.ffn_up.weight")
    if first is not None and first.shape[0] < first.shape[-1]:
        up, down = down, up  # files of early converters have them the other way round
    return (
        *rows("v.patch_embd", f"{at}.embeddings.patch_embedding"),
        *rows("v.position_embd", f"{at}.embeddings.position_embedding", "weight"),
        *rows("v.post_ln", f"{at}.post_layernorm"),
        *rows("v.blk.{}.ln1", f"{layer}.layer_norm1"),
        *rows("v.blk.{}.ln2", f"{layer}.layer_norm2"),
        *rows("v.blk.{}.attn_q", f"{layer}.self_attn.q_proj"),
        *rows("v.blk.{}.attn_k", f"{layer}.self_attn.k_proj"),
        *rows("v.blk.{}.attn_v", f"{layer}.self_attn.v_proj"),
        *rows("v.blk.{}.attn_out", f"{layer}.self_attn.out_proj"),
        *rows(f"v.blk.{{}}.{up}", f"{layer}.mlp.fc1"),
        *rows(f"v.blk.{{}}.{down}", f"{layer}.mlp.fc2"),
        *projector.others,
    )


class _Both:
    """The tensors of a model and of its tower, whose names differ."""

    def __init__(self, model: TensorSource, tower: TensorSource) -> None:
        self._parts = model, tower
        self._of = {name: part for part in self._parts for name in part.names()}

    def names(self) -> list[str]:
        """Of both."""
        return list(self._of)

    def info(self, name: str) -> TensorInfo:
        """See `TensorSource`."""
        return self._of[name].info(name)

    def read(self, name: str) -> Packed:
        """See `TensorSource`."""
        return self._of[name].read(name)

    def release(self) -> None:
        """See `TensorSource.release`."""
        for part in self._parts:
            part.release()
