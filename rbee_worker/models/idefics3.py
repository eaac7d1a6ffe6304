"""Idefics3 and SmolVLM: Llama with a SigLIP tower; squares of patches become one token each.

model_type: idefics3 (Laurençon et al. 2024), smolvlm (Marafioti et al. 2025, the same). A picture
is cut into tiles; the numbers of scale_factor ** 2 patches side by side are one input of a linear
map, whose result stands in the place of a token's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rbee_worker.models import parts, prenorm, siglip
from rbee_worker.models.base import Decoder
from rbee_worker.models.tower import Tower
from rbee_worker.models.weights import Weights

_UNSEEN = {r"(vision_model|connector)\..*": siglip.UNSEEN}


@dataclass(frozen=True, kw_only=True)
class Vision(siglip.Vision):
    """Idefics3's own defaults."""

    hidden_size: int = 1152
    num_attention_heads: int = 16
    patch_size: int = 32


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """Llama's keys, and those of the tower. image_mean, image_std: of the pre-processor."""

    attention_bias: bool = False
    mlp_bias: bool = False
    vision_config: dict[str, Any] | None = None
    scale_factor: int = 2
    image_token_id: int | None = 128257
    image_mean: list[float] | None = None
    image_std: list[float] | None = None


def build(c: Config, w: Weights) -> Decoder:
    """idefics3 and smolvlm. Raises CheckpointError, UnsupportedModel."""
    tower, notes = _tower(c, w) if w.ops.sees else (None, ())
    model = prenorm.build(
        c,
        w,
        lambda at, layer: parts.gated_mlp(at.sub("mlp"), c, bias=c.mlp_bias),
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        tower=tower,
        skip=None if w.ops.sees else _UNSEEN,
    )
    return replace(model, notes=model.notes + notes)


def _tower(c: Config, w: Weights) -> tuple[Tower, tuple[str, ...]]:
    vision, notes = siglip.read_vision(Vision, c.vision_config or {})
    siglip.check_squares(vision, c.scale_factor)
    columns = vision.hidden_size * c.scale_factor**2
    proj = w.beside("connector").linear("modality_projection.proj", columns, c.hidden_size)
    tower = siglip.tower(
        w.beside("vision_model"),
        vision,
        proj,
        merge=c.scale_factor,
        width=c.hidden_size,
        mean=siglip.colours(c.image_mean, "image_mean"),
        std=siglip.colours(c.image_std, "image_std"),
    )
    return tower, notes
