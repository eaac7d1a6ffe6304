"""Moondream 1 and 2 as first published: Phi 1.5 with a SigLIP tower; each patch becomes one token.

model_type: moondream1 (Korrapati 2024), up to the revision 2024-04-02 of moondream2. Every picture
is one square of pixels, whose patches go through two linear maps with a GELU in between. Later
revisions have the same `model_type`: those up to 2024-08-26 join two views of a picture, those from
2025 are another model. Both are refused. The config has no sizes of the tower: they are in the
code of its authors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.mlp import PlainMLP
from rbee_worker.models import biased, siglip
from rbee_worker.models.base import Decoder
from rbee_worker.models.tower import Tower
from rbee_worker.models.weights import Weights

_UNSEEN = {r"(vision_tower|projection)\..*": siglip.UNSEEN}
_USE = "use the revision 2024-04-02 of vikhyatk/moondream2."


@dataclass(frozen=True, kw_only=True)
class Vision(siglip.Vision):
    """Moondream's own sizes."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 378
    patch_size: int = 14
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Config(biased.Config):
    """Phi's keys, with Moondream's own sizes, and those of the tower. image_mean, image_std: of the
    pre-processor."""

    vocab_size: int = 51200
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    hidden_act: str = "gelu_new"
    vision_config: dict[str, Any] | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None


def build(c: Config, w: Weights) -> Decoder:
    """moondream1. Raises CheckpointError, UnsupportedModel."""
    if not w.has("model.embed_tokens.weight") and w.has("model.text.wte"):
        raise UnsupportedModel(
            "this is a Moondream of 2025, another model under the same name.", fix=_USE
        )
    tower, notes = _tower(c, w) if w.ops.sees else (None, ())
    model = biased.build_phi(c, w, skip=None if w.ops.sees else _UNSEEN, tower=tower)
    return replace(model, notes=model.notes + notes)


def _tower(c: Config, w: Weights) -> tuple[Tower, tuple[str, ...]]:
    vision, notes = siglip.read_vision(Vision, c.vision_config or {})
    siglip.check_squares(vision, 1)
    dim, inner = vision.hidden_size, 4 * c.hidden_size
    at = w.beside("projection.mlp")
    if at.shape_of("fc1.weight") == (inner, 2 * dim):
        raise UnsupportedModel(
            "this Moondream joins two views of each picture, which is not supported.", fix=_USE
        )
    connector = PlainMLP(
        ops=w.ops,
        up=at.linear("fc1", dim, inner, bias=True),
        down=at.linear("fc2", inner, c.hidden_size, bias=True),
        act="gelu_tanh",
    )
    tower = siglip.tower(
        w.beside("vision_tower"),
        vision,
        connector,
        merge=1,
        width=c.hidden_size,
        mean=siglip.colours(c.image_mean, "image_mean"),
        std=siglip.colours(c.image_std, "image_std"),
    )
    return tower, notes
