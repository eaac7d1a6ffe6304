"""The text model within a checkpoint of one that reads pictures."""

from __future__ import annotations

import dataclasses

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.other_names import OtherNames
from rbee_worker.models import architecture, given_keys
from rbee_worker.models.config import read_config

_TEXT = ("model.", "lm_head.")  # where a text model's tensors are
_SIGHT = (  # keys of towers, and of what stands behind them
    *("vision_config", "image_mean", "image_std", "scale_factor", "mm_tokens_per_image"),
    *("image_token_id", "architectures"),
)


def text_half(ckpt: Checkpoint) -> Checkpoint:
    """A checkpoint of a model that reads pictures as that of its text model."""
    row = architecture(ckpt.arch, where=str(ckpt.path))
    if row.text or "vision_config" in ckpt.config:
        where = {name: name for name in ckpt.source.names() if name.startswith(_TEXT)}
        ckpt = dataclasses.replace(ckpt, source=OtherNames(ckpt.source, where))
    if not row.text:
        return ckpt
    # with values for the keys that a file of the whole may leave out
    config, _ = read_config(row.config, given_keys(ckpt, row.config), where=str(ckpt.path))
    kept = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)} | ckpt.config
    kept = {k: v for k, v in kept.items() if k not in _SIGHT} | {"model_type": row.text}
    return dataclasses.replace(ckpt, arch=row.text, config=kept)
